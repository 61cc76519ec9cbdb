"""What quantized modules save while nothing but autograd records the operations.

While no gradient is needed, parameters are quantized once and not in every forward, and a tensor
that nobody else holds is quantized where it lies. Clamping activation functions overwrite such a
tensor in training too, or are one operation with their quantizer. None of it changes a bit of any
result.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aimet_torch import ops
from aimet_torch.nn.call import Call
from aimet_torch.nn.modules.function_module import FunctionModule

__all__ = [
    "Activation",
    "InputProducer",
    "LastResult",
    "ParameterCache",
    "activate_and_quantize",
    "activation_of",
    "keeps_result_for_gradient",
    "key_of_parameters",
    "may_overwrite",
    "returns_new_tensor",
]

#: (owner, version, data pointer, dtype) of every tensor; fingerprint of all; other facts.
Key = tuple[Any, ...]


def key_of_parameters(module: Any, quantizers: dict[str, Any], call_site: int) -> Key | None:
    """What a module's quantized parameters depend on; None where not all of it is known.

    Args:
        module: a quantized module.
        quantizers: its parameter quantizers by name.
        call_site: which of its calls.
    """
    if getattr(module, "max_norm", None) is not None:
        return None  # embeddings that change their weight when they read it
    if getattr(module, "_is_fsdp_managed_module", False):
        return None  # FSDP fills the same tensors anew, and frees them to save memory
    tensors: list[Tensor] = []
    facts: list[Any] = []
    for name, quantizer in quantizers.items():
        parameter = module._parameters.get(name)
        if parameter is not None:
            tensors.append(parameter)
        if quantizer is None:
            continue
        known = quantizer.facts()
        is_settled = (
            known is not None
            and parameter is not None
            and not quantizer._calibrating
            and not quantizer._forward_hooks
            and not quantizer._forward_pre_hooks
            and quantizer.is_initialized()
        )
        if not is_settled:
            return None
        tensors += known[0]
        facts.append((name, known[1]))
    grid = (module.bias_grids or {}).get(call_site)
    if grid is not None:
        known = grid.facts()
        if known is None:
            return None
        tensors += known[0]
        facts.append(known[1])
    return _key_of(tensors, tuple(facts))


def _key_of(tensors: list[Tensor], facts: tuple[Any, ...]) -> Key | None:
    """What changes whenever one of ``tensors`` does; None where that cannot be told.

    In-place operations are seen by the version counter, new storage by its address. Writes through
    ``tensor.data`` leave no trace; they are seen by the values, of which a long tensor's
    fingerprint has 256 (on the CPU; looking at values elsewhere would wait for the device).
    """
    on_cpu = []
    states: list[Any] = [torch.is_inference_mode_enabled(), facts]
    for tensor in tensors:
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_inference():
            return None
        states.append(_Identity(tensor))
        states.append((tensor._version, tensor.data_ptr(), tensor.dtype))
        if tensor.is_cpu:
            on_cpu.append(tensor)
    states.append(ops.fingerprint(on_cpu) if on_cpu else 0)
    return tuple(states)


class _Identity:
    """Compares tensors by identity and keeps them alive, so that no address is used twice."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.tensor is other.tensor

    __hash__ = None  # type: ignore[assignment]


class ParameterCache:
    """The quantized parameters of one module by call site, as long as nothing has changed.

    It is no part of the module's state: copies, pickles and state dicts begin with an empty one.
    """

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[int, tuple[Key, Any]] = {}

    def get(self, call_site: int, key: Key) -> Any:
        """What was kept with an equal key, or None."""
        entry = self._entries.get(call_site)  # read once: another thread may replace it
        return entry[1] if entry is not None and entry[0] == key else None

    def put(self, call_site: int, key: Key, value: Any) -> None:
        """Keep ``value``."""
        self._entries[call_site] = (key, value)

    def clear(self) -> None:
        """Forget everything: training holds no second copy of the parameters."""
        if self._entries:
            self._entries = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> ParameterCache:
        return ParameterCache()

    def __reduce__(self) -> Any:
        return (ParameterCache, ())


class LastResult:
    """The tensor that a module made last, if it is still there; copies and pickles forget it."""

    __slots__ = ("_reference",)

    def __init__(self) -> None:
        self._reference: Any = None

    def set(self, tensor: Tensor) -> None:
        """Remember ``tensor`` without keeping it alive."""
        self._reference = weakref.ref(tensor)

    def holds(self, tensor: Any) -> bool:
        """Whether it is this object."""
        return self._reference is not None and self._reference() is tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> LastResult:
        return LastResult()

    def __reduce__(self) -> Any:
        return (LastResult, ())


class InputProducer(NamedTuple):
    """Who makes the input of a call.

    Attributes:
        maker: the quantized module whose result it is.
        between: modules that hand the result on as it is.
    """

    maker: Any
    between: tuple[nn.Module, ...] = ()


