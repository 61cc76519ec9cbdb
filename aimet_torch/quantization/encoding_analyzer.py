"""Statistics of observed values, and the range that each method derives from them.

An analyzer collects running minima and maxima (`MinMaxEncodingAnalyzer`) or, in addition, a
histogram for every channel or block, all of them at once. Collection and range search run in
``torch.ops.aimet``; this file only keeps the state. Formulas: docs/numerics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from aimet_torch import ops
from aimet_torch.common.defs import QuantScheme
from aimet_torch.quantization.grid import limits_of_steps

__all__ = [
    "EncodingAnalyzer",
    "EntropyEncodingAnalyzer",
    "MinMaxEncodingAnalyzer",
    "MseEncodingAnalyzer",
    "PercentileEncodingAnalyzer",
    "SqnrEncodingAnalyzer",
    "StatisticsNotFoundError",
    "TfEnhancedEncodingAnalyzer",
    "ValuesMseEncodingAnalyzer",
]


class StatisticsNotFoundError(RuntimeError):
    """No value was observed from which a range could be derived."""


class EncodingAnalyzer:
    """Base of all analyzers: running minimum and maximum of the finite values.

    Args:
        shape: shape of the encodings; broadcasts against the observed tensors.
        block_size: elements that share one entry for each dimension of ``shape`` (-1: all that
            there are); None without blocks.
    """

    def __init__(self, shape: tuple[int, ...], block_size: tuple[int, ...] | None = None) -> None:
        self.shape = tuple(shape)
        self.block_size = None if block_size is None else tuple(block_size)
        self.reset_stats()

    @property
    def observer(self) -> EncodingAnalyzer:
        """The object that holds the statistics; here the analyzer itself."""
        return self

    def reset_stats(self) -> None:
        """Forget everything that was observed."""
        self.min: Tensor | None = None
        self.max: Tensor | None = None
        self.observed_batches = 0

    @torch.no_grad()
    def update_stats(self, input_tensor: Tensor) -> None:
        """Add the values of ``input_tensor``; NaN and infinities are ignored.

        Raises:
            ValueError: ``shape`` does not broadcast against the tensor.
        """
        self.observed_batches += 1
        minimum, maximum = ops.min_max(input_tensor, self.shape, self.block_size)
        self._merge(input_tensor, minimum, maximum)

    def _merge(self, input_tensor: Tensor, minimum: Tensor, maximum: Tensor) -> None:
        if self.min is not None and self.max is not None:
            minimum = torch.minimum(self.min.to(minimum), minimum)
            maximum = torch.maximum(self.max.to(maximum), maximum)
        self.min, self.max = minimum, maximum

    def compute_encodings(self, num_steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        """Derive the range from what was observed.

        Args:
            num_steps: steps of the grid, such as 255 for 8 bits.
            is_symmetric: center the grid on zero.

        Returns:
            Real (min, max) of ``shape``; zero lies between them. Channels without any finite
            value get the smallest step.

        Raises:
            StatisticsNotFoundError: nothing finite was observed.
            ValueError: ``num_steps`` is not positive.
        """
        if num_steps <= 0:
            raise ValueError(
                f"{type(self).__name__}: `num_steps` must be positive, got {num_steps}"
            )
        if self.min is None or self.max is None:
            raise StatisticsNotFoundError("no data was observed")
        is_known = self.min <= self.max  # +inf and -inf where no value was finite
        if not bool(is_known.any()):
            raise StatisticsNotFoundError(
                f"all values of the {self.observed_batches} observed tensor(s) were NaN or infinite"
            )
        minimum = torch.where(is_known, self.min, 0.0)
        maximum = torch.where(is_known, self.max, 0.0)
        qmin, qmax = limits_of_steps(int(num_steps), is_symmetric)
        return self._search(minimum, maximum, qmin, qmax, is_symmetric)

    def _search(
        self, minimum: Tensor, maximum: Tensor, qmin: int, qmax: int, is_symmetric: bool
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__}._search is not defined")

    def compute_dynamic_encodings(
        self, input_tensor: Tensor, num_steps: int, is_symmetric: bool
    ) -> tuple[Tensor, Tensor]:
        """Derive the range from one tensor alone, leaving the collected statistics as they are."""
        state = dict(self.__dict__)
        try:
            self.reset_stats()
            self.update_stats(input_tensor)
            return self.compute_encodings(num_steps, is_symmetric)
        finally:
            self.__dict__.update(state)

    @staticmethod
    def for_scheme(
        scheme: QuantScheme | str,
        shape: tuple[int, ...],
        block_size: tuple[int, ...] | None = None,
    ) -> EncodingAnalyzer:
        """Return a new analyzer for a quantization scheme."""
        if isinstance(scheme, str):
            scheme = QuantScheme.from_str(scheme)
        return _ANALYZER_OF_SCHEME[scheme](shape, block_size=block_size)


class MinMaxEncodingAnalyzer(EncodingAnalyzer):
    """Range from the smallest to the largest finite value.

    >>> analyzer = MinMaxEncodingAnalyzer(())
    >>> analyzer.update_stats(torch.tensor([0.5, 2.0, float("nan")]))
    >>> analyzer.compute_encodings(num_steps=255, is_symmetric=False)
    (tensor(0.), tensor(2.))
    """

    def _search(
        self, minimum: Tensor, maximum: Tensor, qmin: int, qmax: int, is_symmetric: bool
    ) -> tuple[Tensor, Tensor]:
        return ops.range_from_min_max(minimum, maximum, qmin, qmax, is_symmetric)


class HistogramEncodingAnalyzer(EncodingAnalyzer):
    """Base of analyzers that weigh values by how often they occur.

    The histogram has equal bins over the range seen so far. When a tensor exceeds it, counts move
    to a wider histogram; values beyond the growth limit count in the outermost bins.

    Args:
        shape: as in `EncodingAnalyzer`.
        num_bins: bins of each histogram.
        growth_limit: how many times its own width the range of the first tensor may grow, half of
            it on each side; None without a limit.
        block_size: as in `EncodingAnalyzer`.

    Raises:
        ValueError: ``num_bins`` is not positive, or ``growth_limit`` is below 1.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_bins: int = 2048,
        growth_limit: float | None = None,
        block_size: tuple[int, ...] | None = None,
    ) -> None:
        if num_bins <= 0:
            raise ValueError(f"{type(self).__name__}: `num_bins` must be positive, got {num_bins}")
        self.num_bins = num_bins
        self.growth_limit = math.inf if growth_limit is None else _checked_growth(growth_limit)
        super().__init__(shape, block_size)

    def reset_stats(self) -> None:
        """Forget everything that was observed."""
        super().reset_stats()
        self.histogram: Tensor | None = None
        # The histogram's range: what was observed, within the limits. +inf and -inf: nothing yet.
        self._lower = torch.full(self.shape, math.inf)
        self._upper = torch.full(self.shape, -math.inf)
        self._lower_limit, self._upper_limit = self._lower, self._upper

    def _merge(self, input_tensor: Tensor, minimum: Tensor, maximum: Tensor) -> None:
        if self.histogram is None:
            shape = (*self.shape, self.num_bins)
            self.histogram = torch.zeros(shape, dtype=torch.int64, device=input_tensor.device)
        old_lower, old_upper = self._lower.to(minimum), self._upper.to(maximum)
        is_new = old_lower > old_upper  # for each channel: its first finite values may come late
        limits = self._limits_of_growth(minimum, maximum)
        self._lower_limit = torch.where(is_new, limits[0], self._lower_limit.to(minimum))
        self._upper_limit = torch.where(is_new, limits[1], self._upper_limit.to(maximum))
        # Without a finite value in this tensor the two are +inf and -inf, which leaves both ends.
        self._lower = minimum.where(is_new, minimum.clamp(self._lower_limit, old_lower))
        self._upper = maximum.where(is_new, maximum.clamp(old_upper, self._upper_limit))
        has_grown = (self._lower != old_lower) | (self._upper != old_upper)
        if bool((has_grown & ~is_new).any()):
            self.histogram = ops.rebin_histogram(
                self.histogram, old_lower, old_upper, self._lower, self._upper
            )
        ops.update_histogram_(
            self.histogram, input_tensor, self._lower, self._upper, self.block_size
        )
        super()._merge(input_tensor, minimum, maximum)

    def _limits_of_growth(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        if math.isinf(self.growth_limit):
            return torch.full_like(minimum, -math.inf), torch.full_like(maximum, math.inf)
        half_unit = 0.5 * (minimum == maximum)  # the histogram of a constant is one unit wide
        minimum, maximum = minimum - half_unit, maximum + half_unit
        margin = (maximum - minimum) * self.growth_limit / 2
        return minimum - margin, maximum + margin

    def _search(
        self, minimum: Tensor, maximum: Tensor, qmin: int, qmax: int, is_symmetric: bool
    ) -> tuple[Tensor, Tensor]:
        assert self.histogram is not None
        return self._search_histogram(
            self.histogram, self._lower, self._upper, qmin, qmax, is_symmetric
        )

    def _search_histogram(
        self, histogram: Tensor, lower: Tensor, upper: Tensor, qmin: int, qmax: int, symmetric: bool
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f"{type(self).__name__}._search_histogram is not defined")


def _checked_growth(growth_limit: float) -> float:
    if growth_limit < 1.0:
        raise ValueError(
            f"encoding analyzer: `growth_limit` must be at least 1, got {growth_limit}"
        )
    return float(growth_limit)


class PercentileEncodingAnalyzer(HistogramEncodingAnalyzer):
    """Range that leaves out the outermost ``100 - percentile`` percent of the values on each side.

    Args:
        shape: as in `EncodingAnalyzer`.
        num_bins: bins of each histogram.
        percentile: 50 to 100; 100 takes the extremes.
        block_size: as in `EncodingAnalyzer`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_bins: int = 2048,
        percentile: float = 100,
        block_size: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(shape, num_bins, block_size=block_size)
        self.set_percentile(percentile)

    def set_percentile(self, percentile: float) -> None:
        """Change the percentile; statistics stay.

        Raises:
            ValueError: ``percentile`` is outside 50 to 100.
        """
        if not 50 <= percentile <= 100:
            raise ValueError(
                "PercentileEncodingAnalyzer: `percentile` must be within 50 and 100, got "
                f"{percentile}"
            )
        self.percentile = percentile

    def _search_histogram(
        self, histogram: Tensor, lower: Tensor, upper: Tensor, qmin: int, qmax: int, symmetric: bool
    ) -> tuple[Tensor, Tensor]:
        return ops.range_from_percentile(
            histogram, lower, upper, float(self.percentile), qmin, qmax, symmetric
        )


class SqnrEncodingAnalyzer(HistogramEncodingAnalyzer):
    """Range with the least squared error, clipped values weighted by ``gamma``.

    Args:
        shape: as in `EncodingAnalyzer`.
        num_bins: bins of each histogram.
        asymmetric_delta_candidates: scales tried on asymmetric grids.
        symmetric_delta_candidates: scales tried on symmetric grids.
        offset_candidates: offsets tried with each scale on asymmetric grids.
        max_parallelism: accepted for AIMET's sake; all channels are searched at once here.
        gamma: weight of the error of clipped values.
        histogram_growth_limit: as ``growth_limit`` of `HistogramEncodingAnalyzer`.
        block_size: as in `EncodingAnalyzer`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_bins: int = 2048,
        *,
        asymmetric_delta_candidates: int = 17,
        symmetric_delta_candidates: int = 101,
        offset_candidates: int = 21,
        max_parallelism: int = 64,
        gamma: float = 3.0,
        histogram_growth_limit: float | None = None,
        block_size: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(shape, num_bins, histogram_growth_limit, block_size)
        self.asymmetric_delta_candidates = asymmetric_delta_candidates
        self.symmetric_delta_candidates = symmetric_delta_candidates
        self.offset_candidates = offset_candidates
        self.max_parallelism = max_parallelism
        self.gamma = gamma

    def _search_histogram(
        self, histogram: Tensor, lower: Tensor, upper: Tensor, qmin: int, qmax: int, symmetric: bool
    ) -> tuple[Tensor, Tensor]:
        return ops.range_from_sqnr(
            histogram,
            lower,
            upper,
            qmin,
            qmax,
            symmetric,
            self.asymmetric_delta_candidates,
            self.symmetric_delta_candidates,
            self.offset_candidates,
            self.gamma,
        )


class TfEnhancedEncodingAnalyzer(SqnrEncodingAnalyzer):
    """`SqnrEncodingAnalyzer` with the settings of AIMET 1.x: 512 bins, limited growth.

    Args:
        shape: as in `EncodingAnalyzer`.
        block_size: as in `EncodingAnalyzer`.
    """

    _growth_limit: ClassVar[float] = 3.0

    def __init__(self, shape: tuple[int, ...], block_size: tuple[int, ...] | None = None) -> None:
        super().__init__(
            shape, 512, histogram_growth_limit=self._growth_limit, block_size=block_size
        )

    @classmethod
    def set_growth_limit(cls, growth_limit: float) -> None:
        """Set the growth limit of analyzers made from now on.

        Raises:
            ValueError: ``growth_limit`` is below 1.
        """
        cls._growth_limit = _checked_growth(growth_limit)


class MseEncodingAnalyzer(HistogramEncodingAnalyzer):
    """Range with the least mean squared error over all pairs of limits on the histogram."""

    def _search_histogram(
        self, histogram: Tensor, lower: Tensor, upper: Tensor, qmin: int, qmax: int, symmetric: bool
    ) -> tuple[Tensor, Tensor]:
        return ops.range_from_mse(histogram, lower, upper, qmin, qmax, symmetric)


class ValuesMseEncodingAnalyzer(EncodingAnalyzer):
    """Range with the least squared error on all observed values, which are kept: for weights."""

    def reset_stats(self) -> None:
        """Forget everything that was observed."""
        super().reset_stats()
        self._values: list[Tensor] = []

    def _merge(self, input_tensor: Tensor, minimum: Tensor, maximum: Tensor) -> None:
        super()._merge(input_tensor, minimum, maximum)
        self._values.append(input_tensor.detach())

    def _search(
        self, minimum: Tensor, maximum: Tensor, qmin: int, qmax: int, is_symmetric: bool
    ) -> tuple[Tensor, Tensor]:
        # Tensors are put side by side in a new first dimension, which no range can depend on.
        values = self._values[0] if len(self._values) == 1 else torch.stack(self._values)
        return ops.range_from_values(values, self.shape, qmin, qmax, is_symmetric, self.block_size)


class EntropyEncodingAnalyzer(HistogramEncodingAnalyzer):
    """Range whose quantized distribution has the least Kullback-Leibler divergence."""

    def _search_histogram(
        self, histogram: Tensor, lower: Tensor, upper: Tensor, qmin: int, qmax: int, symmetric: bool
    ) -> tuple[Tensor, Tensor]:
        return ops.range_from_entropy(histogram, lower, upper, qmin, qmax, symmetric)


_ANALYZER_OF_SCHEME: dict[QuantScheme, Callable[..., EncodingAnalyzer]] = {
    QuantScheme.min_max: MinMaxEncodingAnalyzer,
    QuantScheme.post_training_tf_enhanced: TfEnhancedEncodingAnalyzer,
    QuantScheme.post_training_percentile: PercentileEncodingAnalyzer,
    QuantScheme.training_range_learning: MinMaxEncodingAnalyzer,
    QuantScheme.training_range_learning_with_tf_init: MinMaxEncodingAnalyzer,
    QuantScheme.training_range_learning_with_tf_enhanced_init: TfEnhancedEncodingAnalyzer,
    QuantScheme.post_training_mse: MseEncodingAnalyzer,
}
