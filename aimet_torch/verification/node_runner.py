"""One ONNX operator at a time, in floating point, by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from aimet_torch.verification.targets import onnxruntime

Run = Callable[[ir.Node, list[np.ndarray | None]], list[np.ndarray]]


def node_evaluator(model: ir.Model) -> Run:
    """A function that computes a node of `model` from arrays; sessions are kept.

    Raises:
        ModuleNotFoundError: ONNX Runtime is not installed.
    """
    package = onnxruntime()
    sessions: dict[Any, Any] = {}
    opsets = [
        onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()
    ]

    def run(node: ir.Node, inputs: list[np.ndarray | None]) -> list[np.ndarray]:
        key = (node, tuple(None if a is None else (a.dtype, a.ndim) for a in inputs))
        if key not in sessions:
            sessions[key] = _session(package, node, inputs, opsets, model.ir_version)
        feeds = {f"input_{i}": a for i, a in enumerate(inputs) if a is not None}
        results: list[np.ndarray] = sessions[key].run(None, feeds)
        return results

    return run


def _session(
    package: Any,
    node: ir.Node,
    inputs: list[np.ndarray | None],
    opsets: list[onnx.OperatorSetIdProto],
    ir_version: int,
) -> Any:
    proto = ir.to_proto(node)
    del proto.input[:]
    del proto.output[:]
    proto.input.extend("" if a is None else f"input_{i}" for i, a in enumerate(inputs))
    outputs = [f"output_{i}" for i, value in enumerate(node.outputs)]
    proto.output.extend(outputs)
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [
            onnx.helper.make_tensor_value_info(
                f"input_{i}", onnx.helper.np_dtype_to_tensor_dtype(a.dtype), [None] * a.ndim
            )
            for i, a in enumerate(inputs)
            if a is not None
        ],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    single = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    options = package.SessionOptions()
    options.graph_optimization_level = package.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return package.InferenceSession(
        single.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
