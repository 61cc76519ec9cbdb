"""What a simulated network costs on its target: bytes of weights, multiplications by bit width."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from aimet_torch.graph import OpNode, multiply_accumulates
from aimet_torch.nn.base import BaseQuantizationMixin
from aimet_torch.nn.bias_grid import BiasGrid
from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.accumulators import input_quantizer
from aimet_torch.quantsim.summary import summarize, torch_numel
from aimet_torch.report import pages
from aimet_torch.report.pages import format_bytes, format_count

__all__ = ["CostRow", "DeploymentReport", "ParameterRow", "deployment_report"]

_FLOAT = "float32"
_SCALE_BYTES = 4
_INT32_BYTES = 4
_QUANTIZERS = frozenset({"param_quantizers", "input_quantizers", "output_quantizers"})


@dataclass(frozen=True)
class ParameterRow:
    """One stored tensor.

    Attributes:
        name: key in the model's state dict.
        shape: of the tensor.
        before: bytes in the FP32 model.
        after: bytes of its numbers on the target; packed, so two 4-bit integers share a byte.
        scales: bytes of its scales and offsets, beside.
        stored: how: ``int8 x 64`` (64 scales), ``int32 bias``, ``folded``, ``float32``.
        reason: why it stays in floating point; empty for others.
    """

    name: str
    shape: tuple[int, ...]
    before: int
    after: int
    scales: int
    stored: str
    reason: str = ""


@dataclass(frozen=True)
class CostRow:
    """One operator with multiplications.

    Attributes:
        name: dotted name of the call.
        op_type: ONNX name of the operator.
        macs: multiply-accumulate operations for the example input, its whole batch.
        weights: format of its weights or second operand: ``int8``, ``uint16``, ``float32``.
        activations: format of its input.
    """

    name: str
    op_type: str
    macs: int
    weights: str
    activations: str

    @property
    def formats(self) -> str:
        """Both: ``int8 x uint8``."""
        return f"{self.weights} x {self.activations}"


@dataclass
class DeploymentReport:
    """Size and cost of a simulated network on its target. `print` shows it as tables.

    Attributes:
        parameters: one row for each parameter and each running statistic.
        costs: one row for each operator with multiplications, in execution order.
        floats: (operator, reason) of results that stay in floating point.
        uncounted: (module, reason) of parts whose multiplications could not be counted.
        example: shapes of the example input that the counts are for.
    """

    parameters: list[ParameterRow] = field(default_factory=list)
    costs: list[CostRow] = field(default_factory=list)
    floats: list[tuple[str, str]] = field(default_factory=list)
    uncounted: list[tuple[str, str]] = field(default_factory=list)
    example: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def bytes_before(self) -> int:
        """Bytes of all parameters and statistics in the FP32 model."""
        return sum(row.before for row in self.parameters)

    @property
    def bytes_after(self) -> int:
        """Bytes of what the target stores, scales and offsets included."""
        return sum(row.after + row.scales for row in self.parameters)

    @property
    def scale_bytes(self) -> int:
        """Bytes of scales and offsets among them."""
        return sum(row.scales for row in self.parameters)

    @property
    def macs(self) -> dict[str, int]:
        """Multiplications by formats (weights x activations), most first."""
        counts: Counter[str] = Counter()
        for row in self.costs:
            counts[row.formats] += row.macs
        return dict(counts.most_common())

    @property
    def float_macs(self) -> int:
        """Multiplications with an operand in floating point."""
        return sum(row.macs for row in self.costs if "float" in row.formats)

    @property
    def headline(self) -> str:
        """The result in a few sentences."""
        total = sum(row.macs for row in self.costs)
        ratio = self.bytes_before / self.bytes_after if self.bytes_after else math.nan
        share = self.float_macs / total if total else 0.0
        before, after = format_bytes(self.bytes_before), format_bytes(self.bytes_after)
        return (
            f"{before} of weights become {after} "
            f"({ratio:.2f} times smaller), {format_bytes(self.scale_bytes)} of them scales and "
            "offsets. "
            f"{format_count(total)} multiplications for inputs of "
            f"{', '.join(str(list(shape)) for shape in self.example)}, {100 * share:.1f} % of them "
            f"in floating point; {len(self.floats)} results stay in floating point."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and dicts."""
        totals = {
            "headline": self.headline,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "scale_bytes": self.scale_bytes,
            "macs": self.macs,
        }
        document: dict[str, Any] = pages.json_ready({**totals, **asdict(self)})
        return document

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The report as JSON text; also written to ``path`` where one is given."""
        if path is not None:
            pages.write_json(path, self.to_dict())
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_html(self) -> str:
        """The report as one self-contained HTML page."""
        missing = [(name, f"multiplications not counted: {why}") for name, why in self.uncounted]
        return pages.render("deployment.html", report=self, in_float=[*self.floats, *missing])

    def write_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as one HTML file to ``path`` and return it."""
        return pages.write(path, self.to_html())

    def __str__(self) -> str:
        total = sum(row.macs for row in self.costs) or 1
        formats: dict[str, list[ParameterRow]] = {}
        for row in self.parameters:
            formats.setdefault(row.stored.partition(" x ")[0], []).append(row)
        stored = [
            (
                name,
                str(len(rows)),
                format_bytes(sum(row.before for row in rows)),
                format_bytes(sum(row.after for row in rows)),
                format_bytes(sum(row.scales for row in rows)),
            )
            for name, rows in formats.items()
        ]
        macs = [
            (name, format_count(n), f"{100 * n / total:.1f} %") for name, n in self.macs.items()
        ]
        reasons = [(row.name, row.reason) for row in self.parameters if row.reason]
        parts = [self.headline]
        parts.append(
            pages.text_table(
                ("weights stored as", "tensors", "FP32", "target", "scales, offsets"), stored
            )
        )
        if macs:
            header = ("multiplications: weights x activations", "count", "share")
            parts.append(pages.text_table(header, macs))
        for title, rows in (
            ("stays in floating point", [*self.floats, *reasons]),
            ("multiplications not counted", self.uncounted),
        ):
            if rows:
                parts.append(pages.text_table((title, "reason"), rows))
        return "\n\n".join(parts)


