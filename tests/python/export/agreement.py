"""ONNX Runtime without graph optimizations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
