"""The candidates: work that AIMET's interface expresses, so that aimet-torch runs the same code.

This file is imported with this project and, in the rival's process, with aimet-torch 2.42. It uses
names that both have; the operator itself is `aimet_torch.ops` here and `affine` there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Subject

#: Subject by name; the arguments of a case are keywords of the function.
SUBJECTS: dict[str, Callable[..., Subject]] = {}

QMIN, QMAX = -128, 127


def subject(function: Callable[..., Subject]) -> Callable[..., Subject]:
    """Enter a function that makes a subject into `SUBJECTS` under its name."""
    SUBJECTS[function.__name__] = function
    return function


def make_subject(name: str, arguments: dict[str, Any]) -> Subject:
    """Make the subject `name`; equal arguments give equal inputs in every process."""
    return SUBJECTS[name](**arguments)


@dataclass(frozen=True)
class AffineInputs:
    """What a fake-quantize case works on. `offset` is 0: the grid of symmetric int8."""

    x: Tensor
    gradient: Tensor
    scale: Tensor
    offset: Tensor
    block_size: tuple[int, ...] | None


def affine_inputs(
    shape: tuple[int, ...],
    dtype: str = "float32",
    axis: int | None = None,
    block: int | None = None,
) -> AffineInputs:
    """Draw the inputs of a fake-quantize case.

    Args:
        shape: of the tensor.
        dtype: name of a floating dtype.
        axis: dimension with one scale for each index; None for one scale in all.
        block: elements of the last dimension that share a scale; not together with `axis`.
    """
    generator = torch.Generator().manual_seed(20)
    x = torch.randn(shape, generator=generator)
    gradient = torch.randn(shape, generator=generator)
    scale_shape: list[int] = []
    block_size: tuple[int, ...] | None = None
    if axis is not None:
        scale_shape = [1] * len(shape)
        scale_shape[axis] = shape[axis]
    elif block is not None:
        scale_shape = [*shape[:-1], shape[-1] // block]
        block_size = (*[1] * (len(shape) - 1), block)
    if dtype == "float32":
        # Three standard deviations fit: some values are clipped, as in a network.
        scale = 3 / QMAX * (0.9 + 0.2 * torch.rand(scale_shape, generator=generator))
    else:
        # A power of two is the same number in every dtype, whichever a library computes in.
        scale = torch.full(scale_shape, 2.0**-5)
    kind = getattr(torch, dtype)
    offset = torch.zeros_like(scale)
    return AffineInputs(x.to(kind), gradient.to(kind), scale.to(kind), offset.to(kind), block_size)


def _operator() -> Callable[..., Tensor]:
    try:
        from aimet_torch.ops import quantize_dequantize
    except ImportError:
        from aimet_torch.quantization.affine import quantize_dequantize
    return quantize_dequantize


@subject
def fake_quantize(**arguments: Any) -> Subject:
    """Forward, without gradients."""
    given = affine_inputs(**arguments)
    operator = _operator()
    grid = {"qmin": QMIN, "qmax": QMAX, "block_size": given.block_size}

    # Nothing of this requires a gradient, as nothing of what rivals are given.
    return Subject(lambda: operator(given.x, given.scale, given.offset, **grid))


@subject
def fake_quantize_training(*, learned: bool, only_backward: bool, **arguments: Any) -> Subject:
    """Forward and backward; `learned`: gradients of scale and offset too."""
    given = affine_inputs(**arguments)
    operator = _operator()
    leaves = [given.x, given.scale, given.offset] if learned else [given.x]
    for leaf in leaves:
        leaf.requires_grad_()

    def forward() -> Tensor:
        grid = {"qmin": QMIN, "qmax": QMAX, "block_size": given.block_size}
        return operator(given.x, given.scale, given.offset, **grid)

    return training_subject(forward, leaves, given.gradient, only_backward)


def training_subject(
    forward: Callable[[], Tensor], leaves: list[Tensor], gradient: Tensor, only_backward: bool
) -> Subject:
    """Gradients of `forward` for `leaves`; `only_backward`: of one forward done beforehand."""
    if only_backward:
        output = forward()
        return Subject(lambda: torch.autograd.grad(output, leaves, gradient, retain_graph=True))
    return Subject(lambda: torch.autograd.grad(forward(), leaves, gradient))


def sample(shape: tuple[int, ...]) -> Tensor:
    """Draw a tensor of activations or weights to observe."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(21))