def deployment_report(sim: QuantizationSimModel) -> DeploymentReport:
    """Count what a simulation as it stands now would cost on its target.

    Args:
        sim: with or without ranges; left as it is.
    """
    graph = sim.graph
    costs: list[CostRow] = []
    uncounted = []
    for op in [*graph.ops, *(op for boundary in graph.boundaries for op in boundary.ops)]:
        macs = multiply_accumulates(op)
        if macs is None and not op.is_boundary:
            uncounted.append((op.name, f"{op.op_type} of these inputs"))
        elif macs:
            costs += _cost(op, macs)
    uncounted += [
        (
            boundary.name or "the whole model",
            f"not traced ({boundary.reason}); its layers are counted for their first call, its "
            "functions are not",
        )
        for boundary in graph.boundaries
    ]
    summary = summarize(sim)
    floats = [
        (row.name, text.removeprefix("float: "))
        for row in summary.float_ops
        for text in row.outputs
        if text.startswith("float")
    ]
    floats += [
        (f"{boundary.name or 'the whole model'}: {name}", "in a part that was not traced")
        for boundary in graph.boundaries
        for name in boundary.unquantized_ops
    ]
    return DeploymentReport(
        parameters=list(_parameters(sim.model)),
        costs=costs,
        floats=floats,
        uncounted=uncounted,
        example=[value.shape for value in graph.inputs],
    )


# -- multiplications -------------------------------------------------------------------------------


def _cost(op: OpNode, macs: int) -> list[CostRow]:
    """Rows of an operator with `macs` multiplications."""
    module: Any = op.module
    if isinstance(module, nn.RNNBase):
        return _recurrent(op, module, macs)
    has_weight = isinstance(getattr(module, "weight", None), Tensor)
    weights = _weight(module, "weight") if has_weight else _operand(op, 1)
    return [CostRow(op.name, op.op_type, macs, weights, _operand(op, 0))]


def _recurrent(op: OpNode, module: nn.RNNBase, macs: int) -> list[CostRow]:
    """The input's weights meet the input at every step; the state's meet a state in floats."""
    matrices = {n: p for n, p in module.named_parameters(recurse=False) if p.dim() == 2}
    elements = sum(matrix.numel() for matrix in matrices.values())
    return [
        CostRow(
            f"{op.name}.{name}",
            op.op_type,
            macs * matrix.numel() // elements,
            _weight(module, name),
            _operand(op, 0) if name.startswith("weight_ih_l0") else _FLOAT,
        )
        for name, matrix in matrices.items()
    ]


def _operand(op: OpNode, position: int) -> str:
    found = input_quantizer(op, position) if position < len(op.inputs) else None
    if found is None:
        return _FLOAT
    module, kind, index = found
    return _format(getattr(module, kind)[index])


