"""Half the multiply-accumulates, then 8 bits: spatial SVD, channel pruning, fine-tuning, W8A8.

``python examples/compress.py`` takes some minutes; ``--images 1024`` works on a part of the data.
"""

import argparse
import statistics
import sys
import timeit
from pathlib import Path

import onnxruntime
import torch
from aimet_common.defs import CompressionScheme, CostMetric

from aimet_torch import QuantizationSimModel, defs, onnx
from aimet_torch.compress import ModelCompressor
from aimet_torch.compression import estimate_cost

sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks import fashion_mnist  # the data and a small residual network


def train(model, images, labels, lr, epochs=3):
    steps = epochs * -(-len(images) // 128)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(128):
            loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def report(step, model, x, tests, size=None):
    """Print a step's accuracy and cost; the time is ONNX Runtime's, the median of 20 runs."""
    network = getattr(model, "model", model)
    onnx.export(model, (x,), "step.onnx")
    session = onnxruntime.InferenceSession("step.onnx")
    feed = {session.get_inputs()[0].name: x.numpy()}
    times = timeit.repeat(lambda: session.run(None, feed), number=1, repeat=20)
    cost, accuracy = estimate_cost(network, x[:1]), fashion_mnist.accuracy(network, tests)
    time, size = 1e3 * statistics.median(times), f"{size or cost.parameter_bytes:,} bytes"
    print(f"{step:15} {accuracy:.2f} %, {cost.macs:,} MACs, {size}, {time:.2f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60_000, help="of those to train on")
    images, labels = (p[: parser.parse_args().images] for p in fashion_mnist.load("train"))
    x, data, tests = images[:16], images[:512].split(64), min(len(images), 10_000)
    torch.manual_seed(0)
    model = train(fashion_mnist.resnet(), images, labels, 4e-3)
    report("FP32", model, x, tests)
    svd, left = defs.SpatialSvdParameters, 1.0
    for scheme, ratio in (("spatial_svd", 0.85), ("channel_pruning", 0.5)):
        params = svd.AutoModeParams(defs.ExactSelectionParameters(ratio / left))  # of what came in
        parameters = svd(svd.Mode.auto, params, 8, data)
        if scheme == "channel_pruning":
            parameters = defs.ChannelPruningParameters(data, 512, True, svd.Mode.auto, params, 8)
        model, stats = ModelCompressor.compress_model(
            model, lambda m, *_: fashion_mnist.accuracy(m, 1000), None, (1, 1, 28, 28),
            CompressionScheme[scheme], CostMetric.mac, parameters, visualization_url=scheme,
        )  # fmt: skip
        left *= stats.mac_compression_ratio
        report(scheme, model, x, tests)
    train(model, images, labels, 1e-3)
    report("fine-tuned", model, x, tests)
    sim = QuantizationSimModel(model, x)
    sim.compute_encodings(data)
    report("W8A8", sim, x, tests, sim.deployment_report().bytes_after)


if __name__ == "__main__":
    main()
