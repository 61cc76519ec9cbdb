"""Encodings of a simulation by the names of its torch modules: save, load, freeze.

Files are read, checked and written by the C++ library; here quantizers and entries are matched by
name. An activation goes by its module and its number among the module's operands or results, in
versions that name tensors only by the name of its quantizer (`conv1.output_quantizers.0`).
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aimet_torch import encodings as encodings_library
from aimet_torch.common.quantsim import chosen_version, has_one_list
from aimet_torch.common.version import __version__
from aimet_torch.encodings.tensor_encoding import TensorEncoding
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantsim.loading import Setting, setting_of

if TYPE_CHECKING:
    from aimet_torch.quantsim.sim import QuantizationSimModel

# The version that names inputs and outputs of modules.
_MODULE_VERSION = "0.6.1"
_QUANTIZER_NAME = re.compile(
    r"(?:(?P<module>.*)\.)?(?P<kind>input|output)_quantizers\.(?P<index>\d+)"
)


class LoadedEncodings(NamedTuple):
    """What `load_encodings` did, by name.

    Attributes:
        loaded: quantizers that were set.
        unexpected: entries that fit no quantizer of the simulation.
        missing: quantizers without an entry; removed with `partial=False`.
        derived: int32 entries of biases, which follow from input and weight and need no quantizer.
        kept: quantizers that are frozen and stayed as they were.
    """

    loaded: list[str]
    unexpected: list[str]
    missing: list[str]
    derived: list[str]
    kept: list[str]


@dataclass(frozen=True)
class _Slot:
    """Where a quantizer sits: a parameter's name, or operand or result `index` of a module."""

    name: str
    kind: str  # "param", "input", "output", or "tensor" of an ONNX graph
    index: int = 0

    def __str__(self) -> str:
        is_named = self.kind in ("param", "tensor")
        return self.name if is_named else f"{self.name} {self.kind} {self.index}"

    def quantizer_name(self) -> str:
        """The name in versions that have no slots."""
        return f"{self.name}.{self.kind}_quantizers.{self.index}".removeprefix(".")


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