def _weight(module: Any, name: str) -> str:
    quantizer = _param_quantizer(module, name)
    return _FLOAT if quantizer is None else _format(quantizer)


def _param_quantizer(module: Any, name: str) -> Any:
    """The quantizer of a parameter, or the encoding that folding left of it; None without one."""
    if not isinstance(module, BaseQuantizationMixin):
        return None
    # A ModuleDict has no `get`.
    found = dict(module.param_quantizers.items()).get(name)
    return found if found is not None else module.folded_param_encodings.get(name)


def _format(quantizer: Any) -> str:
    is_float = (
        not isinstance(quantizer, AffineQuantizerBase)
        if isinstance(quantizer, QuantizerBase)
        else quantizer.mapping == "float"
    )
    if is_float:
        return f"float{quantizer.bitwidth}"
    return f"{'' if quantizer.signed else 'u'}int{quantizer.bitwidth}"


# -- bytes -----------------------------------------------------------------------------------------


def _parameters(model: nn.Module) -> Iterator[ParameterRow]:
    folded = {
        id(grid.norm): owner
        for owner in model.modules()
        for grid in (getattr(owner, "bias_grids", None) or {}).values()
        if grid.norm is not None and _is_integer_sum(grid)
    }
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        parts = name.split(".")
        if _QUANTIZERS.intersection(parts) or not tensor.is_floating_point():
            continue
        owner = model.get_submodule(".".join(parts[:-1]))
        yield _parameter(name, tensor, owner, id(owner) in folded)


def _parameter(name: str, tensor: Tensor, owner: nn.Module, is_folded: bool) -> ParameterRow:
    key = name.rpartition(".")[2]
    count, shape = tensor.numel(), tuple(tensor.shape)
    before = count * 4
    quantizer = _param_quantizer(owner, key)
    if quantizer is not None:
        label = _format(quantizer)
        scales, scale_bytes = _scales(quantizer, count)
        after = -(-count * int(quantizer.bitwidth) // 8)
        stored = label if scales == 1 else f"{label} x {scales}"
        return ParameterRow(name, shape, before, after, scale_bytes, stored)
    grids = (getattr(owner, "bias_grids", None) or {}).values()
    if is_folded and key != "bias":
        return ParameterRow(name, shape, before, 0, 0, "folded")
    if key == "bias" and any(map(_is_integer_sum, grids)):
        # Its scale is that of the input times that of the weight: nothing to store.
        return ParameterRow(name, shape, before, count * _INT32_BYTES, 0, "int32 bias")
    why = "it has no quantizer"
    if key == "bias":
        why = "its layer's input or weight has no integer grid, or is no sum of products"
    return ParameterRow(name, shape, before, before, 0, _FLOAT, why)


def _is_integer_sum(grid: BiasGrid) -> bool:
    """Whether a layer's products are integers, with one step for all of its input."""
    source = grid.input_quantizer
    weight = _weight(grid.layer, "weight")
    is_single = isinstance(source, AffineQuantizerBase) and torch_numel(source.shape) == 1
    return is_single and "int" in weight


def _scales(quantizer: Any, count: int) -> tuple[int, int]:
    """How many scales, and the bytes of scales and offsets."""
    block = getattr(quantizer, "block_length", None)
    if block is not None:  # MX and NVFP4: one byte a block, NVFP4 one number for the tensor
        blocks = -(-count // block)
        has_tensor_scale = getattr(quantizer, "maxval", None) is not None
        return blocks, blocks + (_SCALE_BYTES if has_tensor_scale else 0)
    shape = getattr(quantizer, "shape", None)
    scales = torch_numel(tuple(shape)) if shape is not None else quantizer.scale.numel()
    if _format(quantizer).startswith("float"):
        return scales, scales * _SCALE_BYTES if quantizer.bitwidth < 16 else 0
    wide = getattr(quantizer, "decompressed_bw", None)
    if wide is not None:  # LPBQ: a small integer a block, a scale a group
        grouping = getattr(quantizer, "block_grouping", None) or (1,) * len(quantizer.shape)
        groups = 1
        for size, group in zip(quantizer.shape, grouping, strict=True):
            groups *= 1 if group == -1 else size // group
        bits = int(wide) - int(quantizer.bitwidth)
        return scales, -(-scales * bits // 8) + groups * _SCALE_BYTES
    symmetric = getattr(quantizer, "symmetric", getattr(quantizer, "symmetry", False))
    offsets = 0 if symmetric else -(-scales * int(quantizer.bitwidth) // 8)
    return scales, scales * _SCALE_BYTES + offsets
