"""Every error of every operator: its class and its words, on the CPU and when compiling (Meta)."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from aimet_torch import ops

X = torch.randn(4, 6)
ONE = torch.tensor(1.0)
ZERO = torch.tensor(0.0)
HISTOGRAM = torch.zeros(8, dtype=torch.int64)

Arguments = tuple[object, ...]

# (operator, arguments, exception, message)
SHARED: list[tuple[str, Arguments, type[Exception], str]] = [
    (
        "quantize_dequantize",
        (X.int(), ONE, ZERO, -8, 7),
        TypeError,
        "quantize_dequantize: `input` must be float16, bfloat16, float32 or "
        "float64, got Int; convert it",
    ),
    ("quantize", (X, ONE.long(), ZERO, -8, 7), TypeError, "quantize: `scale` must be float16"),
    (
        "dequantize",
        (X, ONE, ZERO.bool()),
        TypeError,
        "dequantize: `offset` must hold real numbers, got Bool",
    ),
    (
        "quantize_dequantize",
        (X, ONE, ZERO, 7, 7),
        ValueError,
        "quantize_dequantize: `qmin` must be less than `qmax`, got qmin=7 and qmax=7",
    ),
    (
        "quantize",
        (X, ONE, ZERO, 0, 2**33),
        ValueError,
        "quantize: `qmin` and `qmax` must lie in [-2**31, 2**32 - 1], got qmin=0 "
        "and qmax=8589934592",
    ),
    (
        "dequantize",
        (X, torch.ones(5), ZERO),
        ValueError,
        "dequantize: `scale` must broadcast against `input`, got scale of shape [5] "
        "and input of shape [4, 6]",
    ),
    (
        "quantize",
        (X, torch.ones(1, 4, 6), ZERO, -8, 7),
        ValueError,
        "quantize: `scale` must not have more dimensions than `input`, got scale of "
        "shape [1, 4, 6]",
    ),
    (
        "quantize_dequantize",
        (X, torch.ones(4, 1), torch.zeros(6), -8, 7),
        ValueError,
        "quantize_dequantize: `offset` must have the shape of `scale` or one "
        "element, got offset of shape [6]",
    ),
    (
        "quantize_dequantize",
        (X, torch.ones(4, 2), ZERO, -8, 7, [3]),
        ValueError,
        "`block_size` must have one entry per dimension of `scale`, got block_size=[3]",
    ),
    (
        "quantize_dequantize",
        (X, torch.ones(4, 2), ZERO, -8, 7, [1, 0]),
        ValueError,
        "entries of `block_size` must be positive, or -1 for the rest of the "
        "dimension, got block_size=[1, 0]",
    ),
    (
        "quantize_dequantize",
        (X, torch.ones(4, 2), ZERO, -8, 7, [1, 4]),
        ValueError,
        "`scale` times `block_size` must give the shape of `input`, got scale of "
        "shape [4, 2], block_size=[1, 4]",
    ),
    (
        "quantize_dequantize",
        (X, torch.ones(4, 4), ZERO, -8, 7, [1, -1]),
        ValueError,
        "`scale` times `block_size` must give the shape of `input`",
    ),
    (
        "quantize_dequantize_float",
        (X.int(), ONE, 5, 10),
        TypeError,
        "quantize_dequantize_float: `input` must be float16",
    ),
    (
        "quantize_dequantize_float",
        (X, torch.ones(5), 5, 10),
        ValueError,
        "quantize_dequantize_float: `scale` must broadcast against `input`",
    ),
    (
        "quantize_dequantize_float",
        (X, ONE, 9, 10),
        ValueError,
        "quantize_dequantize_float: `exponent_bits` must be 2 to 8, got 9",
    ),
    (
        "quantize_dequantize_float",
        (X, ONE, 5, 0),
        ValueError,
        "quantize_dequantize_float: `mantissa_bits` must be 1 to 23, got 0",
    ),
    (
        "quantize_dequantize_float",
        (X, ONE, 8, 3, True),
        ValueError,
        "with 8 `exponent_bits`, `finite` and `unsigned_zero` must be False: such numbers do not "
        "fit into float32; use 7 bits or fewer",
    ),
    (
        "quantize_dequantize_mx",
        (X, "float8"),
        ValueError,
        "quantize_dequantize_microscaling: `element` must be float8e4m3fn, float8e5m2, float6e3m2, "
        "float6e2m3, float4e2m1 or int8, got float8",
    ),
    (
        "quantize_dequantize_mx",
        (X.int(), "int8"),
        TypeError,
        "quantize_dequantize_microscaling: `input` must be float16",
    ),
    (
        "quantize_dequantize_mx",
        (ONE, "int8"),
        ValueError,
        "`input` must have a dimension to divide into blocks, got one number; reshape it to (1,)",
    ),
    (
        "quantize_dequantize_mx",
        (X, "int8", 2),
        ValueError,
        "`axis` must be a dimension of `input`, got axis=2 and input of shape [4, 6]",
    ),
    (
        "quantize_dequantize_mx",
        (X, "int8", 1, 2048),
        ValueError,
        "`block_size` must be 1 to 1024, got 2048",
    ),
    (
        "quantize_dequantize_nvfp4",
        (X, torch.ones(2)),
        ValueError,
        "`tensor_scale` must have one element, got shape [2]",
    ),
    (
        "quantize_dequantize_nvfp4",
        (X, ONE.int()),
        TypeError,
        "`tensor_scale` must be float16",
    ),
    (
        "quantize_dequantize_min_max",
        (X, torch.tensor(1.0), ZERO, 7, 7),
        ValueError,
        "quantize_dequantize_min_max: `qmin` must be less than `qmax`",
    ),
    (
        "clamp_quantize_dequantize",
        (X, None, None, ONE, ZERO, -8, 7),
        ValueError,
        "clamp_quantize_dequantize: one of `clamp_min` and `clamp_max` must be given, got None for "
        "both; without a clamp use quantize_dequantize",
    ),
    (
        "clamp_quantize_dequantize",
        (X, 1.0, -1.0, ONE, ZERO, -8, 7),
        ValueError,
        "clamp_quantize_dequantize: `clamp_min` must not exceed `clamp_max`, got 1 and -1",
    ),
    (
        "clamp_quantize_dequantize",
        (X, 0.0, None, torch.ones(5), ZERO, -8, 7),
        ValueError,
        "clamp_quantize_dequantize: `scale` must broadcast against `input`",
    ),
    (
        "clamp_quantize_dequantize",
        (X.int(), 0.0, None, ONE, ZERO, -8, 7),
        TypeError,
        "clamp_quantize_dequantize: `input` must be float16",
    ),
    ("min_max", (X.int(), ()), TypeError, "min_max: `input` must be float16"),
    (
        "min_max",
        (X, (5,)),
        ValueError,
        "min_max: `shape` must broadcast against `input`, got shape of shape [5]",
    ),
    (
        "range_from_min_max",
        (ONE.int(), ONE, 0, 7, False),
        TypeError,
        "range_from_min_max: `min` must be float16",
    ),
    (
        "range_from_min_max",
        (ONE, ONE.double(), 0, 7, False),
        TypeError,
        "range_from_min_max: `min` and `max` must have the same dtype, got Float and Double",
    ),
    (
        "encoding_from_range",
        (ONE, torch.ones(2), 0, 7, False),
        ValueError,
        "encoding_from_range: `min` and `max` must have the same shape, got [] and [2]",
    ),
    (
        "encoding_from_range",
        (ZERO, ONE, 3, -3, True),
        ValueError,
        "encoding_from_range: `qmin` must be less than",
    ),
    (
        "update_histogram_",
        (HISTOGRAM.int(), X, ZERO, ONE),
        TypeError,
        "update_histogram_: `histogram` must be int64, got Int",
    ),
    (
        "update_histogram_",
        (HISTOGRAM, X, torch.zeros(6), torch.ones(6)),
        ValueError,
        "`histogram` must have the shape of `min` and one more dimension of bins, "
        "got histogram of shape [8]",
    ),
    ("update_histogram_", (HISTOGRAM[:0], X, ZERO, ONE), ValueError, "one more dimension of bins"),
    (
        "update_histogram_",
        (HISTOGRAM, X.int(), ZERO, ONE),
        TypeError,
        "update_histogram_: `input` must be",
    ),
    (
        "update_histogram_",
        (torch.zeros(5, 8, dtype=torch.int64), X, torch.zeros(5), torch.ones(5)),
        ValueError,
        "update_histogram_: `min` must broadcast against `input`",
    ),
    (
        "rebin_histogram",
        (HISTOGRAM, ZERO, ONE, torch.zeros(2), torch.ones(2)),
        ValueError,
        "rebin_histogram: `histogram` must have the shape of `min`",
    ),
    (
        "range_from_percentile",
        (HISTOGRAM, ZERO, ONE, 20.0, 0, 7, False),
        ValueError,
        "range_from_percentile: `percentile` must lie in [50, 100], got 20",
    ),
    (
        "range_from_mse",
        (HISTOGRAM, ZERO, ONE, 7, 0, False),
        ValueError,
        "range_from_mse: `qmin` must be less",
    ),
    (
        "range_from_entropy",
        (HISTOGRAM.float(), ZERO, ONE, 0, 7, False),
        TypeError,
        "range_from_entropy: `histogram` must be int64",
    ),
    (
        "range_from_sqnr",
        (HISTOGRAM, ZERO, ONE, 0, 7, False, 1),
        ValueError,
        "range_from_sqnr: `asymmetric_delta_candidates` must be at least 2, got 1",
    ),
    (
        "range_from_sqnr",
        (HISTOGRAM, ZERO, ONE, 0, 7, False, 17, 0),
        ValueError,
        "range_from_sqnr: `symmetric_delta_candidates` must be at least 2, got 0",
    ),
    (
        "range_from_sqnr",
        (HISTOGRAM, ZERO, ONE, 0, 7, False, 17, 101, 2),
        ValueError,
        "range_from_sqnr: `offset_candidates` must be at least 3, got 2",
    ),
    (
        "range_from_sqnr",
        (HISTOGRAM, ZERO, ONE, 0, 7, False, 17, 101, 21, 0.0),
        ValueError,
        "range_from_sqnr: `gamma` must be positive, got 0",
    ),
]
IDS = [f"{index}-{operator}" for index, (operator, *_) in enumerate(SHARED)]


def function(operator: str) -> Callable:
    return getattr(ops, operator)


@pytest.mark.parametrize(("operator", "arguments", "error", "message"), SHARED, ids=IDS)
def test_cpu(operator: str, arguments: Arguments, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        function(operator)(*arguments)


@pytest.mark.parametrize(("operator", "arguments", "error", "message"), SHARED, ids=IDS)
def test_meta(operator: str, arguments: Arguments, error: type[Exception], message: str) -> None:
    on_meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments]
    with pytest.raises(error, match=re.escape(message)):
        function(operator)(*on_meta)


@pytest.mark.parametrize("value", [0.0, -1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("operator", ["quantize", "quantize_dequantize"])
def test_scales_must_be_positive_and_finite(operator: str, value: float) -> None:
    message = (
        f"{operator}: `scale` must be positive and finite, got {value:g}; compute the encodings"
    )
    for scale in (torch.tensor(value), torch.tensor([1.0, 1, 1, 1, 1, value])):
        with pytest.raises(ValueError, match=re.escape(message)):
            function(operator)(X, scale, ZERO, -8, 7)
        with pytest.raises(ValueError, match=re.escape(message)):  # where training reaches it
            function(operator)(X, scale.requires_grad_(), ZERO, -8, 7)


def test_more_than_a_thousand_scales_are_not_read() -> None:
    scale = torch.ones(2000)
    scale[5] = -1
    assert ops.quantize_dequantize(torch.randn(2, 2000), scale, ZERO, -8, 7).isfinite().all()
    with pytest.raises(ValueError, match="must be positive"):
        ops.quantize_dequantize(torch.randn(2, 1024), scale[:1024], ZERO, -8, 7)


def test_parts_of_the_gradient_check_their_arguments() -> None:
    operators = torch.ops.aimet
    with pytest.raises(
        ValueError, match="`mask` must be uint8 with one bit for each element of `grad`"
    ):
        operators._quantize_dequantize_mask_backward(X, torch.zeros(2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="`grad` must have the shape of `input`, got"):
        operators._quantize_dequantize_backward(X[:2], X, ONE, ZERO, -8, 7, None, [True] * 3)
    with pytest.raises(ValueError, match="`grad` must have the shape of `input`, got"):
        operators._quantize_dequantize_float_backward(
            X[:2], X, ONE, 4, 3, True, False, True, None, [True] * 2
        )


@pytest.mark.parametrize("value", [0.0, -1.5, float("nan"), float("inf")])
def test_scales_of_floats_must_be_positive_and_finite(value: float) -> None:
    message = f"`scale` must be positive and finite, got {value:g}"
    for learns in (False, True):
        with pytest.raises(ValueError, match=re.escape(f"quantize_dequantize_float: {message}")):
            ops.quantize_dequantize_float(X, torch.tensor(value, requires_grad=learns), 5, 10)
    message = f"`tensor_scale` must be positive and finite, got {value:g}"
    with pytest.raises(ValueError, match=re.escape(message)):
        ops.quantize_dequantize_nvfp4(X, torch.tensor(value))
    with pytest.raises(ValueError, match="`element` must be float4e2m1, got int8"):
        torch.ops.aimet.quantize_dequantize_microscaling(X, "int8", -1, 16, ONE)
