"""Parity with aimet-torch 2.42: every case of tests/golden/aimet_2_42.npz.

The file holds what aimet-torch computed on a CPU for 25 forward and backward passes and 260
calibrated encodings (made by make_golden.py beside it). The counts below are part of the test: a
change that makes more cases differ fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
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

GOLDEN = Path(__file__).parents[1] / "golden" / "aimet_2_42.npz"
ARRAYS = np.load(GOLDEN)
CASES = json.loads(str(ARRAYS["cases"]))
FORWARD = [case for case in CASES if case["kind"] == "quantize_dequantize"]
ENCODINGS = [case for case in CASES if case["kind"] == "encoding"]


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


def batches(case: dict) -> list[torch.Tensor]:
    return [torch.from_numpy(ARRAYS[f"dist_{case['dist']}_{index}"]) for index in range(3)]


def new_analyzer(case: dict) -> EncodingAnalyzer:
    shape = () if case["granularity"] == "per_tensor" else (6, 1, 1)
    return make_analyzer(case["analyzer"], shape)


def calibrate(case: dict) -> affine.QuantizeDequantize:
    analyzer = new_analyzer(case)
    quantizer = affine.QuantizeDequantize(analyzer.shape, case["bits"], case["symmetric"], analyzer)
    with quantizer.compute_encodings():
        for batch in batches(case):
            quantizer(batch)
    return quantizer


def observe(case: dict) -> EncodingAnalyzer:
    analyzer = new_analyzer(case)
    for batch in batches(case):
        analyzer.update_stats(batch)
    return analyzer


def test_script_that_made_the_file_runs_with_this_package(tmp_path):
    path = tmp_path / "ours.npz"
    script = GOLDEN.with_name("make_golden.py")
    subprocess.run([sys.executable, str(script), "1", str(path)], check=True)
    ours = np.load(path)
    assert set(ours.files) == set(ARRAYS.files)
    assert json.loads(str(ours["cases"])) == CASES
    inputs = [name for name in ARRAYS.files if name.startswith("dist_") or name.endswith("_x")]
    drawn = [name for name in inputs if not name.endswith("grad_x")]
    assert len(drawn) == 21 + 25
    assert all(np.array_equal(ours[name], ARRAYS[name]) for name in drawn)


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


HISTOGRAM_CASES = [case for case in ENCODINGS if case["analyzer"] != "min_max"]


def bin_width(case: dict) -> torch.Tensor:
    """Width of a bin of the histogram over all three batches, per tensor or channel."""
    data = torch.stack(batches(case))
    per_channel = case["granularity"] == "per_channel"
    axes = (0, 2, 3) if per_channel else (0, 1, 2, 3)
    width = data.amax(axes) - data.amin(axes)
    return (width.reshape(-1, 1, 1) if per_channel else width) / (
        512 if case["analyzer"] == "tf_enhanced" else 2048
    )


def squared_error(analyzer: EncodingAnalyzer, encoding: affine.AffineEncoding) -> torch.Tensor:
    """What the search minimizes, in float64: clipped values count three times (gamma)."""
    bins = analyzer.histogram.shape[-1]
    centers = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    low, high = analyzer._lower[..., None].double(), analyzer._upper[..., None].double()
    values = low + (high - low) * centers
    scale, offset = encoding.scale.double()[..., None], encoding.offset.double()[..., None]
    integers = torch.round(values / scale) - offset
    clipped = (integers < encoding.qmin) | (integers > encoding.qmax)
    error = (integers.clamp(encoding.qmin, encoding.qmax) + offset) * scale - values
    weight = torch.where(clipped, 3.0, 1.0) * analyzer.histogram
    return (error.square() * weight).sum(-1)


def compare_histogram_case(case: dict) -> str:
    """``equal``, ``rounding``, ``one bin`` or, for another candidate, whether ours is no worse."""
    quantizer = calibrate(case)
    ours = torch.stack([quantizer.get_min(), quantizer.get_max()]).detach()
    golden = torch.stack([array(case, "min"), array(case, "max")])
    if torch.equal(ours, golden):
        return "equal"
    if torch.allclose(ours, golden, rtol=1e-6, atol=1e-9):
        return "rounding"
    # An edge of a bin is the result of a few roundings in float32, hence the thousandth.
    if ((ours - golden).abs() <= 1.001 * bin_width(case)).all():
        return "one bin"
    theirs = affine.AffineEncoding(
        array(case, "scale"), array(case, "offset"), case["qmin"], case["qmax"]
    )
    analyzer = observe(case)
    cost = squared_error(analyzer, quantizer.get_encodings())
    is_no_worse = cost <= squared_error(analyzer, theirs) * (1 + 1e-9)
    return "better candidate" if is_no_worse.all() else f"off: {case}"


def test_histogram_encodings():
    counts = Counter(compare_histogram_case(case) for case in HISTOGRAM_CASES)
    # The two better candidates are one channel each, where two neighboring scales have nearly the
    # same error and sums in float32 decided for the worse one.
    assert counts == {"equal": 193, "rounding": 8, "one bin": 5, "better candidate": 2}
