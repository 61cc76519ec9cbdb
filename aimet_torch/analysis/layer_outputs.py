"""Outputs of all layers as raw files, batch by batch: to compare with what a target computes.

Every output is on disk before the next layer runs, so that memory does not grow with the number of
layers or of batches.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common.progress import progress
from aimet_torch.common.services import service
from aimet_torch.common.tables import write_json
from aimet_torch.graph import bind_inputs, trace
from aimet_torch.graph.structure import leaves
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.calibration import evaluation_mode

__all__ = ["LayerOutputUtil", "NamingScheme"]

_NAMES_FILE = "layer_output_name_order.json"
# Every result of an operator, and nothing else.
_EVERY_OUTPUT = {
    "defaults": {"ops": {"is_output_quantized": "True"}, "params": {"is_quantized": "False"}},
    "params": {},
    "op_type": {},
    "supergroups": [],
    "model_input": {},
    "model_output": {},
}


class NamingScheme(Enum):
    """What the files are named after."""

    PYTORCH = 1
    """Modules; operations without a module have the name that the simulation gives them."""
    ONNX = 2
    """Tensors of the exported ONNX model."""
    TORCHSCRIPT = 3
    """Values of the exported TorchScript model."""


class LayerOutputUtil:
    """Writes the output of every layer of a model, FP32 or simulated, to disk.

    Files, as AIMET has them::

        <dir_path>/layer_output_name_order.json   names in execution order, shapes, dtypes
        <dir_path>/inputs/input_<i>.raw           of several: inputs/input_<i>/<k>.raw
        <dir_path>/outputs/layer_outputs_<i>/<name>.raw

    A raw file holds the numbers in C order, in the tensor's dtype (bfloat16 as float32, which NumPy
    has). What is no letter, digit or underscore in a name becomes an underscore. Second and later
    calls of a module, and second and later tensors of an output, have a number behind the name.
    A model and its simulation give the same names: operations without a module are named, too.

    Args:
        model: An FP32 model, or ``sim.model``; left as it is.
        dir_path: Folder of the files; made when missing.
        naming_scheme: What the files are named after. With ONNX and TORCHSCRIPT, layers that the
            exported model has no tensor for, such as folded ones, have no file.
        dummy_input: Example input of the exported model, for these two: a tensor, a tuple of
            arguments, or a dict.
        onnx_export_args: Arguments of ``sim.onnx.export`` for ONNX, as far as they change names:
            ``input_names``, ``output_names``, ``opset_version``.

    Raises:
        TypeError: ``model`` is no module, ``naming_scheme`` no `NamingScheme`, or
            ``onnx_export_args`` no dict.
        ValueError: ONNX or TORCHSCRIPT without ``dummy_input``.
    """

    def __init__(
        self,
        model: nn.Module,
        dir_path: str,
        naming_scheme: NamingScheme = NamingScheme.PYTORCH,
        dummy_input: Any = None,
        onnx_export_args: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"LayerOutputUtil: `model` must be an nn.Module, got {type(model).__name__}; of a "
                "simulation pass sim.model"
            )
        if not isinstance(naming_scheme, NamingScheme):
            raise TypeError(
                f"LayerOutputUtil: `naming_scheme` must be a NamingScheme, got {naming_scheme!r}"
            )
        if onnx_export_args is not None and not isinstance(onnx_export_args, Mapping):
            raise TypeError(
                "LayerOutputUtil: `onnx_export_args` must be a dict, got "
                f"{type(onnx_export_args).__name__}"
            )
        self._folder = Path(dir_path)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._is_sim = any(isinstance(m, QuantizationMixin) for m in model.modules())
        self._model = model
        # Operations of an FP32 model get modules with the first input.
        self._runnable: nn.Module | None = model if self._is_sim else None
        self._names: dict[tuple[str, int, int], str | None] = {}
        self._exported: dict[tuple[str, int, int], str] | None = None
        self._facts: dict[str, dict[str, Any]] = {}
        self._count = 0
        if naming_scheme is not NamingScheme.PYTORCH:
            if dummy_input is None:
                raise ValueError(
                    f"LayerOutputUtil: `dummy_input` is needed for {naming_scheme}: the model is "
                    "exported to learn its names"
                )
            self._exported = _exported_names(
                model, naming_scheme, dummy_input, dict(onnx_export_args or {})
            )

    def generate_layer_outputs(self, input_instance: Any) -> None:
        """Run the model once and write its inputs and the outputs of all layers.

        The folder of a call appears when it is complete.

        Args:
            input_instance: A tensor, a tuple or list of positional arguments, or a dict; moved to
                the device of the model.
        """
        device = next((p.device for p in self._model.parameters()), torch.device("cpu"))
        moved = torch.utils._pytree.tree_map(
            lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, input_instance
        )
        if self._runnable is None:
            self._runnable = _with_modules(self._model, moved)
        outputs = self._folder / "outputs"
        outputs.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".part-", dir=outputs))
        try:
            self._run(moved, temporary)
            self._write_inputs(input_instance)
            target = outputs / f"layer_outputs_{self._count}"
            shutil.rmtree(target, ignore_errors=True)
            temporary.chmod(0o755)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._count += 1
        names = {"layer_output_names": list(self._facts), "tensors": self._facts}
        write_json(self._folder / _NAMES_FILE, names)

    def generate_layer_outputs_of(self, batches: Iterable[Any]) -> int:
        """:meth:`generate_layer_outputs` for each of several inputs, one in memory at a time.

        Args:
            batches: A data loader or other iterable; of a batch that is a tuple or list, as many
                entries as the model has required arguments are inputs.

        Returns:
            How many there were.
        """
        before = self._count
        for batch in progress(batches, "Layer outputs", unit="batch"):
            self.generate_layer_outputs(_inputs_of(self._model, batch))
        return self._count - before

    def _run(self, inputs: Any, folder: Path) -> None:
        model = self._runnable
        assert model is not None
        calls: Counter[str] = Counter()

        def record(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
            call = calls[name]
            calls[name] += 1
            for index, tensor in enumerate(leaves(output)):
                file = self._file_name(name, call, index)
                if file is not None:
                    self._facts[file] = _write(tensor, folder / f"{file}.raw")

        def is_recorded(module: nn.Module) -> bool:
            if self._is_sim:
                return isinstance(module, QuantizationMixin)
            return not any(True for _ in module.children())

        handles = [
            module.register_forward_hook(partial(record, name))
            for name, module in model.named_modules()
            if is_recorded(module)
        ]
        args, kwargs = bind_inputs(model, inputs)
        try:
            with evaluation_mode(model):
                model(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    def _file_name(self, name: str, call: int, index: int) -> str | None:
        """Name of a file; None for a tensor that the exported model does not have."""
        key = (name, call, index)
        if key not in self._names:
            if self._exported is not None:
                wanted = self._exported.get(key)
            else:
                wanted = "_".join([name, *(str(n) for n in (call, index) if n)])
            self._names[key] = None if wanted is None else self._unique(wanted)
        return self._names[key]

    def _unique(self, wanted: str) -> str:
        base = re.sub(r"\W+", "_", wanted) or "model"
        candidate, count = base, 0
        while candidate in self._names.values():
            count += 1
            candidate = f"{base}_{count}"
        return candidate

    def _write_inputs(self, inputs: Any) -> None:
        folder = self._folder / "inputs"
        folder.mkdir(exist_ok=True)
        stem = f"input_{self._count}"
        if isinstance(inputs, Tensor):
            _write(inputs, folder / f"{stem}.raw")
            return
        (folder / stem).mkdir(exist_ok=True)
        named = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs)
        for key, value in named:
            if isinstance(value, Tensor):
                _write(value, folder / stem / f"{key}.raw")


def _inputs_of(model: nn.Module, batch: Any) -> Any:
    import inspect

    if not isinstance(batch, (tuple, list)):
        return batch
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]
    return tuple(batch[: len(required)]) if required else tuple(batch)


def _write(tensor: Tensor, path: Path) -> dict[str, Any]:
    """Write a tensor's numbers and tell what they are."""
    plain = tensor.detach().as_subclass(Tensor).cpu()
    if plain.dtype == torch.bfloat16:
        plain = plain.float()
    array = plain.numpy()
    with path.open("wb") as file:
        array.tofile(file)
    return {"shape": list(array.shape), "dtype": str(array.dtype)}


