"""`torch.export` programs of simulations. AOTInductor is tested with the C++ programs, too."""

from __future__ import annotations

import pytest
import torch

from aimet_torch.export import export_compiled, export_program
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.export.test_torchscript import assert_equal, simulation
from tests.python.models import FIXTURES, call_model, image


@pytest.mark.parametrize("name", ["ReusedModules", "NestedInputs", "Starred"])
def test_program_computes_what_the_simulation_computes(name, tmp_path) -> None:
    sim, make = simulation(name), FIXTURES[name].inputs
    sim.export_program(tmp_path / "sim.pt2", make(1))
    loaded = torch.export.load(tmp_path / "sim.pt2").module()
    with torch.no_grad():
        for batch in (1, 5):
            assert_equal(call_model(loaded, make(batch)), call_model(sim.model, make(batch)))


def test_results_that_files_do_not_hold_become_tuples(tmp_path) -> None:
    sim, make = simulation("DataclassOutput"), FIXTURES["DataclassOutput"].inputs
    sim.export_program(tmp_path / "sim.pt2", make(2), dynamic_shapes=None)
    result = call_model(torch.export.load(tmp_path / "sim.pt2").module(), make(2))
    assert type(result) in (tuple, torch.Tensor)
    with torch.no_grad():
        assert_equal(result, call_model(sim.model, make(2)))


def test_errors_name_what_is_wrong_and_keep_the_file(tmp_path, capfd) -> None:
    sim, file = simulation("ReusedModules"), tmp_path / "sim.pt2"
    file.write_text("the file before")
    with pytest.raises(ValueError, match=r"export_program: .*`x` is float32\[2, 4, 8, 8\]"):
        sim.export_program(file, image(2, channels=4))
    with pytest.raises(ValueError, match='`dynamic_shapes` must be "batch", None'):
        sim.export_program(file, image(2), dynamic_shapes="all")
    with pytest.raises(ValueError, match=r"`f` must end in `\.pt2`"):
        export_compiled(sim, image(2), tmp_path / "sim.so")
    uncalibrated = QuantizationSimModel(FIXTURES["ReusedModules"].build(), image(2))
    with pytest.raises(ValueError, match=r"have no encoding yet: .*_quantizers"):
        export_program(uncalibrated, image(2), file)
    capfd.readouterr()
    with pytest.raises(NotImplementedError, match=r"Could not guard on data-dependent"):
        export_program(simulation("DataDependentPart"), image(2), file)
    assert not capfd.readouterr().out
    assert file.read_text() == "the file before"
    assert list(tmp_path.iterdir()) == [file]
