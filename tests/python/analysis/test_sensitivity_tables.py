"""Tables of scores: what they hold, how they are shown and kept."""

import math

import pytest
import torch

from aimet_torch.analysis import (
    Candidate,
    GroupScores,
    Precision,
    Sensitivity,
    SensitivityRow,
    Switchboard,
    candidate_setting,
    find_quantizer_groups,
    measure_groups,
)
from aimet_torch.common.defs import QuantizationDataType
from tests.python.analysis.networks import data, simulation

INT = QuantizationDataType.int
CANDIDATES = [((8, INT), (4, INT)), Candidate(Precision(4), Precision(8))]


def score(model):
    return model(data()[0]).square().mean().item()


def sensitivity():
    rows = [
        SensitivityRow(name, "param" in name, bits, loss / bits, 6.0 * bits, 0.25)
        for name, loss in (("a.output_quantizers.0", 1.0), ("b.param_quantizers.weight", 3.0))
        for bits in (4, 8)
    ]
    rows.append(SensitivityRow("c.param_quantizers.weight", True, 8, 0.0, math.inf))
    return Sensitivity(rows, "made up", 4, 0.5)


def test_precisions_and_candidates():
    assert Precision.of((16, QuantizationDataType.float)) == Precision(16, True)
    assert Precision.of("fp16").to_aimet() == (16, QuantizationDataType.float)
    assert str(Candidate.of(CANDIDATES[0])) == "W4A8"
    assert str(Candidate(Precision(16, True), None)) == "AFP16"
    with pytest.raises(ValueError, match="between 2 and 32, got 1"):
        Precision(1)
    with pytest.raises(ValueError, match="expected bits, a name such as 'int8'"):
        Precision.of("word")


def test_groups_are_measured_one_at_a_time():
    sim = simulation()
    board, groups = Switchboard(sim), find_quantizer_groups(sim)
    found = measure_groups(board, groups, CANDIDATES, score, measure="mean square")
    assert found.evaluations == len(found) == len(groups) * 2
    group = next(g for g in groups if g.name == "fc")
    setting = candidate_setting(group, Candidate.of(CANDIDATES[0]))
    with torch.no_grad(), board.at(board.only_at(setting)):
        assert found.as_dict()["fc", "W4A8"] == score(sim.model)
    assert "fc" in str(found)
    assert "W4A8" in str(found)
    assert "mean square" in str(found)


def test_other_quantizers_may_stay_on():
    sim = simulation()
    board, groups = Switchboard(sim), find_quantizer_groups(sim)
    found = measure_groups(board, groups[:1], [Candidate(Precision(4))], score, others={})
    with torch.no_grad(), board.at(dict.fromkeys(groups[0].activations, Precision(4))):
        assert found.rows[0].score == score(sim.model)


def test_results_come_back_from_their_files(tmp_path):
    board = Switchboard(simulation())
    groups = find_quantizer_groups(board.sim)[:2]
    found = measure_groups(board, groups, CANDIDATES, score)
    assert GroupScores.load_json(found.save_json(tmp_path / "groups.json")) == found
    whole = sensitivity()
    assert Sensitivity.load_json(whole.save_json(tmp_path / "sensitivity.json")) == whole


def test_losses_of_groups_add_up():
    table = sensitivity()
    setting = {"a.output_quantizers.0": Precision(4), "b.param_quantizers.weight": Precision(8)}
    assert table.of_setting(setting) == 1 / 4 + 3 / 8
    assert table.of_setting({"a.output_quantizers.0": None}) == 0
    assert table.loss("a.output_quantizers.0", Precision(16, True)) == 0
    assert [row.layer for row in table.ranking(8)] == ["b", "a", "c"]
    with pytest.raises(ValueError, match=r"bit widths that were measured \(4, 8\), got 5"):
        table.loss("a.output_quantizers.0", 5)


def test_a_table_for_people():
    lines = str(sensitivity()).splitlines()
    assert "loss, 4 bits" in lines[0] + lines[1]  # rich leaves a line empty
    assert "SQNR, 8 bits" in lines[0] + lines[1]
    assert any("output 0" in line and "24.0 dB" in line for line in lines)
    assert any("exact" in line for line in lines)
    assert lines[-1] == "loss: made up"
