"""Tucker-2 and CP decompositions in a model."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from aimet_torch.common.defs import CompressionScheme, CostMetric, GreedySelectionParameters
from aimet_torch.compress import ModelCompressor
from aimet_torch.compression import factorize
from aimet_torch.compression.tensor_factors import decompose, modules_of, ranks_at
from aimet_torch.defs import (
    CpParameters,
    ExactSelectionParameters,
    ModuleCompRatioPair,
    TuckerParameters,
)
from tests.python.compression.networks import images, likeness, small

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


def compress(model, scheme, params, mode="auto", metric=CostMetric.mac):
    kind = {"tucker": TuckerParameters, "cp": CpParameters}[scheme]
    return ModelCompressor.compress_model(
        model, likeness, None, (1, 3, 8, 8), CompressionScheme[scheme], metric,
        kind(kind.Mode[mode], params),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("scheme", "metric"),
    [("tucker", CostMetric.mac), ("tucker", CostMetric.memory), ("cp", CostMetric.mac)],
)
@pytest.mark.parametrize(
    "selection", [GreedySelectionParameters(0.66, 4), ExactSelectionParameters(0.66, 5)]
)
def test_ratios_are_chosen(scheme, selection, metric):
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    compressed, stats = compress(
        model, scheme, TuckerParameters.AutoModeParams(selection), metric=metric
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    found = stats.compression_ratio_selection_stats
    assert 0.6 < found.achieved <= 0.66
    reached = {
        CostMetric.mac: stats.mac_compression_ratio,
        CostMetric.memory: stats.memory_compression_ratio,
    }[metric]
    assert reached == pytest.approx(found.achieved)
    notes = {row.name: row.note for row in stats.per_layer_stats}
    assert "of one group" in notes["fc"]
    rows = [row for row in stats.per_layer_stats if row.compression_ratio is not None]
    assert rows
    assert all(row.detail.startswith(f"{scheme}, rank") for row in rows)
    assert isinstance(compressed.get_submodule(rows[0].name), nn.Sequential)
    # Its layers are factors from now on.
    again = {row.name: row.note for row in compress(
        compressed, scheme, TuckerParameters.ManualModeParams([]), "manual"
    )[1].per_layer_stats}  # fmt: skip
    assert again[f"{rows[0].name}.0"] == "it is a factor of an earlier compression"


@pytest.mark.parametrize("scheme", ["tucker", "cp"])
def test_given_ratios(scheme):
    model = small()
    params = TuckerParameters.ManualModeParams([ModuleCompRatioPair(model.down, 0.5)])
    compressed, stats = compress(model, scheme, params, "manual")
    assert isinstance(compressed.down, nn.Sequential)
    assert isinstance(compressed.conv1, nn.Conv2d)
    (row,) = (row for row in stats.per_layer_stats if row.compression_ratio is not None)
    assert row.reached <= 0.5
    wanted = factorize(model, images(2), {"down": 0.5}, scheme=scheme).model
    with torch.no_grad():
        torch.testing.assert_close(compressed(images(4)), wanted(images(4)))


@pytest.mark.parametrize("scheme", ["tucker", "cp"])
def test_sizes_are_known_before_the_decomposition(scheme):
    layer = nn.Conv2d(8, 10, (3, 5), stride=(2, 1))
    ranks = ranks_at(layer, scheme, 0.5, CostMetric.mac, 1)
    empty, made = (modules_of(layer, scheme, ranks, empty=flag)[0] for flag in (True, False))
    assert [m.weight.shape for m in empty] == [m.weight.shape for m in made]
    assert [str(m) for m in empty] == [str(m) for m in made]


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="`data` cannot be used with `scheme` 'cp'"):
        factorize(small(), images(2), 0.5, scheme="cp", data=[images(2)])
    monkeypatch.setitem(sys.modules, "tensorly", None)
    with pytest.raises(ImportError, match=r"need tensorly; install it with `pip install aimet-t"):
        factorize(small(), images(2), 0.5, scheme="tucker")
    with pytest.raises(ImportError, match=r"compress_model: Tucker and CP decompositions need ten"):
        compress(small(), "cp", CpParameters.AutoModeParams(ExactSelectionParameters(0.5)))
    with pytest.raises(TypeError, match=r"cp: CpParameters.*got TuckerParameters for"):
        ModelCompressor.compress_model(
            small(), likeness, None, (1, 3, 8, 8), CompressionScheme.cp, CostMetric.mac,
            TuckerParameters(
                TuckerParameters.Mode.manual, TuckerParameters.ManualModeParams([])
            ),
        )  # fmt: skip
