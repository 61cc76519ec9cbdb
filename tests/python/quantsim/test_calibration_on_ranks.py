"""Calibration of several ranks, each with its part of the data, against one with all of it."""

from __future__ import annotations

import time

import pytest
import torch
import torch.distributed as dist
from torch import nn

from aimet_torch.common.collectives import PeerError, Ranks
from aimet_torch.quantization.affine import QuantizeDequantize
from aimet_torch.quantization.encoding_analyzer import (
    EncodingAnalyzer,
    EntropyEncodingAnalyzer,
    MinMaxEncodingAnalyzer,
    MseEncodingAnalyzer,
    PercentileEncodingAnalyzer,
    SqnrEncodingAnalyzer,
    TfEnhancedEncodingAnalyzer,
    ValuesMseEncodingAnalyzer,
)
from aimet_torch.quantization.merging import merge_statistics
from aimet_torch.quantsim import QuantizationSimModel

SCHEMES = ["min_max", "tf_enhanced", "percentile", "mse"]


def batches():
    """Five batches, each wider than the one before."""
    generator = torch.Generator().manual_seed(3)
    return [(1 + i / 4) * torch.randn(4, 2, 6, 6, generator=generator) for i in range(5)]


def simulation(scheme="min_max", seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    sim = QuantizationSimModel(model.eval(), batches()[0], quant_scheme=scheme)
    if scheme == "percentile":
        sim.set_percentile_value(99.9)
    return sim


def ranges(sim):
    return {
        name: (q.get_min().detach(), q.get_max().detach())
        for name, q in sim.named_quantizers()
        if q.is_initialized()
    }


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(a, b) for name in first for a, b in zip(first[name], second[name], strict=True)
    )


# -- whole simulations ---------------------------------------------------------------------------


def _calibrate(scheme, parts):
    sim = simulation(scheme)
    data = [batches()[i] for i in parts[dist.get_rank()]]
    sim.compute_encodings(data, process_group=dist.group.WORLD)
    return ranges(sim)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_ranks_get_the_encodings_of_all_data(two_ranks, scheme):
    sim = simulation(scheme)
    sim.compute_encodings(batches())
    want = ranges(sim)
    assert len(want) == 5
    for parts in (([0, 1, 2], [3, 4]), ([4, 0], [1, 2, 3]), ([], [0, 1, 2, 3, 4])):
        first, second = two_ranks(_calibrate, scheme, parts)
        assert same(first, second)
        if scheme == "min_max" or not parts[0]:
            assert same(first, want)
            continue
        # Counts have moved to wider bins in another order: limits differ by less than a bin, of
        # which there are 512 or more.
        for name, limits in want.items():
            width = float((limits[1] - limits[0]).max())
            for limit, other in zip(limits, first[name], strict=True):
                assert (limit - other).abs().max() <= width / 512, name


def _calibrate_alone(_):
    sim = simulation()
    sim.compute_encodings(batches()[: 1 + dist.get_rank()])
    return ranges(sim)


def test_without_a_group_each_rank_is_by_itself(two_ranks):
    assert not same(*two_ranks(_calibrate_alone, None))


# -- statistics ----------------------------------------------------------------------------------

ANALYZERS = [
    MinMaxEncodingAnalyzer, TfEnhancedEncodingAnalyzer, SqnrEncodingAnalyzer, MseEncodingAnalyzer,
    EntropyEncodingAnalyzer, PercentileEncodingAnalyzer, ValuesMseEncodingAnalyzer,
]  # fmt: skip


def _observed(cls, shape, tensors):
    quantizer = QuantizeDequantize(shape, 4, True, cls(shape))
    quantizer.begin_calibration()
    for tensor in tensors:
        quantizer.observe(tensor)
    return quantizer


def _merge(cls, shape, parts):
    quantizer = _observed(cls, shape, parts[dist.get_rank()])
    with Ranks(dist.group.WORLD, "test") as ranks:
        merge_statistics([quantizer], ranks)
    analyzer = quantizer.encoding_analyzer
    counts = getattr(analyzer, "histogram", None)
    return analyzer.compute_encodings(15, True), counts, analyzer.observed_batches


