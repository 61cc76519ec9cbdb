"""Candidates on whole networks, by AIMET's interface; see `benchmarks.subjects`."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.subjects import subject
from benchmarks.timing import Subject


def network(name: str) -> nn.Module:
    """Return a torchvision network in evaluation mode.

    MobileNetV2 has its ImageNet weights where they were fetched; otherwise weights are random, the
    same in every process.
    """
    from examples import assets

    torch.manual_seed(22)
    if name == "mobilenet_v2" and assets.WEIGHTS.exists():
        return assets.load_mobilenet_v2()
    return getattr(assets.import_torchvision().models, name)().eval()


def images(shape: tuple[int, ...]) -> Tensor:
    """Draw a batch of the network's input."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(23))


def folded_network(name: str, shape: tuple[int, ...]) -> nn.Module:
    """Return a network whose batch norms the library at hand has folded."""
    from aimet_torch.batch_norm_fold import fold_all_batch_norms

    model = network(name)
    fold_all_batch_norms(model, None, dummy_input=images(shape)[:1])
    return model


def simulation(model: nn.Module, batch: Tensor, scheme: str = "min_max") -> Any:
    """Build a W8A8 simulation with the library's default rules."""
    from aimet_torch.quantsim import QuantizationSimModel

    with torch.no_grad():
        return QuantizationSimModel(model, batch[:1], quant_scheme=scheme_of(scheme))


def prepared(model: nn.Module) -> nn.Module:
    """The network as aimet-torch wants it: a module for each call; here it is taken as it is."""
    try:
        from aimet_torch.qat import learn_ranges  # noqa: F401
    except ImportError:
        from aimet_torch.model_preparer import prepare_model
        from aimet_torch.nn import QuantizationMixin

        model = prepare_model(model)
        for kind in {type(module) for module in model.modules()}:
            if kind.__name__ == "ScaledDotProductAttention":
                QuantizationMixin.ignore(kind)  # it has no quantized one, and asks for this
    return model


def scheme_of(name: str) -> Any:
    """Return a range scheme by its name, from wherever the library at hand has it."""
    try:
        from aimet_torch.common.defs import QuantScheme
    except ImportError:
        from aimet_common.defs import QuantScheme
    return getattr(QuantScheme, name)


def calibrate(sim: Any, batch: Tensor) -> None:
    """Compute all encodings from one batch."""
    with torch.no_grad():
        sim.compute_encodings(lambda model: model(batch))


@subject
def simulated_forward(*, model: str, shape: tuple[int, ...]) -> Subject:
    """Forward of the simulation of a folded network."""
    batch = images(shape)
    sim = simulation(folded_network(model, shape), batch)
    calibrate(sim, batch)

    def run() -> Tensor:
        with torch.no_grad():
            return sim.model(batch)

    return Subject(run)


def training_step(model: nn.Module, batch: Tensor) -> Subject:
    """Forward, backward and update of a network in training mode; compares the first loss."""
    model.train()
    # Many steps must not change what the network does, and so what a step costs.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)
    labels = torch.arange(len(batch))

    def run() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch), labels)
        loss.backward()
        optimizer.step()
        return loss

    return Subject(run)


@subject
def quantized_training_step(*, model: str, shape: tuple[int, ...]) -> Subject:
    """One step of quantization-aware training with learned ranges."""
    batch = images(shape)
    sim = simulation(network(model), batch)
    calibrate(sim, batch)
    return training_step(sim.model, batch)


def peak_memory(step: Subject) -> Subject:
    """Measure how much memory a step takes at its height, beyond what was there before it.

    Args:
        step: the work; runs once before, so that gradients and the optimizer's state are there.

    Returns:
        A subject whose clock counts bytes.
    """
    step.run()

    def run() -> float:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            step.run()
        events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return float(peak)

    return Subject(run, compute=step.run, own_clock=True)


@subject
def quantized_training_memory(
    *, model: str, shape: tuple[int, ...], learned: bool = True
) -> Subject:
    """Peak memory of one step of quantization-aware training, in bytes."""
    batch = images(shape)
    sim = simulation(network(model), batch)
    calibrate(sim, batch)
    if not learned:
        of_network = {id(p) for m in sim.model.modules() for p in _parameters_of_network(m)}
        for parameter in sim.model.parameters():
            parameter.requires_grad_(id(parameter) in of_network)
    return peak_memory(training_step(sim.model, batch))


def _parameters_of_network(module: nn.Module) -> list[nn.Parameter]:
    is_quantizer = hasattr(module, "get_encodings") or hasattr(module, "get_encoding")
    return [] if is_quantizer else list(module.parameters(recurse=False))


@subject
def calibration(*, model: str, shape: tuple[int, ...], scheme: str) -> Subject:
    """`compute_encodings` on one batch, on a simulation without encodings."""
    batch = images(shape)
    folded = folded_network(model, shape)

    def compute() -> Tensor:
        sim = simulation(folded, batch, scheme)
        calibrate(sim, batch)
        with torch.no_grad():
            return sim.model(batch)

    return Subject(
        lambda sim: calibrate(sim, batch),
        setup=lambda: simulation(folded, batch, scheme),
        compute=compute,
    )


@subject
def build_simulation(*, model: str, shape: tuple[int, ...]) -> Subject:
    """`QuantizationSimModel(model, dummy_input)`."""
    batch = images(shape)
    original = network(model)
    return Subject(lambda: simulation(original, batch), compute=tuple)


@subject
def fold_and_equalize(*, model: str, shape: tuple[int, ...]) -> Subject:
    """`equalize_model`: batch norms folded, weights equalized, biases absorbed."""
    from aimet_torch.cross_layer_equalization import equalize_model

    batch = images(shape)
    original = network(model)

    def run(copied: nn.Module) -> nn.Module:
        equalize_model(copied, dummy_input=batch[:1])
        return copied

    def compute() -> Tensor:
        equalized = run(copy.deepcopy(original))
        with torch.no_grad():
            return equalized.eval()(batch)

    return Subject(run, setup=lambda: copy.deepcopy(original), compute=compute)


# Both need torchvision or not; what `import torch` costs is not theirs.
_IMPORT = """
import time, torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
start = time.perf_counter()
{statement}
print("seconds", time.perf_counter() - start)
"""


@subject
def import_time(*, statement: str) -> Subject:
    """Run an import in a fresh process that has imported torch."""

    def run() -> float:
        command = [sys.executable, "-c", _IMPORT.format(statement=statement)]
        # From / so that no folder of this repository is taken for a package.
        done = subprocess.run(command, cwd="/", check=True, capture_output=True, text=True)
        return float(done.stdout.rpartition("seconds ")[2])

    return Subject(run, own_clock=True)
