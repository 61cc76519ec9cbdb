from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from aimet_torch.common.defs import CallbackFunc, QuantizationDataType
from aimet_torch.mixed_precision import (
    AMPSearchAlgo,
    EvalCallbackFactory,
    GreedyMixedPrecisionAlgo,
    choose_mixed_precision,
)
from aimet_torch.mixed_precision.search import find_last
from aimet_torch.quantsim import QuantizationSimModel

INT, FLOAT = QuantizationDataType.int, QuantizationDataType.float
W8A16, W8A8, W4A8 = (((16, INT), (8, INT)), ((8, INT), (8, INT)), ((8, INT), (4, INT)))
FP16 = ((16, FLOAT), (16, FLOAT))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.conv1(x))
        z = self.conv2(y) + y
        return self.fc(z.mean((2, 3)))


DATA = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(2))


def make(config_file: object = None) -> QuantizationSimModel:
    torch.manual_seed(4)
    sim = QuantizationSimModel(Net().eval(), DATA, config_file=config_file)
    sim.compute_encodings([DATA])
    return sim


class Counting:
    """SQNR of the outputs, and how often it was asked for."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.count = 0
        self.fails_after = fails_after
        with torch.no_grad():
            torch.manual_seed(4)
            self.expected = Net().eval()(DATA)

    def __call__(self, model: nn.Module) -> float:
        if self.count == self.fails_after:
            raise KeyboardInterrupt
        self.count += 1
        noise = (model(DATA) - self.expected).square().sum()
        return (10 * (self.expected.square().sum() / (noise + 1e-12)).log10()).item()


def calibrate(model: nn.Module, _: object = None) -> None:
    model(DATA)


def search(sim: QuantizationSimModel, folder: object, drop: float | None, **options: object):
    counts = options.pop("counts", None) or (Counting(), Counting())
    options = {"candidates": [W8A16, W8A8, W4A8], **options}
    return choose_mixed_precision(
        sim,
        DATA,
        options.pop("candidates"),
        *counts,
        drop,
        str(folder),
        options.pop("clean_start", False),
        CallbackFunc(calibrate),
        **options,
    )


def test_the_curve_falls_and_the_result_keeps_the_accuracy(tmp_path) -> None:
    sim = make()
    counts = (Counting(), Counting())
    fp32 = 10 * math.log10(float(counts[0].expected.square().sum()) / 1e-12)
    points = search(sim, tmp_path, None, counts=counts)
    shares = [point.relative_bit_ops for point in points]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(8 * 4 / (16 * 8))
    # Four groups: input + conv1, relu + conv2, mean + fc, and the outputs of conv2, the sum and fc.
    assert counts[0].count == 3 * 2 + 3 * 1
    assert points[0].eval_score > points[-1].eval_score

    drop = fp32 - 35.0
    sim = make()
    points = search(sim, tmp_path / "again", drop)
    assert Counting()(sim.model) >= 35.0 - 0.2  # steps of weights move by 1e-4 when calibrated
    found = {q.bitwidth for q in sim.quantizers()}
    assert len(found) > 1


def test_lists_and_pages_are_written(tmp_path) -> None:
    points = search(make(), tmp_path, None)
    assert {p.name for p in tmp_path.iterdir()} >= {
        "accuracy_list.json",
        "pareto_list.json",
        "amp_info_list.json",
        "pareto_curve.html",
    }
    listed = json.loads((tmp_path / "pareto_list.json").read_text())
    assert [entry[0] for entry in listed] == [point.relative_bit_ops for point in points]
    assert ["weight", "fc"] in [pair for entry in listed for pair in entry[2]]


def test_an_interrupted_run_goes_on(tmp_path) -> None:
    whole = search(make(), tmp_path / "whole", None)
    before = {name: q.bitwidth for name, q in make().named_quantizers()}
    sim = make()
    with pytest.raises(KeyboardInterrupt):
        search(sim, tmp_path / "part", None, counts=(Counting(fails_after=5), Counting()))
    assert {name: q.bitwidth for name, q in sim.named_quantizers()} == before
    counts = (Counting(), Counting())
    assert search(make(), tmp_path / "part", None, counts=counts) == whole
    assert counts[0].count == 9 - 5
    # Everything is there by now.
    counts = (Counting(), Counting())
    assert search(make(), tmp_path / "part", None, counts=counts) == whole
    assert counts[0].count == counts[1].count == 0
    counts = (Counting(), Counting())
    search(make(), tmp_path / "part", None, counts=counts, clean_start=True)
    assert counts[0].count == 9


def test_a_cache_that_does_not_fit_is_refused(tmp_path) -> None:
    search(make(), tmp_path, None)
    path = tmp_path / ".cache" / "evaluations.json"
    text = path.read_text()
    with pytest.raises(ValueError, match="another job: it differs in candidates, options"):
        search(make(), tmp_path, None, candidates=[W8A16, W8A8])
    for broken, message in (
        (text[:100], "damaged"),
        ("[]", "damaged"),
        (text.replace("version 1", "version 0"), "expected"),
    ):
        path.write_text(broken)
        with pytest.raises(ValueError, match=message) as caught:
            search(make(), tmp_path, None)
        assert "clean_start=True" in str(caught.value)
    search(make(), tmp_path, None, clean_start=True)
    (tmp_path / "aimet" / ".cache").mkdir(parents=True)
    (tmp_path / "aimet" / ".cache" / "accuracy_list.pkl").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"accuracy_list\.pkl of AIMET"):
        search(make(), tmp_path / "aimet", None)


def test_early_ends(tmp_path) -> None:
    sim = make()
    assert search(sim, tmp_path / "a", 0.0) is None
    assert {q.bitwidth for n, q in sim.named_quantizers() if "param" not in n} == {16}
    sim = make()
    assert search(sim, tmp_path / "b", 1e6) is None
    assert {q.bitwidth for n, q in sim.named_quantizers() if "param" in n} == {4}


def test_supported_kernels_limit_the_candidates(tmp_path) -> None:
    from tests.python.mixed_precision.test_configurator import KERNELS, config

    algo = GreedyMixedPrecisionAlgo(
        make(config(KERNELS)),
        DATA,
        [W8A16, W8A8, W4A8],
        Counting(),
        Counting(),
        tmp_path,
        True,
        calibrate,
    )
    algo.run(None)
    assert {str(c) for c in algo.choice.values()} <= {"W8A8", "A8"}
    with pytest.raises(ValueError, match="use_all_amp_candidates=True"):
        search(make(config(KERNELS)), tmp_path, None, candidates=[W4A8, FP16])
    points = search(
        make(config(KERNELS)),
        tmp_path,
        None,
        use_all_amp_candidates=True,
        clean_start=True,
    )
    assert any(point.candidate == W4A8 for point in points)


@pytest.mark.parametrize("algorithm", AMPSearchAlgo)
def test_every_search_and_both_directions_end_within_the_drop(tmp_path, algorithm) -> None:
    fp32 = 10 * math.log10(float(Counting().expected.square().sum()) / 1e-12)
    for reverse in (False, True):
        folder = tmp_path / str(reverse)
        sim = make()
        points = search(sim, folder, fp32 - 35.0, amp_search_algo=algorithm, phase2_reverse=reverse)
        assert points
        score = json.loads((folder / "amp_info_list.json").read_text())
        assert dict(score)["final score"] >= 35.0


def test_floating_point_candidates(tmp_path) -> None:
    sim = make()
    points = search(sim, tmp_path, None, candidates=[FP16, W8A8])
    assert points[-1].relative_bit_ops == pytest.approx(64 / (16 * 16 * 1.5))


def test_frozen_ranges_stay(tmp_path) -> None:
    sim = make()
    quantizer = sim.model.fc.param_quantizers["weight"]
    quantizer.allow_overwrite(False)
    limits = quantizer.min.clone()
    search(sim, tmp_path, None, candidates=[W8A16, W4A8])
    assert quantizer.bitwidth == 8
    assert torch.equal(quantizer.min, limits)


def test_two_level_blocks_keep_their_bits(tmp_path) -> None:
    from aimet_torch.quantsim.config_utils import set_grouped_blockwise_quantization_for_weights

    sim = make()
    layers = [sim.model.fc]
    set_grouped_blockwise_quantization_for_weights(sim, layers, 4, True, 8, 3)
    search(sim, tmp_path, None, candidates=[W8A16, W8A8])
    assert sim.model.fc.param_quantizers["weight"].bitwidth == 4
    assert sim.model.conv1.input_quantizers[0].bitwidth == 8


def test_sqnr_needs_no_labels() -> None:
    sim = make()
    evaluate = EvalCallbackFactory([DATA[:8], DATA[8:]]).sqnr(num_samples=16)
    fine = evaluate(sim.model)
    assert fine == pytest.approx(Counting()(sim.model), abs=0.01)
    for quantizer in sim.quantizers():
        quantizer.bitwidth = 5
    assert evaluate(sim.model) < fine - 10


def test_wrong_arguments_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="at least two different candidates, got 1"):
        search(make(), tmp_path, None, candidates=[W8A8, W8A8])
    with pytest.raises(ValueError, match="`allowed_accuracy_drop` must be None or at least 0"):
        search(make(), tmp_path, -0.1)
    with pytest.raises(ValueError, match="`amp_search_algo` must be"):
        search(make(), tmp_path, 0.1, amp_search_algo="binary")


def test_searches() -> None:
    curve = [9, 8, 7, 5, 4, 2, 1, 0]
    for algorithm in AMPSearchAlgo:
        for target, expected in ((10, None), (9, 0), (4.5, 3), (0.5, 6), (-1, 7)):
            assert find_last(lambda i: curve[i], 8, target, algorithm) == expected


def search_on_ranks(folder: str, group: object) -> tuple:
    counts = (Counting(), Counting())
    sim = make()
    points = search(sim, folder, None, counts=counts, process_group=group)
    plain = [(p.relative_bit_ops, p.eval_score, p.quantizer_group.name) for p in points]
    bits = {name: q.bitwidth for name, q in sim.named_quantizers()}
    return plain, bits, counts[0].count, counts[1].count


def search_in_world(folder: str) -> tuple:
    return search_on_ranks(folder, torch.distributed.group.WORLD)


def test_ranks_share_the_evaluations(two_ranks, tmp_path) -> None:
    alone = search_on_ranks(str(tmp_path / "alone"), None)
    first, second = two_ranks(search_in_world, str(tmp_path / "shared"))
    assert first[:2] == second[:2] == alone[:2]
    for phase in (2, 3):
        assert first[phase] + second[phase] == alone[phase]
        assert abs(first[phase] - second[phase]) <= 2
    # What the two have left behind is a cache for one.
    assert search_on_ranks(str(tmp_path / "shared"), None)[2:] == (0, 0)
