"""Statistics of calibration that several ranks have collected, each from its part of the data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from aimet_torch import ops
from aimet_torch.common.collectives import Ranks
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantization.encoding_analyzer import (
    EncodingAnalyzer,
    HistogramEncodingAnalyzer,
    ValuesMseEncodingAnalyzer,
)

__all__ = ["merge_statistics"]

_DTYPES = (None, torch.float32, torch.float64)  # what limits are in; None: nothing was observed
_COLLECTS = {
    cls._merge for cls in (EncodingAnalyzer, HistogramEncodingAnalyzer, ValuesMseEncodingAnalyzer)
}


@torch.no_grad()
def merge_statistics(quantizers: Iterable[QuantizerBase], ranks: Ranks) -> None:
    """Give every rank the statistics of all data that the ranks have observed.

    Limits become the least and the greatest of all: exactly those of the whole data. Histograms
    move to the union of the ranks' ranges, as they do in one process when a tensor exceeds the
    range seen so far, and are added: exactly the histogram of the whole data where all ranks saw
    the same range, otherwise up to counts that moved between neighbouring bins. Kept values are
    put one behind the other in the order of the ranks.

    Args:
        quantizers: observing; the same ones in the same order on each rank.
        ranks: whose statistics are merged. A rank may have observed nothing.

    Raises:
        NotImplementedError: an analyzer that collects something in a way of its own.
        ValueError: the ranks' quantizers differ.
    """
    if ranks.size == 1:
        return
    found = {id(q.encoding_analyzer): (q.encoding_analyzer, _device_of(q)) for q in quantizers}
    members = [(analyzer, device) for analyzer, device in found.values() if analyzer is not None]
    for analyzer, _ in members:
        if type(analyzer)._merge not in _COLLECTS:
            raise NotImplementedError(
                f"compute_encodings: `process_group` cannot be used with a "
                f"{type(analyzer).__name__}, which collects statistics of its own; calibrate every "
                "rank on the same data without a group"
            )
    kinds = [(type(a).__name__, a.shape, getattr(a, "num_bins", 0)) for a, _ in members]
    if any(other != kinds for other in ranks.gather(kinds)):
        raise ValueError(
            "compute_encodings: `process_group` joins ranks with different quantizers; simulate "
            "the same model with the same configuration on each of them"
        )
    _merge_limits_and_histograms(members, ranks)
    for analyzer, device in members:
        if isinstance(analyzer, ValuesMseEncodingAnalyzer):
            parts = ranks.gather([value.cpu() for value in analyzer._values])
            analyzer._values = [value.to(device) for part in parts for value in part]


def _merge_limits_and_histograms(
    members: list[tuple[EncodingAnalyzer, torch.device]], ranks: Ranks
) -> None:
    """One exchange for all limits, one for all counts, however many quantizers there are."""
    own = [_Limits(analyzer) for analyzer, _ in members]
    ranks.min_([limits.values for limits in own])
    counts = []
    for (analyzer, device), limits in zip(members, own, strict=True):
        counts.append(torch.tensor([analyzer.observed_batches]))
        counts.append(limits.take_over(analyzer, device))
    ranks.sum_(counts)
    for index, (analyzer, device) in enumerate(members):
        batches, histogram = counts[2 * index : 2 * index + 2]
        analyzer.observed_batches = int(batches)
        if isinstance(analyzer, HistogramEncodingAnalyzer) and histogram.numel():
            analyzer.histogram = histogram.to(device)


class _Limits:
    """The numbers of one analyzer of which the least counts, float64 on the CPU.

    They are: the dtype, lower limits, upper limits with the sign changed; then, with a histogram,
    the ends of its range likewise.
    """

    def __init__(self, analyzer: EncodingAnalyzer) -> None:
        nothing = torch.full(analyzer.shape, math.inf)
        minimum, maximum = analyzer.min, analyzer.max
        is_empty = minimum is None or maximum is None
        limits = [nothing, nothing] if is_empty else [minimum, -maximum]  # type: ignore[operator]
        if isinstance(analyzer, HistogramEncodingAnalyzer):
            limits += [analyzer._lower, -analyzer._upper]
        kind = _DTYPES.index(None if minimum is None else minimum.dtype)
        flat = [limit.double().cpu().reshape(-1) for limit in limits if limit is not None]
        self.values = torch.cat([torch.tensor([-kind], dtype=torch.float64), *flat])

    def take_over(self, analyzer: EncodingAnalyzer, device: torch.device) -> Tensor:
        """Set the merged limits; return the counts on the CPU, on bins of the merged range."""
        dtype = _DTYPES[-int(self.values[0])]
        no_counts = torch.zeros(0, dtype=torch.int64)
        if dtype is None:  # no rank has seen anything
            return no_counts
        count = max(1, math.prod(analyzer.shape))
        parts = [
            part.reshape(analyzer.shape).to(device, dtype) for part in self.values[1:].split(count)
        ]
        analyzer.min, analyzer.max = parts[0], -parts[1]
        if not isinstance(analyzer, HistogramEncodingAnalyzer):
            return no_counts
        lower, upper = parts[2], -parts[3]
        histogram = analyzer.histogram
        if histogram is None:
            shape = (*analyzer.shape, analyzer.num_bins)
            histogram = torch.zeros(shape, dtype=torch.int64)
        elif not (lower.equal(analyzer._lower) and upper.equal(analyzer._upper)):
            before = analyzer._lower.to(lower), analyzer._upper.to(upper)
            histogram = ops.rebin_histogram(histogram, *before, lower, upper)
        analyzer._lower, analyzer._upper = lower, upper
        return histogram.cpu()


def _device_of(quantizer: Any) -> torch.device:
    analyzer = quantizer.encoding_analyzer
    if analyzer is not None and analyzer.min is not None:
        found: torch.device = analyzer.min.device
        return found
    tensors = (*quantizer.parameters(recurse=False), *quantizer.buffers(recurse=False))
    return tensors[0].device if tensors else torch.device("cpu")
