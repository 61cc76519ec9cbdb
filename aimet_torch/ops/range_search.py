"""Ranges for a grid from histograms, or from the values themselves, for all channels at once.

Those that take ``histogram``, int64 of shape ``(*min.shape, bins)``, whose bins divide ``[min,
max]`` equally, return the limits ``(min, max)`` of the range: same shape and dtype as ``min``, zero
included. Pass them on to :func:`aimet_torch.ops.encoding_from_range`. Where the histogram is empty
they are the minimal range. `range_from_values`, `range_from_cross_entropy` and `range_before_norm`
take the values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "range_before_norm",
    "range_from_cross_entropy",
    "range_from_entropy",
    "range_from_mse",
    "range_from_percentile",
    "range_from_sqnr",
    "range_from_values",
]


def range_from_percentile(
    histogram: Tensor,
    min: Tensor,
    max: Tensor,
    percentile: float,
    qmin: int,
    qmax: int,
    symmetric: bool,
) -> tuple[Tensor, Tensor]:
    """Cuts off the values beyond ``percentile`` on either side.

    The limits are the left edges of the bins in which the cumulative count reaches ``1 - percentile
    / 100`` and ``percentile / 100`` of all, made a range of the grid as in
    :func:`aimet_torch.ops.range_from_min_max`.

    Args:
        histogram: int64, ``(*min.shape, bins)``.
        min: lower limits of the bins, floating.
        max: upper limits of the bins, same shape and dtype.
        percentile: in [50, 100]; 100 keeps the observed limits.
        qmin: lowest code.
        qmax: highest code.
        symmetric: zero lies in the middle of the grid.

    Returns:
        ``(min, max)``, see above.

    Raises:
        TypeError: dtypes do not fit.
        ValueError: shapes do not fit, ``qmin >= qmax``, or ``percentile`` is out of range.

    >>> histogram = torch.tensor([98, 0, 0, 2])
    >>> range_from_percentile(histogram, torch.tensor(0.0), torch.tensor(4.0), 97.0, 0, 255, False)
    (tensor(0.), tensor(3.0398e-05))
    """
    return torch.ops.aimet.range_from_percentile(
        histogram, min, max, percentile, qmin, qmax, symmetric
    )


def range_from_sqnr(
    histogram: Tensor,
    min: Tensor,
    max: Tensor,
    qmin: int,
    qmax: int,
    symmetric: bool,
    asymmetric_delta_candidates: int = 17,
    symmetric_delta_candidates: int = 101,
    offset_candidates: int = 21,
    gamma: float = 3.0,
) -> tuple[Tensor, Tensor]:
    """The range with the least squared error, where errors of clipped values count ``gamma`` times.

    AIMET calls this search SQNR, or "TF-enhanced" with 512 bins.

    Args:
        histogram: int64, ``(*min.shape, bins)``.
        min: lower limits of the bins, floating.
        max: upper limits of the bins, same shape and dtype.
        qmin: lowest code.
        qmax: highest code.
        symmetric: zero lies in the middle of the grid.
        asymmetric_delta_candidates: scales tried for an asymmetric grid, at least 2: ``k / (count -
            1)`` of the largest one.
        symmetric_delta_candidates: the same for a symmetric grid.
        offset_candidates: offsets tried with each scale of an asymmetric grid, at least 3; the last
            is that of the data.
        gamma: weight of the error of clipped values, positive.

    Returns:
        ``(min, max)``, see above.

    Raises:
        TypeError: dtypes do not fit.
        ValueError: shapes do not fit, ``qmin >= qmax``, or a count or ``gamma`` is too small.
    """
    return torch.ops.aimet.range_from_sqnr(
        histogram,
        min,
        max,
        qmin,
        qmax,
        symmetric,
        asymmetric_delta_candidates,
        symmetric_delta_candidates,
        offset_candidates,
        gamma,
    )


def range_from_mse(
    histogram: Tensor, min: Tensor, max: Tensor, qmin: int, qmax: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """The range with the least squared error.

    Symmetric: one limit, 256 fractions of the widest range. Asymmetric: both limits, first on a
    raster of 16 by 16, then around the best on rasters down to 1/2048 of the observed range. Of
    equal candidates the widest is kept.

    Args:
        histogram: int64, ``(*min.shape, bins)``.
        min: lower limits of the bins, floating.
        max: upper limits of the bins, same shape and dtype.
        qmin: lowest code.
        qmax: highest code.
        symmetric: zero lies in the middle of the grid.

    Returns:
        ``(min, max)``, see above.

    Raises:
        TypeError: dtypes do not fit.
        ValueError: shapes do not fit, or ``qmin >= qmax``.
    """
    return torch.ops.aimet.range_from_mse(histogram, min, max, qmin, qmax, symmetric)


def range_from_entropy(
    histogram: Tensor, min: Tensor, max: Tensor, qmin: int, qmax: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """The range whose quantization changes the distribution least (Kullback-Leibler divergence).

    Searched like :func:`range_from_mse`. The distribution after quantization spreads what falls on
    one code over the occupied bins of that code. Clipped values count at the edges of the
    distribution before, and are missing in the one after.

    Args:
        histogram: int64, ``(*min.shape, bins)``.
        min: lower limits of the bins, floating.
        max: upper limits of the bins, same shape and dtype.
        qmin: lowest code.
        qmax: highest code.
        symmetric: zero lies in the middle of the grid.

    Returns:
        ``(min, max)``, see above.

    Raises:
        TypeError: dtypes do not fit.
        ValueError: shapes do not fit, or ``qmin >= qmax``.

    Source: Migacz, 8-bit inference with TensorRT, GTC 2017.
    """
    return torch.ops.aimet.range_from_entropy(histogram, min, max, qmin, qmax, symmetric)


def range_from_values(
    input: Tensor,
    shape: Sequence[int],
    qmin: int,
    qmax: int,
    symmetric: bool,
    block_size: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """The range with the least squared error on the values themselves, without a histogram.

    For weights, all of which are known. Symmetric: 256 fractions of the largest absolute value,
    then the best scale for the codes of the best, as long as that gains. Asymmetric: both limits,
    on a raster that gets finer around the best, as in :func:`range_from_mse`.

    Args:
        input: floating-point; NaN and infinities do not count.
        shape: of the results; broadcasts against ``input`` or, with ``block_size``, tiles it.
        qmin: lowest code.
        qmax: highest code.
        symmetric: zero lies in the middle of the grid.
        block_size: elements that share a range for each dimension of ``shape``.

    Returns:
        ``(min, max)`` of ``shape``, float32, zero included.

    Raises:
        TypeError: ``input`` is not floating-point.
        ValueError: ``shape`` does not fit, or ``qmin >= qmax``.

    >>> range_from_values(torch.tensor([-1.0, -0.5, 0.25, 0.75]), (), -8, 7, True)
    (tensor(-1.), tensor(0.8750))
    """
    return torch.ops.aimet.range_from_values(
        input, list(shape), qmin, qmax, symmetric, None if block_size is None else list(block_size)
    )


def range_from_cross_entropy(
    logits: Tensor,
    qmin: int,
    qmax: int,
    symmetric: bool,
    reference: Tensor | None = None,
    class_axis: int = -1,
) -> tuple[Tensor, Tensor]:
    """The range of a classifier's outputs that changes its probabilities least.

    Least cross entropy of ``softmax(quantized logits)`` against ``softmax(reference)``, summed over
    all rows. Candidates as in :func:`range_from_mse`, on the logits themselves.

    Args:
        logits: floating-point, classes along ``class_axis``; rows with NaN or infinities do not
            count.
        qmin: lowest code.
        qmax: highest code.
        symmetric: zero lies in the middle of the grid.
        reference: logits in floating point, same shape; None: ``logits``.
        class_axis: dimension of the classes.

    Returns:
        ``(min, max)`` without dimensions, float32, zero included.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: shapes or ``class_axis`` do not fit, or ``qmin >= qmax``.

    Source: Nagel et al. 2021 (arXiv 2106.08295), section 3.1.

    >>> logits = torch.tensor([[8.0, 7.0, -40.0], [7.5, 8.0, -60.0]])
    >>> low, high = range_from_cross_entropy(logits, 0, 15, False)
    >>> float(low) > -20, float(high) > 7  # what has no probability is clipped
    (True, True)
    """
    return torch.ops.aimet.range_from_cross_entropy(
        logits, qmin, qmax, symmetric, reference, class_axis
    )


def range_before_norm(
    input: Tensor,
    weight: Tensor | None,
    eps: float,
    qmin: int,
    qmax: int,
    symmetric: bool,
    rms: bool = False,
) -> tuple[Tensor, Tensor]:
    """The range of what LayerNorm reads that changes its result least.

    Least squared error of ``LayerNorm(quantized input)`` against ``LayerNorm(input)``. Transformers
    have a few values there that are far larger than all others; clipping them changes the
    normalized values little, covering them leaves the others without steps. Candidates as in
    :func:`range_from_cross_entropy`.

    Args:
        input: floating-point, (..., channels); rows with NaN or infinities do not count.
        weight: of the normalization, (channels,); None: ones.
        eps: of the normalization.
        qmin: lowest code.
        qmax: highest code.
        symmetric: zero lies in the middle of the grid.
        rms: RMSNorm, which takes no mean off.

    Returns:
        ``(min, max)`` without dimensions, float32, zero included.

    Raises:
        TypeError: an argument is not floating-point.
        ValueError: shapes do not fit, ``eps`` is negative, or ``qmin >= qmax``.

    >>> x = torch.cat([torch.linspace(-1, 1, 255), torch.tensor([300.0])])[None]
    >>> float(range_before_norm(x, None, 1e-5, 0, 15, False)[1]) < 200
    True
    """
    return torch.ops.aimet.range_before_norm(input, weight, eps, qmin, qmax, symmetric, rms)
