"""Compression of whole networks by AIMET's interface; see `benchmarks.subjects`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import fashion_mnist
from benchmarks.model_subjects import network
from benchmarks.subjects import subject
from benchmarks.timing import Subject

#: Pictures that channel pruning solves for weights on.
CALIBRATION_IMAGES = 1024
#: Of ResNet-18's search, and its size.
SEARCH_IMAGES, SEARCH_SIZE = 500, 64


def is_trained(name: str) -> bool:
    """Whether it is one of the networks that were trained on Fashion-MNIST."""
    return name in {**fashion_mnist.NETWORKS, **fashion_mnist.LARGER_NETWORKS}


def make_network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A network in evaluation mode, and the shape of its input."""
    if is_trained(name):
        return fashion_mnist.trained(name), (1, 1, 28, 28)
    return network(name), (1, 3, SEARCH_SIZE, SEARCH_SIZE)


def compressible(model: nn.Module) -> list[nn.Module]:
    """Convolutions of one group behind the first layer: what both libraries can treat."""
    return [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == 1][1:]


class Compression:
    """One compression; runs once, the clock around it is the caller's.

    Args:
        network: name in `benchmarks.fashion_mnist`, or of a torchvision network.
        scheme: "spatial_svd", "weight_svd" or "channel_pruning".
        ratio: of the whole model's multiply-accumulates; with `uniform`, of every layer.
        selection: "greedy", "exact" (not in aimet-torch), or "uniform".
        images: that an evaluation runs on.
        data: whether weights are fitted to data where the scheme can do without.
        seed: of the calibration pictures.
    """

    def __init__(
        self,
        network: str,
        scheme: str,
        ratio: float,
        selection: str,
        images: int,
        data: bool,
        seed: int,
    ) -> None:
        self.model, self._shape = make_network(network)
        self._is_classifier = is_trained(network)
        self._scheme, self._ratio, self._selection = scheme, ratio, selection
        self._data, self._seed, self._images = data, seed, images
        self._result: tuple[nn.Module, Any] | None = None
        if not self._is_classifier:
            generator = torch.Generator().manual_seed(24)
            self._pictures = torch.randn(images, *self._shape[1:], generator=generator)
            with torch.no_grad():
                self._classes = self._logits(self.model).argmax(1)

    def _logits(self, model: Any) -> Tensor:
        return torch.cat([model(x) for x in self._pictures.split(50)])

    def evaluate(self, model: nn.Module, iterations: Any = None, use_cuda: bool = False) -> float:
        """Accuracy in percent; of a network without training, agreement with its first choices."""
        with torch.no_grad():
            if self._is_classifier:
                return fashion_mnist.accuracy(model, self._images)
            same = self._logits(model).argmax(1) == self._classes
            return 100 * same.double().mean().item()

    def _parameters(self) -> Any:
        from aimet_torch import defs
        from aimet_torch.common.defs import GreedySelectionParameters, RankSelectScheme

        kind: Any = {
            "spatial_svd": defs.SpatialSvdParameters,
            "weight_svd": defs.WeightSvdParameters,
            "channel_pruning": defs.ChannelPruningParameters,
        }[self._scheme]
        layers = compressible(self.model)
        if self._selection == "uniform":
            pairs = [defs.ModuleCompRatioPair(layer, self._ratio) for layer in layers]
            mode, params = kind.Mode.manual, kind.ManualModeParams(pairs)
        else:
            rest = [
                m
                for m in self.model.modules()
                if isinstance(m, nn.Conv2d | nn.Linear) and m not in layers
            ]
            select: Any = GreedySelectionParameters(self._ratio)
            if self._selection == "exact":
                select = defs.ExactSelectionParameters(self._ratio)
            first = [RankSelectScheme.greedy] if self._scheme == "weight_svd" else []
            mode, params = kind.Mode.auto, kind.AutoModeParams(*first, select, rest)
        if self._scheme == "channel_pruning":
            chosen = {"selection": "gram"} if self._data else {}
            return kind(self._loader(), CALIBRATION_IMAGES, True, mode, params, **chosen)
        extra = {"data_loader": self._loader()} if self._data else {}
        return kind(mode, params, **extra)

    def _loader(self) -> Any:
        if not self._is_classifier:
            return [(x, torch.zeros(len(x))) for x in self._pictures.split(64)]
        batches = fashion_mnist.calibration_batches(CALIBRATION_IMAGES, seed=self._seed)
        rows = torch.cat(batches)
        pairs = torch.utils.data.TensorDataset(rows, torch.zeros(len(rows)))
        return torch.utils.data.DataLoader(pairs, batch_size=64)

    def run(self) -> tuple[nn.Module, Any]:
        """Compress; the model and the library's table."""
        from aimet_torch.common.defs import CompressionScheme, CostMetric
        from aimet_torch.compress import ModelCompressor

        if self._result is None:
            torch.manual_seed(self._seed)  # aimet-torch draws patches
            with _empty_folder():  # where it leaves a pickle
                self._result = ModelCompressor.compress_model(
                    self.model,
                    self.evaluate,
                    None,
                    self._shape,
                    CompressionScheme[self._scheme],
                    CostMetric.mac,
                    self._parameters(),
                )
        return self._result

    def results(self) -> list[Tensor]:
        """(accuracy before, after, share of multiply-accumulates), counted the same for all."""
        model, _ = self.run()
        accuracies = [
            fashion_mnist.accuracy(each) if self._is_classifier else self.evaluate(each)
            for each in (self.model, model)
        ]
        counts = [count_macs(each, self._shape) for each in (model, self.model)]
        return [torch.tensor([*accuracies, counts[0] / counts[1]], dtype=torch.float64)]


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of convolutions and linear layers, by neither library's count."""
    total = 0

    def add(module: Any, args: Any, output: Tensor) -> None:
        nonlocal total
        positions = output.numel() if isinstance(module, nn.Conv2d) else len(output.flatten())
        total += positions * module.weight[0].numel()

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(add) for layer in layers]
    with torch.no_grad():
        model.eval()(torch.zeros(shape))
    for handle in handles:
        handle.remove()
    return total


@contextlib.contextmanager
def _empty_folder() -> Iterator[None]:
    before = os.getcwd()  # noqa: PTH109 - what os.chdir takes back
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            yield
        finally:
            os.chdir(before)


@subject
def compressed_network(
    *,
    network: str,
    scheme: str,
    ratio: float,
    selection: str,
    images: int,
    data: bool = False,
    seed: int = 0,
) -> Subject:
    """Accuracy before and after a compression, and the share of multiply-accumulates, (3,)."""
    job = Compression(network, scheme, ratio, selection, images, data, seed)
    return Subject(job.run, compute=job.results)
