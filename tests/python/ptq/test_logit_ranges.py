"""Ranges of a classifier's outputs by cross entropy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aimet_torch import QuantizationSimModel
from aimet_torch.ptq import set_logit_ranges


class Classifier(nn.Module):
    """Logits of which most are far below zero, and another output that is none of them."""

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.other = nn.Linear(6, 16), nn.Linear(16, 40), nn.Linear(16, 3)
        with torch.no_grad():
            self.head.bias.sub_(25)
            self.head.weight[:4].mul_(8)
            self.head.bias[:4].add_(28)
        self.flat = flat

    def forward(self, x):
        x = torch.relu(self.body(x))
        return self.head(x) if self.flat else {"logits": self.head(x), "other": [self.other(x)]}


def batches(count=6):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, 6, generator=generator) for _ in range(count)]


def simulate(model, bits=4):
    sim = QuantizationSimModel(model, batches()[0], default_output_bw=8)
    sim.model.head.output_quantizers[0].bitwidth = bits
    sim.compute_encodings(batches())
    return sim


def divergence(sim, model):
    """Of the probabilities, from those in FP32."""
    total = 0.0
    with torch.no_grad():
        for x in batches():
            wanted = torch.log_softmax(model(x), 1)
            total += float((wanted.exp() * (wanted - torch.log_softmax(sim.model(x), 1))).sum())
    return total


def test_probabilities_change_less():
    model = Classifier(flat=True).eval()
    sim = simulate(model)
    before, quantizer = divergence(sim, model), sim.model.head.output_quantizers[0]
    low = quantizer.min.item()
    ranges = set_logit_ranges(sim, batches())
    assert divergence(sim, model) < 0.7 * before
    assert quantizer.min > low + 5
    assert ranges == {"head": (quantizer.min.item(), quantizer.max.item())}
    assert sim.model.head.output_quantizers[0] is quantizer


def test_every_output_and_only_outputs():
    sim = simulate(Classifier().eval())
    sim.model.other.output_quantizers[0].allow_overwrite(False)
    before = {name: tensor.clone() for name, tensor in sim.quantizer_state_dict().items()}
    assert set(set_logit_ranges(sim, batches())) == {"head"}
    after = sim.quantizer_state_dict()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert all(name.startswith("head.output_quantizers.0.") for name in changed)


def test_errors():
    sim = simulate(Classifier(flat=True).eval())
    with pytest.raises(ValueError, match="gave no batch"):
        set_logit_ranges(sim, [])
    sim.model.head.output_quantizers[0] = None
    with pytest.raises(ValueError, match="set_logit_ranges: no output of the model has an affine"):
        set_logit_ranges(sim, batches())
