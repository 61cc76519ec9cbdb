"""Ranges in front of normalizations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aimet_torch import QuantizationSimModel
from aimet_torch.ptq import set_ranges_before_norms
from aimet_torch.report.metrics import sqnr_db


class Block(nn.Module):
    """A residual connection with an outlier in one channel for some inputs, and a LayerNorm."""

    def __init__(self, norm=nn.LayerNorm):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(12, 48), nn.Linear(48, 12)
        self.norm, self.head = norm(12, eps=1e-6), nn.Linear(12, 4)
        with torch.no_grad():
            self.up.weight[0] = 3.0
            self.up.bias[0] = -60.0
            self.down.weight[4, 0] = 20.0

    def forward(self, x):
        return self.head(self.norm(x + self.down(torch.relu(self.up(x)))))


def batches():
    x = torch.randn(4, 16, 12, generator=torch.Generator().manual_seed(1))
    x[:, 3] += 2.0
    return list(x)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_the_network_loses_less(norm):
    model = Block(norm).eval()
    sim = QuantizationSimModel(model, batches()[0], "min_max")
    sim.compute_encodings(batches())
    reference = model(torch.stack(batches())).detach()

    def noise():
        return sqnr_db(reference, torch.stack([sim.model(x) for x in batches()]))

    before, limits = (
        noise(),
        {n: q.max.item() for n, q in sim.named_quantizers() if q.max.dim() == 0},
    )
    ranges = set_ranges_before_norms(sim, batches())
    assert noise() > before + 3
    assert set(ranges) == {"norm"}
    changed = {n for n, q in sim.named_quantizers() if n in limits and q.max.item() != limits[n]}
    # The sum, and the summand that made it large.
    assert changed == {"add.output_quantizers.0", "down.output_quantizers.0"}
    assert ranges["norm"][1] < 0.5 * limits["add.output_quantizers.0"]


def test_what_is_left_alone():
    class Twice(Block):
        def forward(self, x):
            return self.norm(self.norm(x + self.down(x.repeat(1, 4))))

    sim = QuantizationSimModel(Twice().eval(), batches()[0], "min_max")
    sim.compute_encodings(batches())
    assert set_ranges_before_norms(sim, batches()) == {}
    sim = QuantizationSimModel(Block().eval(), batches()[0], "min_max")
    sim.compute_encodings(batches())
    sim.model.add.output_quantizers[0].allow_overwrite(False)
    assert set_ranges_before_norms(sim, batches()) == {}
    with pytest.raises(ValueError, match="gave no batch"):
        set_ranges_before_norms(sim, [])