@pytest.mark.parametrize("cls", ANALYZERS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_one_range_statistics_are_those_of_all_data(two_ranks, cls, dtype):
    shape = (3, 1)
    tensors = list(torch.randn(5, 3, 40, dtype=dtype).clamp(-2, 2))
    for tensor in tensors:
        tensor[:, 0], tensor[:, 1] = -2.0, 2.0
    whole = _observed(cls, shape, tensors).encoding_analyzer
    results = two_ranks(_merge, cls, shape, (tensors[:4], tensors[4:]))
    for limits, counts, observed in results:
        for limit, wanted in zip(limits, whole.compute_encodings(15, True), strict=True):
            assert limit.dtype == wanted.dtype
            assert torch.equal(limit, wanted)
        assert observed == 5
        if counts is not None:
            assert torch.equal(counts, whole.histogram)


@pytest.mark.parametrize("cls", [MseEncodingAnalyzer, TfEnhancedEncodingAnalyzer])
def test_no_count_is_lost_between_different_ranges(two_ranks, cls):
    low, high = torch.rand(400) - 3.0, torch.rand(300) * 2
    (limits, counts, _), (others, _, _) = two_ranks(_merge, cls, (), ([low], [high, high / 2]))
    assert int(counts.sum()) == 1000
    assert all(torch.equal(a, b) for a, b in zip(limits, others, strict=True))
    edges = torch.linspace(float(low.min()), float(high.max()), counts.numel() + 1)
    assert int(counts[edges[1:] < -2].sum()) == pytest.approx(400, abs=5)
    assert int(counts[edges[1:] < -0.1].sum()) == pytest.approx(400, abs=5)


class _Own(EncodingAnalyzer):
    def _merge(self, input_tensor, minimum, maximum):
        super()._merge(input_tensor, minimum, maximum)


def _merge_own():
    with pytest.raises(NotImplementedError, match="_Own, which collects statistics of its own"):
        _merge(_Own, (), ([torch.ones(2)], [torch.ones(2)]))


def test_an_analyzer_of_ones_own_is_refused(two_ranks):
    two_ranks(_merge_own)


# -- what goes wrong -------------------------------------------------------------------------------


def _failing():
    """Everything that can go wrong on one rank; the group works on afterwards."""
    rank, world = dist.get_rank(), dist.group.WORLD
    sim = simulation()
    sim.compute_encodings(batches()[:1])
    before = ranges(sim)

    def broken():
        yield batches()[0]
        if rank == 1:
            raise OSError("the disk is gone")
        yield batches()[1]

    started = time.monotonic()
    with pytest.raises(OSError if rank == 1 else PeerError) as error:
        sim.compute_encodings(broken(), process_group=world)
    assert time.monotonic() - started < 20
    text = "the disk is gone"
    if rank == 0:
        text = f"compute_encodings: stopped, since it failed elsewhere: rank 1: OSError: {text}"
    assert str(error.value) == text
    assert same(ranges(sim), before)
    with pytest.raises(ValueError, match="an iterable without batches on every rank"):
        sim.compute_encodings([], process_group=world)
    with pytest.raises(ValueError, match="joins ranks whose models have different parameters"):
        simulation(seed=rank).compute_encodings(batches(), process_group=world)
    with pytest.raises(ValueError, match="joins ranks with different quantizers"):
        simulation(SCHEMES[rank]).compute_encodings(batches(), process_group=world)
    with pytest.raises(TypeError, match=r"`process_group` must be a .*ProcessGroup.*, got str"):
        sim.compute_encodings(batches(), process_group="world")
    alone = dist.new_group([0])
    if rank == 1:
        with pytest.raises(ValueError, match="`process_group` does not hold this process"):
            sim.compute_encodings(batches(), process_group=alone)
    else:
        sim.compute_encodings(batches(), process_group=alone)
    sim.compute_encodings(batches(), process_group=world)
    return ranges(sim)


def test_a_rank_that_fails_keeps_no_other_waiting(two_ranks):
    assert same(*two_ranks(_failing))