def _with_modules(model: nn.Module, inputs: Any) -> nn.Module:
    """A copy with the same tensors, in which every operation is a module."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return trace(copy.deepcopy(model, shared), inputs).to_module()


def _exported_names(
    model: nn.Module, scheme: NamingScheme, dummy_input: Any, export_args: dict[str, Any]
) -> dict[tuple[str, int, int], str]:
    """Exported name of each output: by module, call, and place among the call's tensors.

    Every output gets a quantizer with a scale of its own, by which the encodings file of an export
    tells which tensor is which.
    """
    original = QuantizationSimModel.get_original_model(model)
    sim = QuantizationSimModel(original, dummy_input, config_file=_EVERY_OUTPUT, in_place=True)
    keys: list[tuple[str, int, int]] = []
    for op in sim.graph.ops:
        module: Any = op.module
        if not isinstance(module, QuantizationMixin) or op.call_index:
            continue
        for place in range(len(module.input_quantizers)):
            module.input_quantizers[place] = None
        for name in module.param_quantizers:
            module.param_quantizers[name] = None
        for place, quantizer in enumerate(module.output_quantizers):
            if quantizer is not None and hasattr(quantizer, "set_range"):
                call, index = divmod(place, max(len(op.outputs), 1))
                keys.append((str(op.module_name), call, index))
                quantizer.set_range(0.0, float(len(keys)))
    kind, suffix = ("onnx", "onnx") if scheme is NamingScheme.ONNX else ("torchscript", "pt")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{suffix}"
        export = service(f"export_{kind}_with_encodings")
        options = export_args if scheme is NamingScheme.ONNX else {}
        export(sim, dummy_input, path, encoding_version="1.0.0", **options)
        document = json.loads(path.with_suffix(".encodings").read_text(encoding="utf-8"))
    names: dict[tuple[str, int, int], str] = {}
    for entry in document["activation_encodings"]:
        key = keys[round(entry["scale"][0] * 255) - 1]
        names.setdefault(key, entry["name"])  # later ones are moved, with the same numbers
    return names