def save(sim: QuantizationSimModel, path: Path, version: str = _MODULE_VERSION) -> None:
    """Write the encodings of all calibrated quantizers; the file is complete or not there at all.

    Raises:
        OSError: the file cannot be written.
        ValueError: no such version.
        NotImplementedError: the version has no form for an entry, which the message names.
    """
    version = chosen_version("save_encodings_to_json", version)
    activations, params = [], []
    for slot, quantizer in _quantizers(sim):
        if not quantizer.is_initialized():
            continue
        is_param = slot.kind == "param"
        owner, _, name = slot.name.rpartition(".")
        tensor = getattr(sim.model.get_submodule(owner), name) if is_param else None
        encoding = TensorEncoding.from_quantizer(str(slot), is_param, quantizer, tensor)
        if encoding.is_plain_float and has_one_list(version):
            continue
        rank = tensor.dim() if tensor is not None else None
        if is_param:
            params.append(encoding.to_entry(slot.name, rank, version))
        elif version == _MODULE_VERSION:
            place = {"module_slot": {"kind": slot.kind, "index": slot.index}}
            activations.append({**encoding.to_entry(slot.name, None, version), **place})
        else:
            activations.append(encoding.to_entry(slot.quantizer_name(), None, version))
    document = {
        "version": version,
        "producer": {"package": "aimet_torch", "version": __version__},
        "activation_encodings": activations,
        "param_encodings": params,
        "excluded_layers": sim.excluded_layers,
        "quantizer_args": quantizer_args(sim),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    encodings_library.write(str(path), document, version)


def load(
    sim: QuantizationSimModel,
    encodings: str | Path | dict[str, Any],
    *,
    strict: bool,
    partial: bool,
    requires_grad: bool | None,
    allow_overwrite: bool | None,
    params_only: bool = False,
) -> LoadedEncodings:
    """Set quantizers from a document; see `QuantizationSimModel.load_encodings`.

    Every entry is checked before the first quantizer changes, so that a file that does not fit
    leaves the simulation as it was.
    """
    entries = _entries(encodings, params_only)
    quantizers = dict(_quantizers(sim))
    entries = {_place(slot, quantizers): entry for slot, entry in entries.items()}
    derived = [slot for slot in entries if slot not in quantizers and _is_bias(sim, entries[slot])]
    unexpected = [slot for slot in entries if slot not in quantizers and slot not in derived]
    found = {slot: entry for slot, entry in entries.items() if slot in quantizers}
    kept = [slot for slot in found if _is_frozen(quantizers[slot])]
    settings: dict[_Slot, Setting] = {
        slot: setting_of(str(slot), entry, quantizers[slot])
        for slot, entry in found.items()
        if slot not in kept
    }
    if unexpected:
        _report_unexpected(unexpected, list(quantizers), strict)
    if kept:
        warnings.warn(
            f"load_encodings: frozen quantizers stayed as they were: {_listed(kept)}", stacklevel=4
        )
    for slot, setting in settings.items():
        setting.apply()
        quantizer = quantizers[slot]
        if requires_grad is not None:
            quantizer.requires_grad_(requires_grad)
        if allow_overwrite is not None and quantizer._overwrite_allowed:  # it has a range
            quantizer.allow_overwrite(allow_overwrite)
    missing = [
        slot
        for slot, quantizer in quantizers.items()
        if slot not in found and not (params_only and slot.kind != "param")
    ]
    removed = [slot for slot in missing if not _is_frozen(quantizers[slot])]
    if removed and not partial:
        for slot in removed:
            _remove(sim, slot)
        warnings.warn(
            "load_encodings: quantizers without an entry in `encodings` were removed, since "
            f"`partial` is False: {_listed(removed)}",
            stacklevel=4,
        )
    return LoadedEncodings(
        *(list(map(str, s)) for s in (settings, unexpected, missing, derived, kept))
    )


def _entries(
    encodings: str | Path | dict[str, Any], params_only: bool
) -> dict[_Slot, dict[str, Any]]:
    if isinstance(encodings, dict):
        document = encodings_library.parse(encodings, source="`encodings`")
    else:
        document = encodings_library.read(str(encodings))
    entries: dict[_Slot, dict[str, Any]] = {}
    for role, entry in encodings_library.entries(document):
        slot = entry.get("module_slot")
        if role == "parameter":
            entries[_Slot(entry["name"], "param")] = entry
        elif params_only and role == "activation":
            continue
        elif slot is not None:
            entries[_Slot(entry["name"], slot["kind"], slot["index"])] = entry
        else:
            entries[_Slot(entry["name"], "tensor")] = entry
    return entries


def _place(slot: _Slot, quantizers: dict[_Slot, QuantizerBase]) -> _Slot:
    """The place of the quantizer that a tensor's name means, or the name when it means none."""
    if slot.kind != "tensor":
        return slot
    match = _QUANTIZER_NAME.fullmatch(slot.name)
    if match is not None:
        return _Slot(match["module"] or "", match["kind"], int(match["index"]))
    param = _Slot(slot.name, "param")  # versions 2.x do not tell parameters from activations
    return param if param in quantizers else slot


def _is_frozen(quantizer: QuantizerBase) -> bool:
    # Quantizers without a range have no flag.
    return bool(quantizer._overwrite_allowed) and not quantizer.is_overwrite_allowed()


def _is_bias(sim: QuantizationSimModel, entry: dict[str, Any]) -> bool:
    owner, _, name = entry["name"].rpartition(".")
    if entry["bitwidth"] != 32 or entry["dtype"] != "int" or name != "bias":
        return False
    return any(name == owner and hasattr(module, "bias") for name, module in sim.named_qmodules())


def _report_unexpected(unexpected: list[_Slot], known: list[_Slot], strict: bool) -> None:
    problem = f"`encodings` has {len(unexpected)} entries without a quantizer in the simulation: "
    names = [str(slot) for slot in known]
    shown = []
    for slot in unexpected:
        close = difflib.get_close_matches(str(slot), names, n=1, cutoff=0.8)
        shown.append(f"{slot} (the simulation has {close[0]})" if close else str(slot))
    problem += ", ".join(shown)
    if any(slot.kind == "tensor" for slot in unexpected):
        problem += (
            "; those that name tensors of an ONNX graph cannot be told apart here: the simulation "
            "takes names of torch modules, as in the file that save_encodings_to_json writes or "
            "the `_torch.encodings` file beside an export"
        )
    if strict:
        raise ValueError(f"load_encodings: {problem}; pass strict=False to go on without them")
    warnings.warn(f"load_encodings: {problem}; they were left out", stacklevel=5)


def _listed(slots: list[_Slot]) -> str:
    return ", ".join(map(str, slots))


def _remove(sim: QuantizationSimModel, slot: _Slot) -> None:
    if slot.kind == "param":
        module_name, _, param_name = slot.name.rpartition(".")
        module: Any = sim.model.get_submodule(module_name)
        module.param_quantizers[param_name] = None
    else:
        module = sim.model.get_submodule(slot.name)
        quantizers = module.input_quantizers if slot.kind == "input" else module.output_quantizers
        quantizers[slot.index] = None
