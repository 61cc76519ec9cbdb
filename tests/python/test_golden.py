"""Parity with aimet-torch 2.42: every case of tests/golden/aimet_2_42.npz.

The file holds what aimet-torch computed on a CPU for 25 forward and backward passes and 260
calibrated encodings (made by make_golden.py beside it). The counts below are part of the test: a
change that makes more cases differ fails.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aimet_torch.quantization import affine
from aimet_torch.quantization.encoding_analyzer import (
    EncodingAnalyzer,
    MinMaxEncodingAnalyzer,
    PercentileEncodingAnalyzer,
    SqnrEncodingAnalyzer,
    TfEnhancedEncodingAnalyzer,
)

ARRAYS = np.load(Path(__file__).parents[1] / "golden" / "aimet_2_42.npz")
CASES = json.loads(str(ARRAYS["cases"]))
FORWARD = [case for case in CASES if case["kind"] == "quantize_dequantize"]
ENCODINGS = [case for case in CASES if case["kind"] == "encoding"]
BATCHES = 3


def array(case: dict, name: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[case["key"] + name])


def make_analyzer(name: str, shape: tuple[int, ...]) -> EncodingAnalyzer:
    if name.startswith("percentile_"):
        return PercentileEncodingAnalyzer(shape, percentile=float(name.removeprefix("percentile_")))
    classes = {
        "min_max": MinMaxEncodingAnalyzer,
        "sqnr": SqnrEncodingAnalyzer,
        "tf_enhanced": TfEnhancedEncodingAnalyzer,
    }
    return classes[name](shape)


def calibrate(case: dict) -> affine.QuantizeDequantize:
    shape = () if case["granularity"] == "per_tensor" else (6, 1, 1)
    analyzer = make_analyzer(case["analyzer"], shape)
    quantizer = affine.QuantizeDequantize(shape, case["bits"], case["symmetric"], analyzer)
    with quantizer.compute_encodings():
        for index in range(BATCHES):
            quantizer(torch.from_numpy(ARRAYS[f"dist_{case['dist']}_{index}"]))
    return quantizer


def test_file_is_complete():
    assert (len(FORWARD), len(ENCODINGS)) == (25, 260)


def is_tie(case: dict, x: torch.Tensor) -> torch.Tensor:
    """Where x / scale is so near to a half that the rounding of the quotient decides."""
    scale = expand(case, array(case, "scale"))
    quotient = x.double() / scale.double()
    distance = (quotient - quotient.floor() - 0.5).abs()
    return distance <= 2 * torch.finfo(torch.float32).eps * quotient.abs().clamp(min=1)


def expand(case: dict, values: torch.Tensor) -> torch.Tensor:
    if case["block_size"]:
        for dim, size in enumerate(case["block_size"]):
            values = values.repeat_interleave(size, dim)
    return values


@pytest.mark.parametrize("case", FORWARD, ids=lambda case: case["key"])
def test_forward_and_backward(case):
    grid = {"qmin": case["qmin"], "qmax": case["qmax"], "block_size": case["block_size"]}
    x, scale, offset = (array(case, n).requires_grad_() for n in ("x", "scale", "offset"))
    output = affine.quantize_dequantize(x, scale, offset, **grid)
    output.backward(array(case, "grad_out"))
    integers = affine.quantize(x.detach(), scale.detach(), offset.detach(), **grid)
    ties = is_tie(case, x.detach())
    for ours, name in ((output.detach(), "y"), (integers, "q")):
        differs = ours != array(case, name)
        assert not (differs & ~ties).any()
        assert differs.sum() == 0  # none of the ties in this file is decided differently
    torch.testing.assert_close(x.grad, array(case, "grad_x"), rtol=1e-5, atol=1e-5)
    for ours, name in ((scale.grad, "grad_scale"), (offset.grad, "grad_offset")):
        golden = array(case, name)
        # Sums of many terms of both signs: relative to the size of the terms.
        torch.testing.assert_close(ours, golden, rtol=1e-5, atol=1e-5 * float(golden.abs().max()))


@pytest.mark.parametrize(
    "case",
    [case for case in ENCODINGS if case["analyzer"] == "min_max"],
    ids=lambda case: "-".join(map(str, (case["dist"], case["granularity"], case["bits"]))),
)
def test_min_max_encoding(case):
    quantizer = calibrate(case)
    torch.testing.assert_close(
        quantizer.get_scale().detach(), array(case, "scale"), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(quantizer.get_offset().detach(), array(case, "offset"))
    for ours, name in ((quantizer.get_min(), "min"), (quantizer.get_max(), "max")):
        torch.testing.assert_close(ours.detach(), array(case, name), rtol=1e-6, atol=1e-9)
