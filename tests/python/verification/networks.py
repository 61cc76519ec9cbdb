"""Small networks with everything that a verification meets, simulated and exported."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from aimet_torch.export import onnx_qdq
from aimet_torch.quantsim import QuantizationSimModel


class ConvNet(nn.Module):
    """Batch norms, a depthwise convolution, a residual sum, pooling and flattening by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()
        )
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        y = self.pointwise(F.relu(self.depthwise(x)))
        y = F.max_pool2d(F.relu(x + y), 2)
        return self.head(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))


class Block(nn.Module):
    """A block of a transformer, normalization first."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        qkv = self.qkv(self.first(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(query, key, value)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Recurrent(nn.Module):
    """Two layers of LSTM and a classifier of the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 16, num_layers=2, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Scaled(nn.Module):
    """Parameters that functions read: they have quantizers as activations have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.gain, self.shift = nn.Parameter(torch.rand(8)), nn.Parameter(torch.randn(8))

    def forward(self, x):
        y = self.conv(x).permute(0, 2, 3, 1)
        return F.layer_norm(y, (8,), self.gain, self.shift) * self.gain.view(1, 1, 1, 8)


NETWORKS = {
    "scaled": (Scaled, (1, 3, 12, 12)),
    "conv_net": (ConvNet, (1, 3, 32, 32)),
    "block": (Block, (1, 12, 32)),
    "lstm": (Recurrent, (1, 9, 12)),
}


def simulated(name: str, calls: int = 4, **options):
    """A calibrated simulation, and calls that it has not seen."""
    build, shape = NETWORKS[name]
    torch.manual_seed(1)
    model = build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.running_mean)
    inputs = [torch.randn(shape) for _ in range(2 * calls)]
    sim = QuantizationSimModel(model.eval(), inputs[0], **options)
    sim.compute_encodings(inputs[:calls])
    return sim, inputs[calls:]


def exported(name: str, folder, calls: int = 4, **options):
    """The same, and its QDQ file."""
    sim, inputs = simulated(name, calls, **options)
    path = folder / f"{name}.onnx"
    onnx_qdq.export(sim, inputs[0], path)
    return sim, path, inputs
