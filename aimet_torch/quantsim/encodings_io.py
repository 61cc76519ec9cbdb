"""Encodings of a simulation by the names of its torch modules: save, load, freeze.

Files are read, checked and written by the C++ library; here quantizers and entries are matched by
name. An activation goes by its module and its number among the module's operands or results.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aimet_torch import encodings as encodings_library
from aimet_torch.common.version import __version__
from aimet_torch.encodings.tensor_encoding import TensorEncoding
from aimet_torch.quantization.base import QuantizerBase

if TYPE_CHECKING:
    from aimet_torch.quantsim.sim import QuantizationSimModel

_FILE_VERSION = "0.6.1"


@dataclass(frozen=True)
class _Slot:
    """Where a quantizer sits: a parameter's name, or operand or result `index` of a module."""

    name: str
    kind: str  # "param", "input" or "output"
    index: int = 0

    def __str__(self) -> str:
        return self.name if self.kind == "param" else f"{self.name} {self.kind} {self.index}"


def _quantizers(sim: QuantizationSimModel) -> Iterator[tuple[_Slot, QuantizerBase]]:
    for name, module in sim.named_qmodules():
        for param_name, quantizer in module.param_quantizers.items():
            if quantizer is not None:
                yield _Slot(f"{name}.{param_name}" if name else param_name, "param"), quantizer
        for kind, quantizers in (
            ("input", module.input_quantizers),
            ("output", module.output_quantizers),
        ):
            for index, quantizer in enumerate(quantizers):
                if quantizer is not None:
                    yield _Slot(name, kind, index), quantizer


def quantizer_args(sim: QuantizationSimModel) -> dict[str, Any]:
    """The section `quantizer_args` of an encodings file: how the simulation was set up."""
    settings, config = sim.settings, sim.config
    return {
        "activation_bitwidth": settings.output_bitwidth,
        "param_bitwidth": settings.param_bitwidth,
        "dtype": settings.data_type.name,
        "is_symmetric": bool(config.default_param.is_symmetric),
        "per_channel_quantization": config.is_per_channel("Conv"),
        "quant_scheme": settings.scheme.name,
    }


