"""Tucker-2 and CP decompositions in a model."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression import factorize
from aimet_torch.compression.tensor_factors import decompose
from tests.python.compression.networks import images, small

tensorly = pytest.importorskip("tensorly")
pytestmark = pytest.mark.usefixtures("one_thread")


def low_rank_layer(scheme, layer):
    """``layer`` with a weight that factors of rank 2 hold exactly."""
    torch.manual_seed(1)
    shape = layer.weight.shape
    with torch.no_grad():
        if scheme == "cp":
            letters = "abcde"[: len(shape)]
            parts = [torch.randn(size, 2) for size in shape]
            equation = ",".join(f"{letter}z" for letter in letters) + f"->{letters}"
            layer.weight.copy_(torch.einsum(equation, *parts))
        else:
            core = torch.randn(2, 2, *shape[2:])
            out, into = torch.randn(shape[0], 2), torch.randn(2, shape[1])
            layer.weight.copy_(torch.einsum("or,rs...,si->oi...", out, core, into))
    return layer


@pytest.mark.parametrize("scheme", ["tucker", "cp"])
@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(8, 10, 3, padding=1), (9, 9)),
        (nn.Conv2d(8, 10, (3, 5), stride=(2, 3), padding=(1, 2), dilation=(1, 2)), (15, 17)),
        (nn.Conv2d(8, 10, 3, padding="same", bias=False), (9, 9)),
        (nn.Conv2d(8, 10, 3, padding=1, padding_mode="reflect"), (9, 9)),
        (nn.Conv1d(8, 10, 5, stride=2), (21,)),
        (nn.Conv3d(8, 10, 3, padding=1), (5, 6, 7)),
    ],
)
def test_factors_of_a_low_rank_weight_compute_what_it_computes(scheme, layer, size):
    layer = low_rank_layer(scheme, layer).eval()
    row, made = decompose("x", layer, scheme, 0.6, CostMetric.mac, 1)
    assert row.reached <= 0.6
    assert row.rank >= 2
    x = torch.randn(2, 8, *size)
    wanted = layer(x)
    # Alternating least squares comes to an end before the last digits.
    tolerance = 1e-3 if scheme == "cp" else 1e-5
    assert row.weight_error < tolerance**1.5
    with torch.no_grad():
        error = (made(x) - wanted).norm() / wanted.norm()
    assert float(error) < 30 * tolerance
    assert made(x).shape == wanted.shape


@pytest.mark.parametrize("scheme", ["tucker", "cp"])
def test_a_model_with_them(scheme):
    model = small()
    result = factorize(model, images(2), 0.5, scheme=scheme)
    rows = {row.name: row for row in result.layers}
    assert rows["conv1"].factorization == scheme
    assert rows["depthwise"].factorization is None
    assert "of one group" in rows["fc"].note
    own = sum(c.macs for c in result.after.layers if c.name.startswith("conv1."))
    assert own / result.before.layer("conv1").macs == pytest.approx(rows["conv1"].reached)
    assert result.model(images(2)).shape == (2, 10)
    assert {type(m).__module__.partition(".")[0] for m in result.model.modules()} == {
        "torch",
        "tests",
    }


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="`data` cannot be used with `scheme` 'cp'"):
        factorize(small(), images(2), 0.5, scheme="cp", data=[images(2)])
    monkeypatch.setitem(sys.modules, "tensorly", None)
    with pytest.raises(ImportError, match=r"need tensorly; install it with `pip install aimet-t"):
        factorize(small(), images(2), 0.5, scheme="tucker")
