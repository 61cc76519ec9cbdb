"""Tensors that know their encoding: integers of a grid, and real numbers that lie on one.

A quantizer that a person calls returns one of these, so that ``quantizer(x).quantized_repr()``
works. Quantized modules use plain tensors inside. Operations that only move values keep the
encoding; every other operation returns a plain tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from aimet_torch.quantization.base import EncodingBase, plain_tensor

__all__ = ["DequantizedTensor", "EncodingError", "QuantizedTensor", "QuantizedTensorBase"]


class EncodingError(RuntimeError):
    """A tensor has no encoding to (de)quantize with."""


def _functions(names: str) -> set[Callable[..., Any]]:
    """Collect the functions and methods of torch that have one of these names."""
    found: set[Callable[..., Any]] = set()
    for name in names.split():
        for owner in (torch, Tensor):
            function = getattr(owner, name, None)
            if callable(function):
                found.add(function)
    return found


# The value of every element stays what and where it was.
_KEEPS_LAYOUT = _functions(
    "contiguous clone detach detach_ requires_grad_ share_memory_ to cpu cuda half float double "
    "bfloat16 type type_as pin_memory alias"
)
# Values move, so only one encoding for the whole tensor stays right.
_MOVES_VALUES = _functions(
    "__getitem__ as_strided broadcast_to chunk diagonal dsplit expand expand_as flatten flip "
    "fliplr flipud gather hsplit index_select masked_select moveaxis movedim narrow permute ravel "
    "repeat repeat_interleave reshape reshape_as roll rot90 select split squeeze squeeze_ swapaxes "
    "swapdims t t_ take take_along_dim tensor_split tile transpose transpose_ unbind unflatten "
    "unfold unsqueeze unsqueeze_ view view_as vsplit"
) | {Tensor.T.__get__, Tensor.mT.__get__, Tensor.H.__get__, Tensor.mH.__get__}  # type: ignore[attr-defined]
_MULTIPLIES = _functions("mul multiply __mul__ __rmul__")
_DIVIDES = _functions("div divide true_divide __truediv__")


class QuantizedTensorBase(Tensor):
    """A floating-point tensor with an ``encoding``.

    Attributes:
        encoding: what the values are encoded with; None once an operation made it invalid.

    >>> from aimet_torch.quantization.affine import AffineEncoding
    >>> encoding = AffineEncoding(torch.tensor(0.5), torch.tensor(0.0), bitwidth=4, signed=True)
    >>> x = DequantizedTensor(torch.tensor([[-1.0, 3.5]]), encoding=encoding)
    >>> x.reshape(2).quantized_repr()
    tensor([-2,  7], dtype=torch.int8)
    >>> x + 1
    tensor([[0.0000, 4.5000]])
    """

    encoding: EncodingBase | None

    @staticmethod
    def __new__(cls: Any, *args: Any, encoding: EncodingBase | None = None, **kwargs: Any) -> Any:
        """Make one from what `torch.as_tensor` takes."""
        return cls.attach(torch.as_tensor(*args, **kwargs), encoding)

    @classmethod
    def attach(cls, tensor: Tensor, encoding: EncodingBase | None) -> Any:
        """Return a view of ``tensor`` with this type and ``encoding``; gradients flow through.

        Raises:
            TypeError: ``tensor`` is not floating-point.
        """
        if not tensor.is_floating_point():
            raise TypeError(
                f"{cls.__name__}: the tensor must be floating-point, got {tensor.dtype}; integers "
                "are available as quantized_repr()"
            )
        result = plain_tensor(tensor).as_subclass(cls)
        result.encoding = encoding
        return result

    def _require_encoding(self) -> EncodingBase:
        if getattr(self, "encoding", None) is None:
            raise EncodingError(
                f"{type(self).__name__}: `encoding` is None; an operation since the quantizer "
                "changed the values or mixed channels, so quantize the result again"
            )
        return self.encoding  # type: ignore[return-value]

    def quantize(self) -> QuantizedTensor:
        """Return the integers of the grid, in a floating-point dtype. Idempotent."""
        raise NotImplementedError(f"{type(self).__name__}.quantize is not defined")

    def dequantize(self) -> DequantizedTensor:
        """Return the real numbers. Idempotent."""
        raise NotImplementedError(f"{type(self).__name__}.dequantize is not defined")

    def quantized_repr(self) -> Tensor:
        """Return the integers of the grid in the smallest integer dtype that holds them.

        The result carries no gradient.
        """
        encoding = self._require_encoding()
        integers = plain_tensor(self.quantize()).detach()
        return integers.to(getattr(encoding, "dtype", integers.dtype))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            encoding = self.encoding
            memo[id(self)] = (
                type(self)
                .attach(
                    plain_tensor(self).detach().clone(),
                    encoding and encoding.map_tensors(lambda tensor: tensor.detach().clone()),
                )
                .requires_grad_(self.requires_grad)
            )
        return memo[id(self)]

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        source = args[0] if args else None
        if func is torch.nn.functional.embedding:
            source = args[1]
        if not isinstance(source, QuantizedTensorBase):
            return result
        if func is Tensor.__setitem__ or (result is source and func not in _KEEPS_LAYOUT):
            moved = func in _MOVES_VALUES and _is_per_tensor(source.encoding)
            source.encoding = source.encoding if moved else None
            return result
        encoding = _encoding_after(func, source.encoding, args)
        if encoding is _PLAIN or result is source:
            return result
        return tree_map_only(
            Tensor,
            lambda tensor: (
                type(source).attach(tensor, encoding) if tensor.is_floating_point() else tensor
            ),
            result,
        )


_PLAIN: Any = object()


def _is_per_tensor(encoding: EncodingBase | None) -> bool:
    return encoding is not None and encoding.granularity == "pertensor"


def _encoding_after(
    func: Callable[..., Any], encoding: EncodingBase | None, args: tuple[Any, ...]
) -> Any:
    """Encoding of the result of ``func``; _PLAIN where the result is an ordinary tensor."""
    if func in _KEEPS_LAYOUT:
        return encoding
    if func in _MOVES_VALUES or func is torch.nn.functional.embedding:
        return encoding if _is_per_tensor(encoding) else None
    if encoding is not None and len(args) == 2 and func in (_MULTIPLIES | _DIVIDES):
        factor = args[1]
        if isinstance(factor, (int, float)) and not isinstance(factor, bool) and factor > 0:
            return encoding.rescale(1.0 / factor if func in _DIVIDES else factor)
    return _PLAIN


class QuantizedTensor(QuantizedTensorBase):
    """Integers of a grid in a floating-point dtype, with the encoding to read them."""

    def quantize(self) -> QuantizedTensor:
        """Return ``self``."""
        self._require_encoding()
        return self

    def dequantize(self) -> DequantizedTensor:
        """Return the real numbers that the integers stand for."""
        encoding = self._require_encoding()
        return DequantizedTensor.attach(encoding.dequantize(plain_tensor(self)), encoding)


class DequantizedTensor(QuantizedTensorBase):
    """Real numbers that lie on a grid, with its encoding."""

    def quantize(self) -> QuantizedTensor:
        """Return the integers of the grid."""
        encoding = self._require_encoding()
        return QuantizedTensor.attach(encoding.quantize(plain_tensor(self)), encoding)

    def dequantize(self) -> DequantizedTensor:
        """Return ``self``."""
        self._require_encoding()
        return self
