"""What runs an ONNX model: ONNX Runtime on the CPU. The HTP is in `htp.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch

#: The least depth for which a sum of products of the widest integers leaves 16 bits: 2 of them.
_PROBE_DEPTH = 64


@dataclass
class Job:
    """A model and what to run it on.

    Attributes:
        model: file of the model.
        feeds: inputs by name, one dictionary for each call.
        optimized: with the runtime's graph optimizations; a target other than ONNX Runtime decides
            itself.
    """

    model: Path
    feeds: Sequence[dict[str, np.ndarray]]
    optimized: bool = False


@dataclass
class Outcome:
    """What a job gave.

    Attributes:
        outputs: results by name, one dictionary for each call.
        elsewhere: operators that did not run on the target, ``type name``.
        error: why there are no outputs.
    """

    outputs: list[dict[str, np.ndarray]] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    error: str | None = None


class Target(Protocol):
    """Something that computes what an ONNX model says."""

    @property
    def name(self) -> str:
        """Short name."""

    @property
    def versions(self) -> dict[str, str]:
        """Versions of what ran, by package."""

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run all jobs, in order."""


class OnnxRuntime:
    """ONNX Runtime's CPU provider."""

    name = "onnxruntime"

    @property
    def versions(self) -> dict[str, str]:
        """Version of the package."""
        return {"onnxruntime": str(onnxruntime().__version__)}

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run all jobs; an error of the runtime is raised as it is, but for optimized jobs."""
        return [self._run(job) for job in jobs]

    def _run(self, job: Job) -> Outcome:
        try:
            session = _session(str(job.model), job.optimized)
        except Exception as error:
            if not job.optimized:
                raise
            # Its optimizations fail on some valid files: a Clip before a QuantizeLinear to float8.
            return Outcome(error=str(error).partition("\n")[0])
        names = [output.name for output in session.get_outputs()]
        return Outcome(
            [dict(zip(names, session.run(names, feeds), strict=True)) for feeds in job.feeds]
        )


def onnxruntime() -> Any:
    """The package.

    Raises:
        ModuleNotFoundError: it is not installed; the message has the command that does it.
    """
    try:
        import onnxruntime as package
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "verify: ONNX Runtime is not installed; pip install 'aimet-torch[verify]'"
        ) from error
    return package


def _session(model: str | bytes, optimized: bool) -> Any:
    package = onnxruntime()
    options = package.SessionOptions()
    levels = package.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    )
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # its errors are raised, too
    return package.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def saturates() -> bool:
    """Whether ONNX Runtime's products of uint8 by int8 lose their top bits on this CPU.

    Its kernels for AVX2 and AVX-512 add two products in 16 bits, which overflow; those for VNNI and
    for other processors add in 32 bits. Found out by multiplying the widest numbers.
    """
    left, right = ir.val("left", ir.DataType.UINT8, [1, _PROBE_DEPTH]), None
    weight = np.full((_PROBE_DEPTH, 16), 127, np.int8)
    right = ir.val("right", const_value=ir.tensor(weight, name="right"))
    node = ir.node("MatMulInteger", [left, right], name="product")
    result = node.outputs[0]
    result.name, result.type = "result", ir.TensorType(ir.DataType.INT32)
    result.shape = ir.Shape([1, 16])
    graph = ir.Graph(
        [left], [result], nodes=[node], initializers=[right], opset_imports={"": 20}, name="probe"
    )
    proto = ir.to_proto(ir.Model(graph, ir_version=9)).SerializeToString()
    inputs = {"left": np.full((1, _PROBE_DEPTH), 255, np.uint8)}
    (product,) = _session(proto, optimized=True).run(None, inputs)
    return bool((product != _PROBE_DEPTH * 255 * 127).any())
