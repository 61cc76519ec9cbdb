"""ONNX Runtime beside a simulation: end to end, and node by node on the simulation's values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from aimet_torch.export.encoded_graph import EncodedGraph
from aimet_torch.quantization.base import QuantizerBase


@dataclass
class Agreement:
    """How far one tensor of ONNX Runtime is from the simulation's.

    Attributes:
        tensor: ONNX name.
        equal: share of elements that are equal.
        steps: largest difference, in steps of the tensor's grid.
    """

    tensor: str
    equal: float
    steps: float


def session(path: str | Path | bytes) -> onnxruntime.InferenceSession:
    """ONNX Runtime without graph optimizations, on one thread."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    source = path if isinstance(path, bytes) else str(path)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(path: str | Path | bytes, *inputs: torch.Tensor) -> list[np.ndarray]:
    """Outputs of an ONNX file for inputs in the order of its own."""
    ort = session(path)
    names = [i.name for i in ort.get_inputs()]
    return ort.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})


def record(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> dict[str, list[np.ndarray]]:
    """What each quantizer of a simulation returned, by its name, in one run."""
    seen: dict[str, list[np.ndarray]] = {}
    hooks = [
        module.register_forward_hook(_recorder(name, seen))
        for name, module in model.named_modules()
        if isinstance(module, QuantizerBase)
    ]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _recorder(name, seen):
    def hook(_module, _args, output):
        values = output.as_subclass(torch.Tensor).detach().numpy().copy()
        seen.setdefault(name, []).append(values)

    return hook


def node_by_node(
    graph: EncodedGraph, model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]
) -> list[Agreement]:
    """Feed each operator of a QDQ graph with the simulation's values and compare what comes out.

    Args:
        graph: what `onnx_qdq.to_qdq` returned for `model`; its ONNX model is cut in place.
        model: the simulation's model.
        inputs: positional inputs.
    """
    recorded = record(model, inputs)
    onnx_graph = graph.model.graph
    pairs = {}  # tensor whose values a quantizer of the simulation returned -> its dequantized twin
    for value, encoding in graph.encodings.items():
        if (
            encoding.is_float
            or value.is_initializer()
            or len(recorded.get(encoding.source, ())) != 1
        ):
            continue
        twin = next(
            (
                q.outputs[0].consumers()[0].outputs[0]
                for q in value.consumers()
                if q.op_type == "QuantizeLinear"
            ),
            None,
        )
        is_first = encoding.source not in {e.source for _, _, e in pairs.values()}
        if twin is not None and is_first:
            pairs[value] = (twin, recorded[encoding.source][0], encoding)
    feeds = {}
    outputs = []
    for twin, expected, encoding in pairs.values():
        cut = ir.val(f"{twin.name}__fed", ir.DataType.FLOAT, twin.shape)
        for use in list(twin.uses()):
            use.node.replace_input_with(use.idx, cut)
        onnx_graph.inputs.append(cut)
        feeds[cut.name] = expected
        outputs.append((twin, expected, float(encoding.scale.reshape(-1)[0])))
    onnx_graph.outputs.clear()
    onnx_graph.outputs.extend(twin for twin, _, _ in outputs)
    names = [v.name for v in onnx_graph.inputs][: len(inputs)]
    feeds |= {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    ort = session(ir.to_proto(graph.model).SerializeToString())
    wanted = {i.name for i in ort.get_inputs()}
    results = ort.run(
        [twin.name for twin, _, _ in outputs], {n: x for n, x in feeds.items() if n in wanted}
    )
    return [
        Agreement(
            twin.name,
            float((result == expected).mean()),
            float(np.abs(result - expected).max(initial=0) / step),
        )
        for (twin, expected, step), result in zip(outputs, results, strict=True)
    ]


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal to noise ratio in dB."""
    reference, other = reference.astype(np.float64), other.astype(np.float64)
    noise = ((reference - other) ** 2).sum()
    return float("inf") if noise == 0 else float(10 * np.log10((reference**2).sum() / noise))