def save(sim: QuantizationSimModel, path: Path) -> None:
    """Write the encodings of all calibrated quantizers; the file is complete or not there at all.

    Raises:
        OSError: the file cannot be written.
    """
    activations, params = [], []
    for slot, quantizer in _quantizers(sim):
        if not quantizer.is_initialized():
            continue
        encoding = TensorEncoding.from_quantizer(str(slot), slot.kind == "param", quantizer)
        entry = encoding.to_entry(slot.name, None, _FILE_VERSION)
        if slot.kind == "param":
            params.append(entry)
        else:
            activations.append({**entry, "module_slot": {"kind": slot.kind, "index": slot.index}})
    document = {
        "version": _FILE_VERSION,
        "producer": {"package": "aimet_torch", "version": __version__},
        "activation_encodings": activations,
        "param_encodings": params,
        "excluded_layers": sim.excluded_layers,
        "quantizer_args": quantizer_args(sim),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    encodings_library.write(str(path), document, _FILE_VERSION)


def _read(encodings: str | Path | dict[str, Any]) -> dict[str, Any]:
    if not isinstance(encodings, dict):
        return encodings_library.read(str(encodings))
    return encodings_library.parse(encodings, source="`encodings`")


def load(
    sim: QuantizationSimModel,
    encodings: str | Path | dict[str, Any],
    *,
    strict: bool,
    partial: bool,
    requires_grad: bool | None,
    allow_overwrite: bool,
    params_only: bool = False,
) -> None:
    """Set quantizers from a document; see `QuantizationSimModel.load_encodings`.

    Every entry is checked before the first quantizer changes, so that a file that does not fit
    leaves the simulation as it was.
    """
    document = _read(encodings)
    entries = {_Slot(e["name"], "param"): e for e in document["param_encodings"]}
    if not params_only:
        for entry in document["activation_encodings"]:
            slot = entry.get("module_slot")
            if slot is None:
                raise ValueError(
                    f"load_encodings: `encodings` names the tensor {entry['name']!r} of an ONNX "
                    "graph; the "
                    "simulation takes names of torch modules, as in the file that "
                    "save_encodings_to_json writes "
                    "or the `_torch.encodings` file beside an export"
                )
            entries[_Slot(entry["name"], slot["kind"], slot["index"])] = entry
    quantizers = dict(_quantizers(sim))
    surplus = [slot for slot in entries if slot not in quantizers]
    if surplus:
        _report(
            f"`encodings` has entries without a quantizer in the simulation: {_shown(surplus)}",
            strict,
        )
    found = {slot: entry for slot, entry in entries.items() if slot in quantizers}
    ranges = {slot: _range_of(slot, entry, quantizers[slot]) for slot, entry in found.items()}
    for slot, new_range in ranges.items():
        _apply(quantizers[slot], found[slot], new_range, requires_grad, allow_overwrite)
    if not partial:
        missing = [slot for slot in quantizers if slot not in found]
        for slot in missing:
            _remove(sim, slot)
        if missing:
            _report(
                f"quantizers without an entry in `encodings` were removed: {_shown(missing)}", False
            )


def _report(problem: str, is_error: bool) -> None:
    if is_error:
        raise ValueError(f"load_encodings: {problem}; pass strict=False to go on without them")
    warnings.warn(f"load_encodings: {problem}", stacklevel=4)


def _shown(slots: list[_Slot]) -> str:
    return ", ".join(map(str, slots[:10])) + (
        f" and {len(slots) - 10} more" if len(slots) > 10 else ""
    )


def _range_of(
    slot: _Slot, entry: dict[str, Any], quantizer: QuantizerBase
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(min, max) in the shape of the quantizer; None for floating-point entries."""
    if entry["dtype"] == "float" or "scale" not in entry:
        return None
    bitwidth = entry["bitwidth"]
    scale = torch.tensor(entry["scale"], dtype=torch.float64)
    offset = torch.tensor(entry["offset"], dtype=torch.float64)
    if "per_block_int_scale" in entry:  # LPBQ: an integer for each block of a channel
        multiples = torch.tensor(entry["per_block_int_scale"], dtype=torch.float64)
        scale = (multiples.reshape(len(scale), -1) * scale[:, None]).flatten()
        offset = torch.zeros_like(scale)
    lowest = -(2 ** (bitwidth - 1)) if entry["signed"] else 0
    highest = lowest + 2**bitwidth - 1
    if entry.get("strict_symmetric"):
        lowest += 1
    shape = tuple(quantizer.shape)
    count = torch.Size(shape).numel()
    if scale.numel() not in (1, count):
        raise ValueError(
            f"load_encodings: the entry of {slot} has {scale.numel()} scales, its quantizer has "
            f"shape {list(shape)}"
        )
    minimum, maximum = (
        (limit + offset).mul(scale).expand(count).reshape(shape) for limit in (lowest, highest)
    )
    return minimum, maximum


def _apply(
    quantizer: Any,
    entry: dict[str, Any],
    new_range: tuple[torch.Tensor, torch.Tensor] | None,
    requires_grad: bool | None,
    allow_overwrite: bool,
) -> None:
    if new_range is not None:
        quantizer.bitwidth = entry["bitwidth"]
        quantizer.symmetric = entry["symmetric"]
        quantizer.signed = entry["signed"]
        quantizer.set_range(*new_range)
    if requires_grad is not None:
        quantizer.requires_grad_(requires_grad)
    quantizer.allow_overwrite(allow_overwrite)


def _remove(sim: QuantizationSimModel, slot: _Slot) -> None:
    if slot.kind == "param":
        module_name, _, param_name = slot.name.rpartition(".")
        module: Any = sim.model.get_submodule(module_name)
        module.param_quantizers[param_name] = None
    else:
        module = sim.model.get_submodule(slot.name)
        quantizers = module.input_quantizers if slot.kind == "input" else module.output_quantizers
        quantizers[slot.index] = None
