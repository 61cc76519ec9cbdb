"""Numbers that remember how they were computed from tensor shapes.

While a model is traced, ``x.shape[0]`` is a :class:`TracedInt`: a real ``int`` (so that user code,
``isinstance`` and PyTorch's argument parsers treat it as one) that also knows the expression it
came from. Used as the argument of a tensor operation, the expression goes into the graph, and the
batch size stays free. Used in Python control flow, the concrete value decides, and the decision is
reported to the tracer as a specialization.
"""

from __future__ import annotations

import builtins
import contextlib
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch


class SymbolSink(Protocol):
    """What a symbol needs from the tracer that made it."""

    @property
    def active(self) -> bool:
        """Whether operations are being recorded right now."""

    def specialize(self, value: Any, expected: Any, what: str) -> None:
        """Record that the graph holds only while the number ``value`` equals ``expected``."""

    def name_of(self, tensor: torch.Tensor) -> str:
        """A name for messages."""


def symbol(sink: SymbolSink, value: Any, function: Callable[..., Any], *args: Any) -> Any:
    """A traced number ``value = function(*args)``; values of other types as they are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    cls = TracedInt if isinstance(value, int) else TracedFloat
    result = cls(value)
    result.sink, result.function, result.args = sink, function, args
    return result


def concrete(value: Any) -> Any:
    """The plain number behind a symbol; anything else unchanged."""
    if isinstance(value, TracedInt):
        return int.__add__(value, 0)
    if isinstance(value, TracedFloat):
        return float.__add__(value, 0.0)
    return value


def is_symbol(value: Any) -> bool:
    """Whether ``value`` is a traced number."""
    return isinstance(value, (TracedInt, TracedFloat))


def describe(value: Any) -> str:
    """The expression of a symbol as readable text, for messages."""
    if not is_symbol(value):
        return repr(value)
    if value.function is torch.Tensor.size:
        return f"{value.sink.name_of(value.args[0])}.shape[{value.args[1]}]"
    args = [
        value.sink.name_of(a) if isinstance(a, torch.Tensor) else describe(a) for a in value.args
    ]
    sign = _SIGNS.get(value.function)
    if sign is not None and len(args) == 2:
        return f"({args[0]} {sign} {args[1]})"
    return f"{getattr(value.function, '__name__', value.function)}({', '.join(args)})"


_SIGNS: dict[Any, str] = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//",
    operator.mod: "%", operator.truediv: "/", operator.pow: "**", operator.eq: "==",
    operator.ne: "!=", operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">=",
}  # fmt: skip


def condition(sink: SymbolSink, value: Any, function: Callable[..., Any], *args: Any) -> bool:
    """A comparison of symbols was used by Python: its outcome is fixed from here on."""
    if sink.active:
        hidden = TracedInt(int(value))
        hidden.sink, hidden.function, hidden.args = sink, function, args
        sink.specialize(hidden, bool(value), "condition")
    return bool(value)


def _binary(function: Callable[..., Any], reflected: bool = False) -> Callable[..., Any]:
    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)) or (
            isinstance(other, bool) and function is operator.pow
        ):
            return NotImplemented
        pair = (other, self) if reflected else (self, other)
        value = function(concrete(pair[0]), concrete(pair[1]))
        return symbol(self.sink, value, function, *pair) if self.sink.active else value

    return method


def _unary(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        value = function(concrete(self), *args)
        return symbol(self.sink, value, function, self, *args) if self.sink.active else value

    return method


def _comparison(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        return condition(
            self.sink, function(concrete(self), concrete(other)), function, self, other
        )

    return method


def _conversion(kind: type) -> Callable[..., Any]:
    def method(self: Any) -> Any:
        value = kind(concrete(self))
        if self.sink.active:
            self.sink.specialize(self, concrete(self), f"{kind.__name__}()")
        return value

    return method


def _truth(self: Any) -> bool:
    return condition(self.sink, builtins.bool(concrete(self)), operator.truth, self)


def _methods() -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name in ("add", "sub", "mul", "floordiv", "mod", "truediv", "pow"):
        table[f"__{name}__"] = _binary(getattr(operator, name))
        table[f"__r{name}__"] = _binary(getattr(operator, name), reflected=True)
    for name in ("neg", "pos", "abs"):
        table[f"__{name}__"] = _unary(getattr(operator, name))
    for name in ("floor", "ceil"):
        table[f"__{name}__"] = _unary(getattr(math, name))
    table["__trunc__"] = _unary(int)
    table["__round__"] = _unary(round)
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        table[f"__{name}__"] = _comparison(getattr(operator, name))
    table["__bool__"] = _truth
    table["__divmod__"] = lambda self, other: (self // other, self % other)
    # A symbol outlives its trace only as a plain number.
    table["__reduce_ex__"] = lambda self, protocol: (type(concrete(self)), (concrete(self),))
    table["__deepcopy__"] = lambda self, memo: concrete(self)
    return table


class TracedInt(int):
    """An ``int`` with the expression that produced it."""

    sink: SymbolSink
    function: Callable[..., Any]
    args: tuple[Any, ...]

    __hash__ = int.__hash__
    __int__ = _conversion(int)


class TracedFloat(float):
    """A ``float`` with the expression that produced it."""

    sink: SymbolSink
    function: Callable[..., Any]
    args: tuple[Any, ...]

    __hash__ = float.__hash__
    __float__ = _conversion(float)
    __int__ = _conversion(int)


for _cls in (TracedInt, TracedFloat):
    for _name, _method in _methods().items():
        setattr(_cls, _name, _method)


# ----------------------------------------------------------------------
# Python functions that turn a symbol into a plain number before we could see it. They are replaced
# while tracing.

_MATH = ("sqrt", "log", "log2", "exp", "pow", "prod")


def _traced_math(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not kwargs and args and is_symbol(args[0]) and args[0].sink.active:
            return symbol(args[0].sink, function(*map(concrete, args)), function, *args)
        return function(*args, **kwargs)

    return wrapper


class _Stand(type):
    """Metaclass of stand-ins for built-in types: ``isinstance`` and ``==`` work as before."""

    original: type

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.original)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.original)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.original

    def __hash__(cls) -> int:
        return hash(cls.original)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.original, name)


class _StandInt(_Stand):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and is_symbol(args[0]) and args[0].sink.active:
            return args[0] if isinstance(args[0], TracedInt) else math.trunc(args[0])
        return int(*args, **kwargs)


class _StandFloat(_Stand):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and is_symbol(args[0]) and args[0].sink.active:
            return symbol(args[0].sink, float(concrete(args[0])), float, args[0])
        return float(*args, **kwargs)


class _StandRange(_Stand):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        for arg in args:
            if is_symbol(arg) and arg.sink.active:
                arg.sink.specialize(arg, concrete(arg), "range()")
        return range(*map(concrete, args), **kwargs)


_STAND_INS = {
    "int": _StandInt("int", (), {"original": int}),
    "float": _StandFloat("float", (), {"original": float}),
    "range": _StandRange("range", (), {"original": range}),
}


@contextlib.contextmanager
def watched_builtins(namespaces: Iterable[dict[str, Any]]) -> Iterator[None]:
    """Make ``int``, ``float``, ``range`` in ``namespaces``, and ``math``, see symbols."""
    saved_math = {name: getattr(math, name) for name in _MATH}
    placed: list[tuple[dict[str, Any], str]] = []
    try:
        for name, function in saved_math.items():
            setattr(math, name, _traced_math(function))
        for namespace in namespaces:
            for name, stand_in in _STAND_INS.items():
                if name not in namespace:
                    namespace[name] = stand_in
                    placed.append((namespace, name))
        yield
    finally:
        for namespace, name in placed:
            namespace.pop(name, None)
        for name, function in saved_math.items():
            setattr(math, name, function)
