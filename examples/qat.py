"""Quantization-aware training: Fashion-MNIST with weights and activations of 4 bits.

``python examples/qat.py`` takes some two minutes; ``--images 4096`` trains on a part of the data.
"""

import argparse
import sys
from pathlib import Path

import torch

import aimet_torch
from aimet_torch import QuantizationSimModel
from aimet_torch.common.progress import progress
from aimet_torch.qat import DistillationLoss, learn_ranges, parameter_groups

sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks import fashion_mnist  # the data and a small residual network


def train(model, images, labels, parameters, criterion):
    """Train for an epoch: an ordinary loop, with quantizers as without."""
    batches = torch.randperm(len(images)).split(128)
    optimizer = torch.optim.AdamW(parameters, lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    model.train()
    for batch in progress(batches, "training", unit="batch"):
        loss = criterion(model(images[batch]), images[batch], labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60_000, help="of those to train on")
    count = parser.parse_args().images
    images, labels = (part[:count] for part in fashion_mnist.load("train"))
    torch.manual_seed(0)
    model = fashion_mnist.residual()
    task = torch.nn.functional.cross_entropy
    train(model, images, labels, model.parameters(), lambda out, _, wanted: task(out, wanted))
    print(f"FP32: {fashion_mnist.accuracy(model):.2f} %")

    sim = QuantizationSimModel(model, images[:1], default_param_bw=4, default_output_bw=4)
    sim.compute_encodings(images[:1024].split(128))
    print(f"W4A4, calibrated: {fashion_mnist.accuracy(sim.model):.2f} %")

    learn_ranges(sim, "lsq")
    groups = parameter_groups(sim, lr=2e-3, param_range_lr=1e-4, activation_range_lr=1e-3)
    train(sim.model, images, labels, groups, DistillationLoss(model))
    print(f"W4A4, trained: {fashion_mnist.accuracy(sim.model):.2f} %")
    aimet_torch.onnx.export(sim, (images[:1],), "fashion_mnist_w4a4.onnx")


if __name__ == "__main__":
    main()