@subject
def observe(*, shape: tuple[int, ...], channels: bool, analyzer: str, part: str = "all") -> Subject:
    """Observe one tensor with a fresh analyzer and search the range of symmetric int8.

    Args:
        shape: of the tensor.
        channels: one range for each index of dimension 0.
        analyzer: class in `aimet_torch.quantization.encoding_analyzer`.
        part: "all", or "search": only what comes after the histogram.
    """
    from aimet_torch.quantization import encoding_analyzer

    x = sample(shape)
    scale_shape = (shape[0], *[1] * (len(shape) - 1)) if channels else ()
    options = {"percentile": 99.9} if analyzer == "PercentileEncodingAnalyzer" else {}

    def fresh() -> Any:
        return getattr(encoding_analyzer, analyzer)(shape=scale_shape, **options)

    def search(observed: Any) -> Any:
        with torch.no_grad():
            return observed.compute_encodings(num_steps=QMAX - QMIN, is_symmetric=True)

    def update(observed: Any) -> Any:
        with torch.no_grad():
            observed.update_stats(x)
        return observed

    if part == "search":
        filled = update(fresh())
        return Subject(lambda: search(filled))
    return Subject(lambda observed: search(update(observed)), setup=fresh)


@subject
def min_max(*, shape: tuple[int, ...]) -> Subject:
    """The operator of calibration; aimet-torch has none of its own."""
    from aimet_torch import ops

    x = sample(shape)
    return Subject(lambda: ops.min_max(x, ()))


@subject
def float_format(*, shape: tuple[int, ...], format: str, dtype: str) -> Subject:
    """Forward of a floating-point quantizer with scale 1, without gradients."""
    from aimet_torch.quantization.float import FloatQuantizeDequantize

    kind = getattr(torch, format)
    x = sample(shape).to(getattr(torch, dtype))
    quantizer = FloatQuantizeDequantize(dtype=kind)
    quantizer.maxval.fill_(torch.finfo(kind).max)

    def run() -> Tensor:
        with torch.no_grad():
            return getattr(quantizer, "simulate", quantizer)(x)

    return Subject(run)


@subject
def microscaling(*, shape: tuple[int, ...], element: str, block: int) -> Subject:
    """Scales of blocks on the last axis and rounding with them, without gradients.

    aimet-torch rounds in one step and leaves the scales to the caller; what it does for float4
    weights is written out here.
    """
    x = sample(shape)
    try:
        from aimet_torch import ops
    except ImportError:
        return _microscaling_of_aimet(x, block)
    if element == "nvfp4":
        scale = x.abs().max() / (6 * 448)
        return Subject(lambda: ops.quantize_dequantize_nvfp4(x, scale, -1, block)[0])
    return Subject(lambda: ops.quantize_dequantize_mx(x, element, -1, block)[0])


def _microscaling_of_aimet(x: Tensor, block: int) -> Subject:
    from aimet_torch.quantization.float import quantizer as float_quantizer

    *leading, last = x.shape
    scale_shape = (*leading, last // block)
    quantizer = float_quantizer._MXFP4QuantizeDequantize(
        shape=scale_shape, block_size=(*[1] * len(leading), block)
    )

    def run() -> Tensor:
        with torch.no_grad():
            largest = x.unflatten(-1, (-1, block)).abs().amax(-1) / 4
            quantizer.maxval = torch.exp2(torch.floor(torch.log2(largest))) * 6
            return quantizer(x)

    return Subject(run)


@subject
def quantize_and_observe(*, shape: tuple[int, ...]) -> Subject:
    """The forward and the limits of its input, in one pass; aimet-torch has no such operator."""
    from aimet_torch import ops

    given = affine_inputs(shape)
    return Subject(
        lambda: ops.quantize_dequantize_min_max(given.x, given.scale, given.offset, QMIN, QMAX)
    )
