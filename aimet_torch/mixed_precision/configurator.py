"""`MixedPrecisionConfigurator`: precisions by hand, by layer, class or name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, TypeAlias

from torch import nn

from aimet_torch.common import tables
from aimet_torch.graph import OpNode, Value
from aimet_torch.mixed_precision.precision import Precision, SupportedDType, parse
from aimet_torch.mixed_precision.resolution import Change, Request, Resolution, resolve
from aimet_torch.mixed_precision.sites import SiteMap
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["Change", "MixedPrecisionConfigurator"]

_Activation: TypeAlias = SupportedDType | Sequence[SupportedDType | None] | None
_Layer: TypeAlias = "nn.Module | type[nn.Module] | str"


class MixedPrecisionConfigurator:
    """Give layers other precisions than the rest, by hand.

    Wishes are collected first; `apply` settles them together and changes the simulation. What a
    wish means for the tensors:

    * `activation` is the precision in which a layer computes, that is, of its inputs. A tensor has
      one quantizer, where it is made, so a wish travels up to there, through operators that only
      move numbers. Operators that a target fuses (a convolution and the ReLU behind it) are one
      layer.
    * Its outputs follow when they become coarser, or leave the model; to make them finer is for
      those who read them.
    * `param` names the precision of single parameters.

    Args:
        sim: the simulation to change.

    >>> import torch
    >>> sim = QuantizationSimModel(torch.nn.Linear(3, 2), torch.randn(1, 3))
    >>> configurator = MixedPrecisionConfigurator(sim)
    >>> configurator.set_precision(torch.nn.Linear, activation="int16", param={"weight": "int8"})
    >>> [str(change) for change in configurator.apply(log_file=None)]
    ['input_quantizers.0: int8 -> int16', 'output_quantizers.0: int8 -> int16']
    """

    def __init__(self, sim: QuantizationSimModel) -> None:
        self._sim = sim
        self._sites = SiteMap(sim)
        self._requests: list[Request] = []

    @property
    def requests(self) -> Sequence[Request]:
        """What was asked for since the last `apply`, in order."""
        return tuple(self._requests)

    def set_precision(
        self,
        arg: _Layer,
        activation: _Activation = None,
        param: Mapping[str, SupportedDType] | None = None,
    ) -> None:
        """Ask for the precision of layers. The latest wish for a layer replaces earlier ones.

        Args:
            arg: a module of `sim.model` or of the original model; a class: all layers of it; or
                the dotted name of a module. Of a container, all layers inside.
            activation: "int16", "int8", "int4" or "fp16" for the inputs; a list has one for each
                tensor that the layer takes, None where it shall stay.
            param: precision by name of the parameter, such as {"weight": "int4"}.

        Raises:
            ValueError: an unknown precision, module, class or parameter, or a list of another
                length than the layer has inputs.
            TypeError: `arg` is neither a module, nor a class of modules, nor a name.
        """
        where = "MixedPrecisionConfigurator.set_precision"
        wished = _parse(activation, f"{where}: `activation`")
        params = {
            name: parse(dtype, f"{where}: `param[{name!r}]`")
            for name, dtype in (param or {}).items()
        }
        label, ops = self._layers(arg)
        if not ops:
            raise ValueError(f"{where}: `arg` {label} has no operator in the graph of the model")
        if isinstance(wished, list):
            for op in ops:
                takes = len(op.inputs) or len(getattr(op.module, "input_quantizers", ()))
                if takes != len(wished):
                    raise ValueError(
                        f"{where}: `activation` has {len(wished)} entries, but {op.name} takes "
                        f"{takes} tensors; give one for each, or a single one for all"
                    )
        known = {name for op in ops for name in self._parameters_of(op)}
        missing = sorted(params.keys() - known)
        if missing:
            raise ValueError(
                f"{where}: `param` has {', '.join(map(repr, missing))}, which {label} has not; "
                f"it has {', '.join(map(repr, sorted(known))) or 'no parameter'}"
            )
        self._requests.append(Request(label, ops=ops, activation=wished, params=params))

    def set_model_input_precision(self, activation: _Activation) -> None:
        """Ask for the precision of the model's inputs.

        Args:
            activation: one precision for all inputs, or a (nested) list or tuple with one for each,
                None where it shall stay.

        Raises:
            ValueError: an unknown precision, another number of entries than the model has inputs,
                or an input without a quantizer.
        """
        where = "MixedPrecisionConfigurator.set_model_input_precision"
        graph = self._sim.graph
        for value, wished in self._pairs(activation, graph.inputs, where):
            sites = [self._sites.source(op, i) for op, i in value.consumers]
            if all(site is None for site in sites):
                raise ValueError(
                    f"{where}: the input {value.name!r} has no quantizer; see `model_input` in the "
                    "configuration file"
                )
            label = f"model input {value.name!r}"
            self._requests.append(Request(label, values=[value], activation=wished))

    def set_model_output_precision(self, activation: _Activation) -> None:
        """Ask for the precision of the model's outputs.

        Args:
            activation: one precision for all outputs, or a (nested) list or tuple with one for
                each, None where it shall stay.

        Raises:
            ValueError: an unknown precision, or another number of entries than outputs.
        """
        where = "MixedPrecisionConfigurator.set_model_output_precision"
        for value, wished in self._pairs(activation, self._sim.graph.outputs, where):
            label = f"model output {value.name!r}"
            self._requests.append(Request(label, values=[value], activation=wished))

    def apply(
        self,
        log_file: str | os.PathLike[str] | IO[str] | None = "./mmp_log.txt",
        strict: bool = True,
    ) -> list[Change]:
        """Settle all wishes and change the quantizers; calibrate afterwards.

        Everything is settled before the first quantizer changes. The wishes are then forgotten.

        Args:
            log_file: where to write wishes, conflicts and changes as tables: a path, an open text
                file, or None.
            strict: refuse wishes that contradict each other or that the target has no kernel for
                (`supported_kernels` of the configuration). Otherwise the later wish wins, and the
                log and a warning say what was not granted.

        Returns:
            What has changed.

        Raises:
            PrecisionConflictError: see `strict`; the simulation is as it was.
        """
        # Quantizers may have been replaced since the wishes were made.
        sites = self._sites = SiteMap(self._sim, self._sites.leaves)
        resolution = resolve(self._sim, sites, self._requests)
        if log_file is not None:
            with _writable(log_file) as file:
                file.write(_log(self._requests, resolution))
        resolution.report(strict)
        for change in resolution.changes:
            sites.set_precision(change.site, change.new)
        if resolution.changes:
            sites.finish()
        self._requests.clear()
        return resolution.changes

    # -- what was meant ----------------------------------------------------------------------------

    def _layers(self, arg: _Layer) -> tuple[str, list[OpNode]]:
        """A name for messages, and the operators meant."""
        where = "MixedPrecisionConfigurator.set_precision"
        names = dict(self._sim.model.named_modules())
        everything = [*self._sim.graph.ops, *self._sites.leaves]
        if isinstance(arg, type) and issubclass(arg, nn.Module):
            ops = [op for op in everything if isinstance(op.module, arg)]
            if not ops:
                raise ValueError(f"{where}: `arg` is {arg.__name__}, but no layer is one")
            return arg.__name__, ops
        if isinstance(arg, str):
            name: str | None = arg if arg in names else None
        elif isinstance(arg, nn.Module):
            name = next((n for n, module in names.items() if module is arg), None)
            name = self._sim._names_in_original.get(arg) if name is None else name
        else:
            raise TypeError(
                f"{where}: `arg` must be a module, a class of modules or the name of a module, "
                f"got {type(arg).__name__}"
            )
        if name is None or name not in names:
            label = repr(arg) if isinstance(arg, str) else type(arg).__name__
            raise ValueError(
                f"{where}: `arg` {label} is in neither sim.model nor the original model"
            )
        inside = set(names[name].modules())
        ops = [op for op in everything if op.module in inside]
        return repr(name) if name else "the whole model", ops

    def _parameters_of(self, op: OpNode) -> set[str]:
        names = set(getattr(op.module, "param_quantizers", None) or ())
        return names | set(self._sites.params(op))

    def _pairs(
        self, activation: _Activation, values: Sequence[Value], where: str
    ) -> Iterator[tuple[Value, Precision]]:
        floats = [value for value in values if value.is_float]
        flat = _flatten(activation)
        if not isinstance(activation, Sequence) or isinstance(activation, str):
            flat = flat * len(floats)
        if len(flat) != len(floats):
            raise ValueError(
                f"{where}: `activation` has {len(flat)} entries, but the model has {len(floats)} "
                "floating-point tensors there"
            )
        wishes = _parse(flat, f"{where}: `activation`")
        assert isinstance(wishes, list)
        for value, wished in zip(floats, wishes, strict=True):
            if wished is not None:
                yield value, wished


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [leaf for entry in value for leaf in _flatten(entry)]
    return [value]


def _parse(activation: Any, argument: str) -> Precision | list[Precision | None] | None:
    if isinstance(activation, (list, tuple)):
        return [None if a is None else parse(a, argument) for a in activation]
    return None if activation is None else parse(activation, argument)


@contextlib.contextmanager
def _writable(log_file: str | os.PathLike[str] | IO[str]) -> Iterator[IO[str]]:
    if isinstance(log_file, (str, os.PathLike)):
        with open(log_file, "w", encoding="utf-8") as file:  # noqa: PTH123 - path or text
            yield file
    else:
        yield log_file


def _log(requests: Sequence[Request], resolution: Resolution) -> str:
    wishes = [
        [str(i), request.label, request.activation_text(), request.params_text()]
        for i, request in enumerate(requests)
    ]
    changes = [
        [change.site.name, str(change.old), str(change.new), change.reason]
        for change in resolution.changes
    ]
    parts = [
        "Wishes",
        tables.text_table(("id", "layer", "activation", "parameters"), wishes),
        "Changes",
        tables.text_table(("quantizer", "was", "is", "because of"), changes),
    ]
    for title, lines in (
        ("Conflicts", resolution.conflicts),
        ("Not supported", resolution.unsupported),
    ):
        if lines:
            parts += [title, *(f"  {line}" for line in lines)]
    return "\n\n".join(parts) + "\n"
