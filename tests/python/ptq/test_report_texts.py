"""What reports print: a few lines that a person reads, and no tensors."""

from __future__ import annotations

import torch

from aimet_torch.ptq.activation_equalization import ActivationEqualizationReport
from aimet_torch.ptq.block_walk import BlockReport
from aimet_torch.ptq.layer_rounding import LayerResult
from aimet_torch.ptq.layerwise import LayerwiseReport


def test_rounding_prints_the_errors_of_layers_and_what_was_left_out() -> None:
    zeros = torch.zeros(1, 2, 3)
    result = LayerResult(zeros, zeros, zeros, None, error=0.0123, nearest_error=0.456)
    for report in (LayerwiseReport, BlockReport):
        text = str(report({"conv1": result}, {"conv1": zeros}, {"fc": "it is called twice"}))
        (row,) = [line for line in text.splitlines() if "conv1" in line]
        assert row.split() == ["conv1", "0.456", "0.0123"]
        assert text.endswith("fc was left out: it is called twice")
        assert "tensor" not in text


def test_equalization_prints_scales_as_their_limits() -> None:
    scales = {"conv1": torch.tensor([0.5, 2.0, 1.0])}
    assert str(ActivationEqualizationReport(scales, {"conv1": ["conv2", "fc"]}, scales)) == (
        "1 activations equalized\n  conv1: divided by 0.5 to 2, taken up by conv2, fc"
    )
