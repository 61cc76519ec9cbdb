"""The simulation's side: what every quantizer and the whole model compute for an input."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aimet_torch.export.onnx_encodings import model_of
from aimet_torch.graph import bind_inputs
from aimet_torch.graph.structure import leaves
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.calibration import evaluation_mode
from aimet_torch.verification.qdq_file import Pair, QdqFile


@dataclass
class Recording:
    """One call of the simulation.

    Attributes:
        feeds: the model's inputs by their ONNX names.
        codes: integers of each pair that belongs to a quantizer, by `Pair.quantized`; in the shape
            in which the simulation has the tensor.
        off_grid: distance of the simulation's values from the file's grid, in steps, by the same.
        outputs: what the simulation returns.
        floats: what the model returns in FP32.
    """

    feeds: dict[str, np.ndarray]
    codes: dict[str, np.ndarray]
    off_grid: dict[str, float]
    outputs: list[np.ndarray]
    floats: list[np.ndarray]


def matched_pairs(file: QdqFile, model: nn.Module) -> dict[str, Pair]:
    """The pair that holds each quantizer's result, by the quantizer's name.

    Tensors that operators only move have the quantizer of what they are moved from: the first in
    the order of the graph counts.

    Raises:
        ValueError: the file does not tell, or names quantizers that the simulation does not have.
    """
    quantizers = {n for n, m in model.named_modules() if isinstance(m, QuantizerBase)}
    found: dict[str, Pair] = {}
    unknown = []
    for pair in file.pairs:
        name = pair.quantizer
        if name is None or ".param_quantizers." in f".{name}" or name.endswith(" (gate)"):
            continue
        if name in quantizers:
            found.setdefault(name, pair)
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"verify: `onnx_path` {file.path} is of another model: it names {len(unknown)} "
            f"quantizer(s) that `sim` does not have, {', '.join(unknown[:3])} among them; "
            "export this simulation"
        )
    if not found:
        raise ValueError(
            f"verify: `onnx_path` {file.path} does not tell which quantizer a tensor belongs to; "
            "write it with aimet_torch.onnx.export of this version"
        )
    return found


def calls_of(inputs: Any) -> list[Any]:
    """The calls that `inputs` of `verify` stands for: a list or an iterator has one each.

    Raises:
        ValueError: there is none.
    """
    is_several = isinstance(inputs, list) or (
        isinstance(inputs, Iterable) and not isinstance(inputs, (Tensor, tuple, Mapping))
    )
    calls = list(inputs) if is_several else [inputs]
    if not calls:
        raise ValueError("verify: `inputs` must hold one call at least, got an empty list")
    return calls


def named_inputs(file: QdqFile, model: nn.Module, call: Any) -> dict[str, np.ndarray]:
    """The tensors of one call by the names of the file's inputs.

    Raises:
        ValueError: number, shape or type do not fit, or a value is not finite.
    """
    positional, keywords = bind_inputs(model, call)
    by_name = {name: value for name, value in keywords.items() if isinstance(value, Tensor)}
    names = [value.name or "" for value in file.inputs]
    if len(by_name) == len(names) and set(by_name) == set(names):
        tensors = [by_name[name] for name in names]
    else:
        tensors = [leaf for leaf in leaves((positional, keywords)) if isinstance(leaf, Tensor)]
    if len(tensors) != len(names):
        raise ValueError(
            f"verify: `inputs` has {len(tensors)} tensor(s), `onnx_path` {file.path} "
            f"{len(names)} input(s): {', '.join(names)}; it may be of another model"
        )
    return {
        name: _checked(file, value, tensor)
        for name, value, tensor in zip(names, file.inputs, tensors, strict=True)
    }


def _checked(file: QdqFile, value: Any, tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    sizes = None if value.shape is None else list(value.shape)
    fits = sizes is None or (
        len(sizes) == array.ndim
        and all(not isinstance(w, int) or w == s for w, s in zip(sizes, array.shape, strict=True))
    )
    if not fits:
        shown = [size if isinstance(size, int) else str(size) for size in sizes or ()]
        raise ValueError(
            f"verify: `inputs` has shape {list(array.shape)} for `{value.name}`, the file "
            f"{file.path} {shown}; export with `dynamic_shapes`, or pass a list of calls in the "
            "file's shape"
        )
    if value.dtype is not None and array.dtype != value.dtype.numpy():
        raise ValueError(
            f"verify: `inputs` has type {array.dtype} for `{value.name}`, the file {file.path} "
            f"{value.dtype.numpy()}; convert the tensor"
        )
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise ValueError(
            f"verify: `inputs` must be finite, {count} value(s) for `{value.name}` are NaN or "
            "infinite; targets have no integers for them"
        )
    return array


class Recorder:
    """Runs a simulation and keeps what its quantizers return, as integers of the file's grids."""

    def __init__(self, sim: Any, file: QdqFile) -> None:
        self._model = model_of(sim)
        self._original = QuantizationSimModel.get_original_model(self._model)
        self._file = file
        self.pairs = matched_pairs(file, self._model)

    def __call__(self, call: Any) -> Recording:
        """Run one call.

        Raises:
            ValueError: a quantizer of the simulation rounds, and the file has no pair for it.
        """
        feeds = named_inputs(self._file, self._model, call)
        positional, keywords = bind_inputs(self._model, call)
        seen: dict[str, list[tuple[np.ndarray, float] | None]] = {}
        with ExitStack() as hooks:
            for name, module in self._model.named_modules():
                if isinstance(module, QuantizerBase) and ".param_quantizers." not in f".{name}":
                    handle = module.register_forward_hook(functools.partial(self._keep, seen, name))
                    hooks.callback(handle.remove)
            with evaluation_mode(self._model):
                outputs = self._model(*_copies(positional), **_copied(keywords))
        self._check_missing(seen)
        with evaluation_mode(self._original):
            floats = self._original(*_copies(positional), **_copied(keywords))
        known = {
            self.pairs[name].quantized: results[0]
            for name, results in seen.items()
            if name in self.pairs and _is_one(results)
        }
        return Recording(
            feeds,
            {name: kept[0] for name, kept in known.items() if kept is not None},
            {name: kept[1] for name, kept in known.items() if kept is not None},
            _arrays(outputs),
            _arrays(floats),
        )

    def _keep(
        self,
        seen: dict[str, list[tuple[np.ndarray, float] | None]],
        name: str,
        _module: nn.Module,
        args: tuple[Any, ...],
        output: Tensor,
    ) -> None:
        pair = self.pairs.get(name)
        rounded = output.detach().as_subclass(Tensor)
        if pair is not None:
            seen.setdefault(name, []).append(pair.codes(rounded.float().cpu().numpy()))
        elif not torch.equal(rounded, args[0].detach().as_subclass(Tensor)):
            seen.setdefault(name, []).append(None)

    def _check_missing(self, seen: Mapping[str, Sequence[Any]]) -> None:
        known = self.pairs.keys() | self._file.on_constants
        missing = [name for name in seen if name not in known]
        if missing:
            raise ValueError(
                f"verify: {len(missing)} quantizer(s) of `sim` round, but `onnx_path` "
                f"{self._file.path} has no QuantizeLinear for them: {', '.join(missing[:3])}; it "
                "was written from another simulation, or changed since; export this simulation"
            )


def _is_one(results: Sequence[tuple[np.ndarray, float] | None]) -> bool:
    """Whether all runs of a quantizer in a call gave the same: several readers of one tensor.

    Where they did not, names do not tell which run made which tensor of the file.
    """
    first = results[0]
    return all(
        first is not None and other is not None and np.array_equal(first[0], other[0])
        for other in results[1:]
    )


def _arrays(value: Any) -> list[np.ndarray]:
    return [
        leaf.detach().as_subclass(Tensor).cpu().numpy()
        for leaf in leaves(value)
        if isinstance(leaf, Tensor)
    ]


def _copies(values: Sequence[Any]) -> Iterator[Any]:
    """The model may write into its inputs."""
    return (value.clone() if isinstance(value, Tensor) else value for value in values)


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(zip(values, _copies(list(values.values())), strict=True))
