"""Small networks whose quantizer groups can be told by hand."""

import torch
import torch.nn.functional as F
from torch import nn

from aimet_torch.quantsim import QuantizationSimModel


class Branches(nn.Module):
    """One activation for two convolutions, an addition, a reused layer, a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.right = nn.Conv2d(8, 8, 1)
        self.again = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = self.left(x) + self.right(x)
        x = torch.sigmoid(self.again(torch.tanh(self.again(x))))
        return self.fc(F.max_pool2d(x, 8).flatten(1))


def data(count=3, batch=4):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(batch, 3, 8, 8, generator=generator) for _ in range(count)]


def simulation(model=None, seed=0, **options):
    torch.manual_seed(seed)
    sim = QuantizationSimModel((model or Branches()).eval(), data()[0], **options)
    sim.compute_encodings(data())
    return sim
