"""What training computes anew in backward instead of keeping it.

A quantized tensor follows from its input and a scale, and costs one pass over memory. Layers save
what they multiply, so a quantized weight would lie beside the weight until backward, and a
quantized activation beside the quantizer's input, which the gradient of a learned range needs.
Here layers save a `Recipe` instead; backward gets the same bits.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.nn.apply import apply_quantizer
from aimet_torch.nn.kernels import repeatable
from aimet_torch.quantization.base import QuantizerBase

__all__ = ["Recipe", "Savings", "may_recompute"]


def may_recompute() -> bool:
    """Whether backward may call us: nobody else decides now what is saved for it.

    Of `torch.autograd.graph.saved_tensors_hooks`, such as those of activation checkpointing, only
    the innermost count; they know better.
    """
    autograd: Any = torch._C._autograd
    if not autograd._saved_tensors_hooks_is_enabled():
        return False
    hooks = autograd._top_saved_tensors_default_hooks(True)
    return hooks is None or hooks[1] is _unpack  # ours: a quantized module within another one


class _Kept:
    """A tensor that must be the same in backward as it is now."""

    __slots__ = ("_tensor", "_version")

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.detach()
        self._version = None if tensor.is_inference() else tensor._version

    def __call__(self) -> Tensor:
        tensor = self._tensor
        if self._version is not None and tensor._version != self._version:
            raise RuntimeError(
                f"backward: a tensor of shape {tuple(tensor.shape)} that the gradient of a "
                "quantized module follows from was changed in place after the forward (version "
                f"{tensor._version}, expected {self._version}); call backward() before the "
                "optimizer's step() and before other writes to parameters and activations"
            )
        return tensor


class Recipe:
    """How a tensor follows from others that stay until backward anyway.

    Args:
        function: computes it.
        *inputs: what it takes: tensors, recipes of tensors, None.
    """

    __slots__ = ("_function", "_inputs")

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor | Recipe | None) -> None:
        self._function = function
        self._inputs = [_Kept(i) if isinstance(i, Tensor) else i for i in inputs]

    def __call__(self) -> Tensor:
        """Compute the tensor once more, without its gradient."""
        with torch.no_grad():
            return self._function(*(None if i is None else i() for i in self._inputs))


class _Saved:
    """A recipe's tensor as an operator saved it: itself, transposed, flattened."""

    __slots__ = ("_recipe", "_size", "_stride", "_whole_stride")

    def __init__(self, recipe: Recipe, whole: Tensor, saved: Tensor) -> None:
        self._recipe = recipe
        self._whole_stride = whole.stride()
        self._size, self._stride = saved.size(), saved.stride()

    def __call__(self) -> Tensor:
        whole = self._recipe()
        if whole.stride() != self._whole_stride:
            empty = torch.empty_strided(
                whole.size(), self._whole_stride, dtype=whole.dtype, device=whole.device
            )
            whole = empty.copy_(whole)
        return whole.as_strided(self._size, self._stride)


def _unpack(packed: Any) -> Tensor:
    result: Tensor = packed()
    return result


#: (tensor, its version, recipe) by the tensor's ``id``, of activations that are still there.
_made: dict[int, tuple[Any, int, Recipe]] = {}


def _remember(tensor: Tensor, recipe: Recipe) -> None:
    key = id(tensor)
    reference = weakref.ref(tensor, lambda _: _made.pop(key, None))
    _made[key] = (reference, tensor._version, recipe)


def _recipe_of(tensor: Tensor) -> Recipe | None:
    """How ``tensor`` was made, unless it has been written to since."""
    entry = _made.get(id(tensor))
    if entry is None or entry[0]() is not tensor or entry[1] != tensor._version:
        return None
    return entry[2]


