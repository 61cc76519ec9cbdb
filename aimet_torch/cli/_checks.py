"""What can be wrong with an installation, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["BAD", "GOOD", "POOR", "Check", "checks"]

#: All is well; works, but something is missing; does not work.
GOOD, POOR, BAD = "ok", "note", "error"

_TORCH_RANGE = "2.11 to 2.13"

#: Distribution, its module, what it is for, the extra that installs it.
_OPTIONAL = (
    ("rich", "rich", "tables on the terminal", "cli"),
    ("tqdm", "tqdm", "progress bars with the time left", "cli"),
    ("pillow", "PIL", "folders of images as data", "cli"),
    ("bokeh", "bokeh", "charts of weights and quantizers", "viz"),
    ("onnxruntime", "onnxruntime", "aimet verify", "verify"),
    ("onnxruntime-qnn", "onnxruntime_qnn", "aimet verify --target htp", "verify"),
    ("torchvision", "torchvision", "detection operators in verified files", "verify"),
)


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was looked at.
        status: ``GOOD``, ``POOR`` or ``BAD``.
        found: What is there.
        advice: What to do; empty where nothing is.
    """

    name: str
    status: str
    found: str
    advice: str = ""


def checks() -> Iterator[Check]:
    """Look at everything, in the order in which one thing needs the other."""
    yield _python()
    yield _torch()
    library = _library()
    yield library
    if library.status != BAD:
        yield _kernels()
        yield _cuda()
        yield _threads()
        yield _numbers()
        yield _simulation()
    for name in ("numpy", "onnx", "onnxscript"):
        yield _required(name)
    for entry in _OPTIONAL:
        yield _optional(*entry)


def _python() -> Check:
    version = platform.python_version()
    found = f"{version}, {platform.system()} {platform.machine()}"
    if platform.system() != "Linux":
        return Check("Python", POOR, found, "built and tested on Linux only")
    return Check("Python", GOOD, found)


def _torch() -> Check:
    try:
        import torch
    except Exception as error:
        return Check("torch", BAD, _first_line(error), f"pip install torch, {_TORCH_RANGE}")
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if (major, minor) < (2, 11):
        advice = f"the library needs {_TORCH_RANGE}: pip install --upgrade torch"
        return Check("torch", BAD, torch.__version__, advice)
    if (major, minor) > (2, 13):
        return Check("torch", POOR, torch.__version__, f"tested with {_TORCH_RANGE}")
    return Check("torch", GOOD, torch.__version__)


def _library() -> Check:
    from aimet_torch import _native

    if _native.PROBLEM is not None:
        text = _native.PROBLEM.removeprefix("aimet_torch: ")
        found, _, advice = text.partition(". Build it")
        return Check("C++ library", BAD, found, f"build it{advice}".rstrip(". "))
    from aimet_torch import ops

    info = ops.build_info()
    return Check(
        "C++ library",
        GOOD,
        f"{info['version']}, built for torch {info['torch_version']} with {info['compiler']}",
    )


def _kernels() -> Check:
    import torch

    from aimet_torch import ops

    try:
        used = ops.cpu_capability()
    except ValueError as error:
        return Check("CPU kernels", BAD, _first_line(error), "unset AIMET_CPU_CAPABILITY")
    variable = os.environ.get("AIMET_CPU_CAPABILITY")
    processor = torch.backends.cpu.get_cpu_capability()
    found = f"{used}; the processor has {processor}"
    if variable:
        advice = f"AIMET_CPU_CAPABILITY={variable} chooses them; unset it for the fastest"
        return Check("CPU kernels", POOR, found, advice)
    if used == "baseline":
        return Check("CPU kernels", POOR, found, "a processor with AVX2 is several times faster")
    return Check("CPU kernels", GOOD, found)


def _cuda() -> Check:
    import torch

    from aimet_torch import ops

    has_kernels = bool(ops.build_info()["cuda"])
    has_gpu = torch.cuda.is_available()
    built = "with CUDA kernels" if has_kernels else "without CUDA kernels"
    found = f"{torch.cuda.get_device_name(0) if has_gpu else 'no GPU'}; built {built}"
    if has_gpu and not has_kernels:
        return Check(
            "CUDA",
            POOR,
            found,
            "tensors on the GPU take a slower path; AIMET_CMAKE_ARGS=-DAIMET_WITH_CUDA=ON pip "
            "install --no-build-isolation --no-deps . (in the sources) builds them",
        )
    if torch.version.cuda and not has_gpu:
        advice = "this torch is built for CUDA, but sees no GPU: is the driver there (nvidia-smi)?"
        return Check("CUDA", POOR, found, advice)
    return Check("CUDA", GOOD, found)


def _threads() -> Check:
    import torch

    from aimet_torch import ops

    ours, theirs = ops.build_info()["threads"], torch.get_num_threads()
    found = f"{ours} of {os.cpu_count()} processors"
    if ours < theirs:
        advice = f"torch runs on {theirs}: the library was built without its OpenMP; build it again"
        return Check("threads", POOR, found, advice)
    return Check("threads", GOOD, found)


def _numbers() -> Check:
    """One grid by hand: ties go to even numbers, what lies outside to the limits."""
    import torch

    from aimet_torch.quantization.affine import functional

    x = torch.tensor([-10.0, -0.75, -0.25, 0.25, 0.75, 1.25, 100.0])
    expected = torch.tensor([-4.0, -1.0, 0.0, 0.0, 1.0, 1.0, 3.5])
    result = functional.quantize_dequantize(
        x, torch.tensor(0.5), torch.tensor(0.0), bitwidth=4, signed=True
    )
    if not torch.equal(result, expected):
        advice = "the library computes wrong numbers: please report the output of aimet doctor"
        return Check("numbers", BAD, f"{result.tolist()} instead of {expected.tolist()}", advice)
    return Check("numbers", GOOD, "round to even, clamp: as they should be")


def _simulation() -> Check:
    import torch

    from aimet_torch.quantsim import QuantizationSimModel

    try:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
        x = torch.linspace(-1, 1, 8).reshape(2, 4)
        sim = QuantizationSimModel(model, x)
        sim.compute_encodings([x])
        off = (sim.model(x) - model(x)).abs().max().item()
    except Exception as error:
        return Check("simulation", BAD, _first_line(error), "please report the output")
    return Check("simulation", GOOD, f"a small network in 8 bits is off by {off:.2g}")


def _required(name: str) -> Check:
    try:
        importlib.import_module(name)
        return Check(name, GOOD, importlib.metadata.version(name))
    except Exception as error:
        return Check(name, BAD, _first_line(error), f"pip install {name}")


def _optional(distribution: str, module: str, purpose: str, extra: str) -> Check:
    advice = f"for {purpose}: pip install {distribution}, or aimet-torch[{extra}]"
    # They are not imported: some take seconds, and one that is broken must not end the report.
    if importlib.util.find_spec(module) is None:
        return Check(distribution, POOR, "not installed", advice)
    try:
        found = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        found = "installed"
    return Check(distribution, GOOD, found)


def _first_line(error: Any) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
