"""ONNX Runtime without graph optimizations, and how far it may be off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch


def run(path: str | Path | bytes, *inputs: torch.Tensor) -> list[np.ndarray]:
    """Outputs of an ONNX file for inputs in the order of its own."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    source = path if isinstance(path, bytes) else str(path)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})


def output_steps(path: str | Path) -> list[float]:
    """The step of the grid of each output of a QDQ file, in order."""
    file = onnx.load(path)
    nodes = {name: node for node in file.graph.node for name in node.output}
    values = {i.name: onnx.numpy_helper.to_array(i) for i in file.graph.initializer}
    readers = [nodes[output.name] for output in file.graph.output]
    assert {node.op_type for node in readers} == {"DequantizeLinear"}
    return [float(values[node.input[1]].max()) for node in readers]
