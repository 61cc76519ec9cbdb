"""How the values of every quantized tensor are distributed, with the grid that they are put on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from aimet_torch.analysis.switching import Switchboard
from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantization.base import QuantizerBase, plain_tensor
from aimet_torch.quantization.encoding_analyzer import MseEncodingAnalyzer
from aimet_torch.quantsim.calibration import evaluation_mode, run_forward_passes

__all__ = ["TensorHistogram", "activation_histograms", "channel_histograms", "weight_histograms"]


@dataclass(frozen=True)
class TensorHistogram:
    """Distribution of the values of a tensor.

    Attributes:
        name: of its quantizer.
        counts: values in each of the bins, which divide [lower, upper] equally.
        lower: smallest value.
        upper: largest value.
        grid_min: smallest number of the grid; None without an integer grid.
        grid_max: largest number.
        steps: number of steps between them.
    """

    name: str
    counts: list[int]
    lower: float
    upper: float
    grid_min: float | None = None
    grid_max: float | None = None
    steps: int | None = None


class _Observer(QuantizerBase):
    """Stands in the place of a quantizer, counts values and hands them on."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.encoding_analyzer = MseEncodingAnalyzer((), bins)

    def simulate(self, input: Tensor) -> Tensor:
        self.observe(input)
        return input

    def forward(self, input: Tensor) -> Tensor:
        """As `simulate`."""
        return self.simulate(plain_tensor(input))

    def get_encodings(self) -> None:
        """None: it quantizes nothing."""
        return None


def activation_histograms(
    board: Switchboard, data: Callable[..., Any] | Iterable[Any], bins: int = 128
) -> Iterator[TensorHistogram]:
    """Histograms of all activations in floating point, in one pass over the data.

    Args:
        board: of the simulation.
        data: as for `QuantizationSimModel.compute_encodings`.
        bins: of each histogram.
    """
    observers = {name: _Observer(bins) for name in board.activations}
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluation_mode(board.sim.model))
        stack.enter_context(board.without(board.params))
        stack.enter_context(board.placed(observers))
        count = board.sim._positional_count()
        run_forward_passes(board.sim.model, data, input_count=count, description="Histograms")
    for name, observer in observers.items():
        analyzer: Any = observer.encoding_analyzer
        if analyzer.histogram is None or not bool(analyzer.min <= analyzer.max):
            continue  # the data do not get there
        limits = float(analyzer._lower), float(analyzer._upper)
        yield _histogram(name, analyzer.histogram, *limits, board.quantizers[name])


def weight_histograms(board: Switchboard, bins: int = 128) -> Iterator[TensorHistogram]:
    """Histograms of all parameters, each as a whole."""
    for name in board.params:
        parameter = board.parameter(name)
        if parameter is not None and parameter.numel():
            yield from _of_channels(name, parameter, (), None, board.quantizers[name], bins)


def channel_histograms(board: Switchboard, name: str, bins: int = 128) -> Iterator[TensorHistogram]:
    """Histograms of one parameter, one for each range of its quantizer: channels, blocks."""
    parameter, quantizer = board.parameter(name), board.quantizers[name]
    if parameter is None or not parameter.numel():
        return
    shape: tuple[int, ...] = getattr(quantizer, "shape", ())
    yield from _of_channels(name, parameter, shape, quantizer.block_size, quantizer, bins)


def _of_channels(
    name: str,
    parameter: Tensor,
    shape: tuple[int, ...],
    block_size: tuple[int, ...] | None,
    quantizer: Any,
    bins: int,
) -> Iterator[TensorHistogram]:
    analyzer = MseEncodingAnalyzer(shape, bins, block_size=block_size)
    analyzer.update_stats(plain_tensor(parameter.detach()))
    assert analyzer.histogram is not None
    rows = analyzer.histogram.reshape(-1, bins)
    limits = zip(
        analyzer._lower.flatten().tolist(), analyzer._upper.flatten().tolist(), strict=True
    )
    for index, (counts, (lower, upper)) in enumerate(zip(rows, limits, strict=True)):
        if lower <= upper:
            place = index if len(rows) > 1 else None
            yield _histogram(name, counts, lower, upper, quantizer, place)


def _histogram(
    name: str, counts: Tensor, lower: float, upper: float, quantizer: Any, place: int | None = None
) -> TensorHistogram:
    if lower == upper:  # the histogram of a constant is one unit wide
        lower, upper = lower - 0.5, upper + 0.5
    grid: tuple[float | None, float | None, int | None] = (None, None, None)
    if isinstance(quantizer, AffineQuantizerBase) and quantizer.is_initialized():
        low, high = quantizer.get_min(), quantizer.get_max()
        assert low is not None
        assert high is not None
        if place is None:
            grid = low.min().item(), high.max().item(), quantizer.qmax - quantizer.qmin
        else:
            ends = low.flatten()[place].item(), high.flatten()[place].item()
            grid = (*ends, quantizer.qmax - quantizer.qmin)
    return TensorHistogram(name, counts.flatten().tolist(), lower, upper, *grid)
