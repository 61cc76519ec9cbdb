"""Quantizers of a simulation switched off, on, or to other bits, for the time of a ``with`` block.

A quantizer is never changed: at another precision a copy takes its place, with a range of its own,
and is kept for the next time. So the block's end restores everything to the bit, whatever happens
in it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import nn

from aimet_torch.analysis.precision import Precision
from aimet_torch.analysis.prefix import PrefixRunner
from aimet_torch.common.collectives import Ranks
from aimet_torch.common.progress import progress
from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantization.encoding_analyzer import StatisticsNotFoundError
from aimet_torch.quantization.float import FloatQuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.calibration import evaluation_mode, run_forward_passes

__all__ = ["OFF", "Evaluate", "Setting", "Switchboard", "evaluate_settings"]

#: In a setting: no quantizer.
OFF = None
#: Precision by the name of a quantizer, `OFF` for none; quantizers that it does not name stay.
Setting = Mapping[str, Precision | None]
Evaluate = Callable[[nn.Module], float]
_FLOAT_DTYPES = {16: torch.float16, 32: torch.float32}


class Switchboard:
    """The quantizers of a simulation by name, and copies of them at other precisions.

    Make a new one after quantizers were added, removed or calibrated.

    Args:
        sim: calibrated.

    Attributes:
        sim: the simulation.
        quantizers: by their names in ``sim.model``; one that several operators share comes once.
    """

    def __init__(self, sim: QuantizationSimModel) -> None:
        self.sim = sim
        self.quantizers: dict[str, Any] = dict(sim.named_quantizers())
        names = {id(quantizer): name for name, quantizer in self.quantizers.items()}
        self._places: dict[str, list[tuple[Any, Any]]] = {name: [] for name in self.quantizers}
        self._owners: dict[str, tuple[Any, str]] = {}
        self._modules: dict[str, set[str]] = {name: set() for name in self.quantizers}
        for module_name, module in sim.named_qmodules():
            for container, keys in _containers(module):
                for key in keys:
                    quantizer = container[key]
                    if quantizer is not None:
                        name = names[id(quantizer)]
                        self._places[name].append((container, key))
                        self._modules[name].add(module_name)
                        if container is module.param_quantizers:
                            self._owners.setdefault(name, (module, key))
        self._copies: dict[tuple[str, Precision], Any] = {}
        self._ranges: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._limits = {
            names[id(quantizer)]: (low, high)
            for quantizer, low, high in sim._realization.limits
            if id(quantizer) in names
        }

    # -- names -------------------------------------------------------------------------------------

    @property
    def params(self) -> list[str]:
        """Names of the quantizers of parameters that modules own."""
        return [name for name in self.quantizers if name in self._owners]

    @property
    def activations(self) -> list[str]:
        """Names of all other quantizers."""
        return [name for name in self.quantizers if name not in self._owners]

    def modules_of(self, name: str) -> set[str]:
        """Names of the modules in which a quantizer works."""
        return self._modules[self._known(name)]

    def by_layer(self) -> dict[str, list[str]]:
        """Names of the quantizers of each module that has any, in the order of execution."""
        of_module: dict[str, list[str]] = {}
        for name in self.quantizers:
            of_module.setdefault(name.rsplit(".", 2)[0], []).append(name)
        order = {op.module_name: index for index, op in reversed([*enumerate(self.sim.graph.ops)])}
        layers = sorted(of_module, key=lambda layer: order.get(layer, len(order)))
        return {layer: of_module[layer] for layer in layers}

    def parameter(self, name: str) -> torch.Tensor | None:
        """The parameter that a quantizer is for; None for activations."""
        if name not in self._owners:
            return None
        module, key = self._owners[name]
        parameter: torch.Tensor = getattr(module, key)
        return parameter

    def precision(self, name: str) -> Precision:
        """The precision that a quantizer has by itself."""
        return _precision_of(self.quantizers[name])

    # -- ranges at other precisions ----------------------------------------------------------------

    def observe(self, data: Callable[..., Any] | Iterable[Any], bitwidths: Iterable[int]) -> None:
        """Find the ranges of activations at several bit widths, in one pass over the data.

        As in `compute_encodings`, activations are observed unquantized behind weights as they are,
        so their bit widths change nothing. Without this, an activation keeps its range at other
        bit widths.

        Args:
            data: as for `QuantizationSimModel.compute_encodings`.
            bitwidths: of integers.
        """
        wanted = sorted(set(bitwidths))
        names = [name for name in self.activations if _may_move(self.quantizers[name])]
        observers = {name: copy.deepcopy(self.quantizers[name]) for name in names}
        with contextlib.ExitStack() as stack:
            stack.enter_context(evaluation_mode(self.sim.model))
            stack.enter_context(self.placed(observers))
            stack.enter_context(_discarding(observers.values()))
            run_forward_passes(self.sim.model, data, input_count=self.sim._positional_count())
            for name, observer in observers.items():
                with contextlib.suppress(StatisticsNotFoundError):  # the data do not get there
                    for bits in wanted:
                        self._ranges[name, bits] = self._limited(name, _range_of(observer, bits))

    def _limited(
        self, name: str, limits: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        fixed = self._limits.get(name, (None, None))
        low, high = (
            found if end is None else torch.full_like(found, end)
            for found, end in zip(limits, fixed, strict=True)
        )
        return low, high

    def has_range(self, name: str, precision: Precision) -> bool:
        """Whether the range at a precision is known, as far as it can be."""
        quantizer = self.quantizers[name]
        return (
            name in self._owners
            or precision == _precision_of(quantizer)
            or (name, precision.bits) in self._ranges
            or not _may_move(quantizer)
        )

    def quantizer_at(self, name: str, precision: Precision) -> Any:
        """The quantizer itself, or a copy of it at another precision.

        Weights get the range that their values have at these bits, activations what `observe` has
        found, otherwise the range they have. Ranges that may not be overwritten stay.
        """
        original = self.quantizers[name]
        if precision == _precision_of(original):
            return original
        if (name, precision) not in self._copies:
            self._copies[name, precision] = self._copy(name, original, precision)
        return self._copies[name, precision]

    def _copy(self, name: str, original: Any, precision: Precision) -> Any:
        if precision.is_float:
            if precision.bits not in _FLOAT_DTYPES:
                raise ValueError(
                    f"Switchboard: `precision` of {name} must be float16, float32 or an integer "
                    f"one, got {precision}"
                )
            return FloatQuantizeDequantize(dtype=_FLOAT_DTYPES[precision.bits])
        if not isinstance(original, AffineQuantizerBase):
            raise NotImplementedError(
                f"Switchboard: `precision` of {name} cannot be {precision}, since its quantizer is "
                f"a {type(original).__name__}; make the simulation with integers"
            )
        quantizer = copy.deepcopy(original)
        quantizer.bitwidth = precision.bits
        if not _may_move(original):
            return quantizer
        if name in self._owners:
            module, key = self._owners[name]
            module._compute_param_encoding(key, getattr(module, key), quantizer)
        elif (name, precision.bits) in self._ranges:
            quantizer.set_range(*self._ranges[name, precision.bits])
        return quantizer

    # -- switching ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def at(self, setting: Setting) -> Iterator[None]:
        """Within this context quantizers have these precisions, or are off.

        Contexts nest: the inner one wins, and its end brings back the outer one.

        Raises:
            ValueError: a name of no quantizer.
            NotImplementedError: an integer precision for a quantizer of floating-point formats.
        """
        placed = {
            name: None if precision is None else self.quantizer_at(self._known(name), precision)
            for name, precision in setting.items()
        }
        with self.placed(placed):
            yield

    @contextlib.contextmanager
    def without(self, names: Iterable[str]) -> Iterator[None]:
        """Within this context these quantizers are off."""
        with self.at(dict.fromkeys(names, OFF)):
            yield

    @contextlib.contextmanager
    def only(self, names: Iterable[str]) -> Iterator[None]:
        """Within this context all other quantizers are off; these are as they would be."""
        kept = {self._known(name) for name in names}
        with self.at({name: OFF for name in self.quantizers if name not in kept}):
            yield

    def only_at(self, setting: Setting) -> Setting:
        """The setting in which all quantizers that ``setting`` does not name are off."""
        return {**dict.fromkeys(self.quantizers, OFF), **setting}

    def _known(self, name: str) -> str:
        if name not in self.quantizers:
            raise ValueError(
                f"Switchboard: {name!r} is no quantizer of the simulation; sim.named_quantizers() "
                "lists them"
            )
        return name

    @contextlib.contextmanager
    def placed(self, quantizers: Mapping[str, Any]) -> Iterator[None]:
        """Within this context these objects stand in the places of quantizers."""
        before = []
        try:
            for name, quantizer in quantizers.items():
                for container, key in self._places[self._known(name)]:
                    before.append((container, key, container[key]))
                    container[key] = quantizer
            yield
        finally:
            for container, key, quantizer in reversed(before):
                container[key] = quantizer


def evaluate_settings(
    board: Switchboard,
    settings: Mapping[str, Setting],
    evaluate: Evaluate,
    *,
    process_group: Any = None,
    base: Setting | None = None,
    known: MutableMapping[str, float] | None = None,
    on_score: Callable[[str, float], None] | None = None,
    description: str = "Evaluating",
) -> dict[str, float]:
    """Evaluate a simulation in several settings, in evaluation mode without gradients.

    Args:
        board: of the simulation.
        settings: by a label each.
        evaluate: gives the score of ``sim.model``. With ranks it must give the same on all of them.
        process_group: a `torch.distributed.ProcessGroup` whose ranks share the settings out; all
            get all scores, the same as one process does. None: this process does all.
        base: a setting from which all differ in a few quantizers only. What comes before the first
            operator that differs is then computed once for all of them, as far as memory allows;
            the scores are the same. ``evaluate`` must run the same data each time.
        known: scores of an earlier run by label, the same on all ranks; they are not evaluated
            again, and every new one goes in as soon as it is there.
        on_score: called with every new score, on all ranks, as soon as it is there.
        description: text of the progress bar.

    Returns:
        Scores by label, in the order of ``settings``.

    Raises:
        RuntimeError: another rank has failed; the message says which one and why.
    """
    scores: MutableMapping[str, float] = {} if known is None else known
    todo = [label for label in settings if label not in scores]
    runner, positions = PrefixRunner(board.sim.graph), dict.fromkeys(todo, 0)
    if base is not None:
        positions = {label: _first_change(board, runner, settings[label], base) for label in todo}
        todo.sort(key=lambda label: positions[label])
    with Ranks(process_group, "evaluate_settings") as ranks, evaluation_mode(board.sim.model):
        rounds = range(0, len(todo), ranks.size)
        for start in progress(rounds, description, unit="evaluation"):
            labels = todo[start : start + ranks.size]
            score = None
            if ranks.rank < len(labels):
                label = labels[ranks.rank]
                with board.at(settings[label]), runner.resuming_at(positions[label]):
                    score = float(evaluate(board.sim.model))
            for label, found in zip(labels, ranks.gather(score), strict=False):
                scores[label] = found
                if on_score is not None:
                    on_score(label, found)
    return {label: scores[label] for label in settings}


def _first_change(board: Switchboard, runner: PrefixRunner, setting: Setting, base: Setting) -> int:
    """Where the first operator is that works otherwise in a setting than in the base."""
    modules: set[str] = set()
    for name in {*setting, *base}:
        own = board.precision(name)
        if setting.get(name, own) != base.get(name, own):
            modules |= board.modules_of(name)
    return runner.position_of(modules)


def _containers(module: Any) -> Iterator[tuple[Any, Sequence[Any]]]:
    yield module.input_quantizers, range(len(module.input_quantizers))
    yield module.output_quantizers, range(len(module.output_quantizers))
    yield module.param_quantizers, list(module.param_quantizers.keys())


def _precision_of(quantizer: Any) -> Precision:
    return Precision(quantizer.bitwidth, not isinstance(quantizer, AffineQuantizerBase))


def _may_move(quantizer: Any) -> bool:
    return (
        isinstance(quantizer, AffineQuantizerBase)
        and quantizer.encoding_analyzer is not None
        and quantizer.is_overwrite_allowed()
        and quantizer.is_initialized()
    )


@contextlib.contextmanager
def _discarding(observers: Iterable[Any]) -> Iterator[None]:
    """Within this context quantizers observe; what they have seen sets no range."""
    started = [observer for observer in observers if observer.begin_calibration()]
    try:
        yield
    finally:
        for observer in started:
            observer.cancel_calibration()


def _range_of(observer: Any, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    limits: tuple[torch.Tensor, torch.Tensor] = observer.encoding_analyzer.compute_encodings(
        2**bits - 1, observer.symmetric
    )
    return limits