class Savings:
    """One call of a quantized module in training: what it saves as recipes.

    `quantize_parameter` and `quantize_activation` quantize and note how; within `recipes` the
    operators of the module save the recipes of what it was given.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, int, Recipe]] = {}

    def quantize_parameter(self, quantizer: QuantizerBase, parameter: Tensor) -> Tensor:
        """As `apply_quantizer`; the result is saved as a recipe."""
        found = _map_of(quantizer, parameter)
        if found is None:
            return apply_quantizer(quantizer, parameter)
        function, constants = found
        output = function(parameter, *constants)
        self._note(output, Recipe(function, parameter, *constants))
        return output

    def quantize_activation(
        self,
        quantizer: QuantizerBase | None,
        input: Tensor,
        bounds: tuple[float | None, float | None] = (None, None),
        made_by: tuple[Any, Any, tuple[Any, ...]] | None = None,
    ) -> Tensor | None:
        """As `apply_quantizer`; modules that get the result save a recipe, if that is no more.

        It is more where nothing but a bit an element is kept otherwise: with a static range and an
        input that needs a gradient.

        Args:
            quantizer: one, or None.
            input: what to quantize.
            bounds: of an activation function that clamps, to apply first.
            made_by: module that has just made ``input``, its parameters, its arguments.

        Returns:
            The result; None where clamping and quantizing cannot be one operation.
        """
        found = None if quantizer is None else _map_of(quantizer, input, *bounds)
        if found is None:
            return apply_quantizer(quantizer, input) if bounds == (None, None) else None
        function, constants = found
        is_learned = any(constant.requires_grad for constant in constants)
        if input.requires_grad and not is_learned:
            return function(input, *constants)
        source: Tensor | Recipe = _recipe_of(input) or input
        if source is input and made_by is not None:
            source = _repetition(*made_by) or input
        if isinstance(source, Recipe):
            self._note(input, source)
        with self.recipes():
            output = function(input, *constants)
        _remember(output, Recipe(function, source, *constants))
        return output

    def apply(self, quantizer: QuantizerBase | None, tensor: Tensor) -> Tensor:
        """As `apply_quantizer`; see `quantize_activation`."""
        output = self.quantize_activation(quantizer, tensor)
        assert output is not None  # nothing to clamp
        return output

    def note_inputs(self, value: Any) -> None:
        """Let the tensors in nested tuples, lists and dicts be saved as what they are known as."""
        if isinstance(value, Tensor):
            recipe = _recipe_of(value)
            if recipe is not None:
                self._note(value, recipe)
        elif isinstance(value, (tuple, list)):
            for item in value:
                self.note_inputs(item)
        elif isinstance(value, dict):
            self.note_inputs(tuple(value.values()))

    def _note(self, tensor: Tensor, recipe: Recipe) -> None:
        if tensor.numel():
            self._known[tensor.data_ptr()] = (tensor, tensor._version, recipe)

    def recipes(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, operators save recipes where they are known."""
        return _Recipes(self._known) if self._known else contextlib.nullcontext()


class _Recipes:
    """Hooks that save recipes of known tensors: (tensor, its version, recipe) by data pointer."""

    def __init__(self, known: dict[int, tuple[Tensor, int, Recipe]]) -> None:
        self._known = known
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *_: Any) -> None:
        self._hooks.__exit__()
        self._known = {}  # autograd keeps the hook, which must not keep the tensors

    def _pack(self, tensor: Tensor) -> Any:
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
            return _Kept(tensor)
        found = self._known.get(tensor.data_ptr())
        if found is None:
            return _Kept(tensor)
        whole, version, recipe = found
        is_same = whole.dtype == tensor.dtype and whole._version == version == tensor._version
        return _Saved(recipe, whole, tensor) if is_same else _Kept(tensor)


def _map_of(
    quantizer: QuantizerBase, tensor: Tensor, *bounds: float | None
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]] | None:
    """What `apply_quantizer` does, as a function and what it takes; None if that is not known."""
    if type(tensor) not in (Tensor, nn.Parameter) or not tensor.is_floating_point():
        return None
    if quantizer._forward_hooks or quantizer._forward_pre_hooks or not quantizer.is_initialized():
        return None
    return quantizer.map_of(tensor, *bounds)


def _repetition(module: Any, parameters: Any, args: tuple[Any, ...]) -> Recipe | None:
    """How ``module`` made its result, if that is as cheap as a pass over memory."""
    if len(args) != 1 or torch.is_autocast_enabled(args[0].device.type):
        return None  # backward runs without autocast
    if _recipe_of(args[0]) is not None:
        return None  # so that nothing is more than two steps from what is kept
    found = repeatable(module, parameters)
    return None if found is None else Recipe(found[0], args[0], *found[1])