def may_overwrite(module: Any, args: tuple[Any, ...], call_site: int) -> bool:
    """Whether an activation function may write to its input, when its caller lets go of it.

    That is so if the only module that feeds it has just made this very tensor, and nobody saw it.
    """
    known: InputProducer | None = (module.input_producers or {}).get(call_site)
    if known is None or module._activation is None or len(args) != 1:
        return False
    producer = known.maker
    if producer._last_result is None or not producer._last_result.holds(args[0]):
        return False
    hooks = torch.nn.modules.module
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
        return False
    if torch.is_grad_enabled() and keeps_result_for_gradient(type(producer)._parent_forward):
        return False
    watched = (module, producer, *known.between, *producer.output_quantizers._modules.values())
    return not any(m._forward_hooks or m._forward_pre_hooks for m in watched if m is not None)


def activate_and_quantize(
    module: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    call: Call,
) -> Tensor | None:
    """Compute an activation function and quantize its result as one operation, for training.

    Backward then keeps a bit an element (static ranges) or the input (learned ones), where the two
    by themselves keep the function's result too. The input stays as it is, so hooks of modules see
    what they always see.

    Args:
        module: a quantized module with an `Activation`.
        args: its inputs, quantized.
        kwargs: likewise.
        call: the call.

    Returns:
        The result; None where the two must be by themselves: the output is not quantized, a hook of
        the quantizer wants to see its input, or the quantizer cannot do it.
    """
    quantizer = module.output_quantizers._modules.get(str(call.site * module.outputs_per_call))
    if quantizer is None or len(args) != 1 or kwargs not in ({}, {"inplace": False}):
        return None
    if module.__dict__.get("inplace", False):
        return None
    input = args[0]
    if type(input) is not Tensor or not input.is_floating_point():
        return None
    if quantizer._forward_hooks or quantizer._forward_pre_hooks or not quantizer.is_initialized():
        return None
    bounds = module._activation.bounds(module)
    if call.savings is not None:
        output = call.savings.quantize_activation(quantizer, input, bounds)
    else:
        found = quantizer.map_of(input, *bounds)
        output = None if found is None else found[0](input, *found[1])
    if output is not None and module._last_result is not None:
        module._last_result.set(output)
    return output


# Forwards whose result is a tensor that nobody else holds and that is no view of another one.
_NEW_FROM_MODULES = {
    cls.forward
    for cls in (
        nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
        nn.ConvTranspose3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm,
        nn.GroupNorm, nn.PReLU, nn.AvgPool2d, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.SiLU,
        nn.GELU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Softmax,
    )
}  # fmt: skip
# Those of them whose gradient reads the result, so that it must stay.
_GRADIENT_FROM_RESULT = {
    cls.forward for cls in (nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Softmax)
}
_NEW_FROM_FUNCTIONS = {torch.add, torch.mul, torch.matmul, torch.bmm, torch.baddbmm, torch.addmm}


def returns_new_tensor(cls: type, forward: Callable[..., Any]) -> bool:
    """Whether ``forward`` of modules of ``cls`` returns a tensor that nobody else holds.

    Modules with ``inplace=True`` are an exception that only the module itself tells.
    """
    if forward is FunctionModule.forward:
        return getattr(cls, "function", None) in _NEW_FROM_FUNCTIONS
    return forward in _NEW_FROM_MODULES


def keeps_result_for_gradient(forward: Callable[..., Any]) -> bool:
    """Whether autograd needs what ``forward``, one that returns a new tensor, has returned."""
    return forward in _GRADIENT_FROM_RESULT


class Activation:
    """An activation function that clamps, which one pass can do together with quantizing.

    Args:
        function: computes it in place.
        bounds: its bounds, from the module.
    """

    def __init__(
        self,
        function: Callable[[Any, Tensor], Tensor],
        bounds: Callable[[Any], tuple[float | None, float | None]],
    ) -> None:
        self.apply_ = function
        self.bounds = bounds


_RELU = Activation(lambda _, x: F.relu_(x), lambda _: (0.0, None))
_ACTIVATIONS: dict[Any, Activation] = {
    nn.ReLU.forward: _RELU,
    nn.Hardtanh.forward: Activation(  # ReLU6 has the same one
        lambda module, x: F.hardtanh_(x, module.min_val, module.max_val),
        lambda module: (module.min_val, module.max_val),
    ),
}


def activation_of(cls: type, forward: Callable[..., Any]) -> Activation | None:
    """The clamping activation function that ``forward`` of ``cls`` computes, None if it is none."""
    if forward is FunctionModule.forward:
        is_relu = getattr(cls, "function", None) in (F.relu, torch.relu, Tensor.relu)
        return _RELU if is_relu else None
    return _ACTIVATIONS.get(forward)
