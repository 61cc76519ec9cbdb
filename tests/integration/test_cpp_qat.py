"""The C++ example of training, built against the installed wheel, beside the same in Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from aimet_torch.quantization.affine import QuantizeDequantize

BITS = 3


class Layer(nn.Module):
    def __init__(self, inputs: int, outputs: int, last: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.weight = QuantizeDequantize((outputs, 1), BITS, True)
        self.output = QuantizeDequantize((), BITS, False)
        self.last, self.quantized = last, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.linear.weight
        y = nn.functional.linear(
            x, self.weight.simulate(weight) if self.quantized else weight, self.linear.bias
        )
        z = y if self.last else y.relu()
        return self.output.simulate(z) if self.quantized else z


def in_python() -> tuple[nn.Module, list[float]]:
    """The program of the example."""
    torch.manual_seed(0)
    arm = torch.arange(3).repeat_interleave(200)
    radius = torch.linspace(0.05, 1, 200).repeat(3)
    angle = 4 * radius + 2 * math.pi / 3 * arm + 0.2 * torch.randn(600)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    model = nn.Sequential(Layer(2, 32, False), Layer(32, 32, False), Layer(32, 3, True))
    accuracies = []

    def report() -> None:
        correct = model(x).argmax(1) == arm
        accuracies.append(100 * correct.float().mean().item())

    def train(rate: float, steps: int) -> None:
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), arm).backward()
            optimizer.step()

    train(0.2, 800)
    report()
    quantizers = [m for m in model.modules() if isinstance(m, QuantizeDequantize)]
    for layer in model:
        layer.quantized = True
    for quantizer in quantizers:
        quantizer.begin_calibration(passes_through=True)
    with torch.no_grad():
        model(x)
    for quantizer in quantizers:
        quantizer.end_calibration()
    report()
    train(0.05, 400)
    report()
    return model, accuracies


@pytest.mark.slow
def test_it_trains_as_python_does(examples) -> None:
    output = examples.run("qat")
    printed = [float(line.split(": ")[1].rstrip(" %")) for line in output.splitlines()[-3:]]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, accuracies = in_python()
    finally:
        torch.set_num_threads(threads)
    assert printed == pytest.approx(accuracies, abs=1e-3)
    fp32, calibrated, trained = printed
    assert calibrated < trained - 5
    assert trained > fp32 - 3

    # The checkpoint is one for Python too: the same names, the same state.
    state = torch.jit.load(str(examples.folder / "qat.pt")).state_dict()
    wanted = model.state_dict()
    assert state.keys() == wanted.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-5)
    model.load_state_dict(state)
