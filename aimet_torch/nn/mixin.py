"""The mixin that turns a module class into its quantized class, and the registry of such classes.

A quantized class is ``class QuantizedConv2d(QuantizationMixin, nn.Conv2d)``: it is still a Conv2d,
with the same parameters under the same names, and three more children: ``input_quantizers``,
``output_quantizers`` and ``param_quantizers``, whose entries are None where nothing is quantized.
"""

from __future__ import annotations

import copyreg
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from aimet_torch.nn.base import BaseQuantizationMixin, share_state
from aimet_torch.nn.eager import activation_of, returns_new_tensor
from aimet_torch.nn.kernels import kernel_of

__all__ = ["QuantizationMixin", "make_quantized_class"]


class QuantizationMixin(BaseQuantizationMixin):
    """Base of quantized modules.

    A class for a module of one's own needs nothing but the bases::

        @QuantizationMixin.implements(MyModule)
        class QuantizedMyModule(QuantizationMixin, MyModule):
            pass

    It is optional, as `from_module` makes such a class by itself where there is none. With a
    ``forward`` of its own, the class applies its quantizers itself, as in AIMET.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        lineage = cls.__mro__
        parents = lineage[lineage.index(QuantizationMixin) + 2 :]
        parent = next((c for c in parents if "forward" in vars(c)), None)
        if parent is None or parent is nn.Module:
            return  # a further mixin, not a module yet
        cls._parent_forward = vars(parent)["forward"]
        cls._kernel = kernel_of(cls._parent_forward)
        cls._returns_new = returns_new_tensor(cls, cls._parent_forward)
        cls._activation = activation_of(cls, cls._parent_forward)
        own = lineage[: lineage.index(QuantizationMixin)]
        writers = [c for c in own if "forward" in vars(c)]
        if all(vars(c)["forward"] is BaseQuantizationMixin._quantized_forward for c in writers):
            cls.forward = BaseQuantizationMixin._quantized_forward  # type: ignore[method-assign]
            cls.accepts_call_site = True

    @classmethod
    def implements(cls, module_cls: type[nn.Module]) -> Callable[[type], type]:
        """Decorator: use the decorated class for modules of exactly ``module_cls``."""

        def register(quantized_cls: type) -> type:
            cls.cls_to_qcls[module_cls] = quantized_cls
            cls.qcls_to_cls[quantized_cls] = module_cls
            cls._ignored.discard(module_cls)
            return quantized_cls

        return register

    @classmethod
    def wrap(cls, module_cls: type[nn.Module]) -> type[nn.Module]:
        """Return the quantized class of ``module_cls``; it is made if there is none.

        Raises:
            TypeError: not a class of modules.
        """
        if not (isinstance(module_cls, type) and issubclass(module_cls, nn.Module)):
            raise TypeError(
                f"QuantizationMixin.wrap: expected a class of modules, got {module_cls!r}"
            )
        if issubclass(module_cls, BaseQuantizationMixin):
            return module_cls
        if module_cls not in cls.cls_to_qcls:
            cls.implements(module_cls)(make_quantized_class(module_cls))
            cls.cls_to_qcls[module_cls]._generated = True  # type: ignore[attr-defined]
        return cls.cls_to_qcls[module_cls]

    @classmethod
    def ignore(cls, module_cls: type[nn.Module]) -> type[nn.Module]:
        """Never quantize modules of ``module_cls``: `from_module` returns them as they are.

        Raises:
            TypeError: not a class of modules.
        """
        if not (isinstance(module_cls, type) and issubclass(module_cls, nn.Module)):
            raise TypeError(
                f"QuantizationMixin.ignore: expected a class of modules, got {module_cls!r}"
            )
        cls._ignored.add(module_cls)
        return module_cls

    @classmethod
    def ignore_unknown_modules(cls, ignore: bool = True) -> None:
        """Quantize only classes of torch.nn, of this package, and those given to `implements`."""
        cls._ignores_unknown = ignore

    @classmethod
    def is_ignored(cls, module_cls: type[nn.Module]) -> bool:
        """Whether `from_module` leaves modules of ``module_cls`` as they are."""
        if cls._ignores_unknown and not module_cls.__module__.startswith("aimet_torch."):
            known = cls.cls_to_qcls.get(module_cls)
            if known is None or known._generated:  # type: ignore[attr-defined]
                return True
        return module_cls in cls._ignored

    @classmethod
    def from_module(cls, module: nn.Module) -> Any:
        """Return a quantized module with the parameters, buffers and children of ``module``.

        They are the same objects, not copies. All quantizers are None. Quantized modules, and
        those of ignored classes, are returned as they are.

        Raises:
            TypeError: not a module.

        >>> from torch import nn
        >>> linear = nn.Linear(2, 3)
        >>> quantized = QuantizationMixin.from_module(linear)
        >>> type(quantized).__name__, quantized.weight is linear.weight
        ('QuantizedLinear', True)
        """
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"QuantizationMixin.from_module: expected an nn.Module, got {type(module).__name__}"
            )
        if isinstance(module, BaseQuantizationMixin) or cls.is_ignored(type(module)):
            return module
        quantized_cls: Any = cls.wrap(type(module))
        quantized = quantized_cls.__new__(quantized_cls)
        share_state(module, quantized)
        quantized.__quant_init__()
        return quantized

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(protocol)
        if not type(self)._generated or reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
            return reduced
        # A class made on the fly cannot be found by name; its original class can.
        return (_new_quantized, (self.qcls_to_cls[type(self)],), *reduced[2:])  # type: ignore[index]


def make_quantized_class(
    module_cls: type[nn.Module], tensor_counts: tuple[int, int] | None = None
) -> type[nn.Module]:
    """Make ``class Quantized<name>(QuantizationMixin, module_cls)``.

    Args:
        module_cls: class of the original modules.
        tensor_counts: tensors that a call takes and returns; None: as many as forward has
            arguments without a default, and one.
    """
    namespace: dict[str, Any] = {
        "__module__": module_cls.__module__,
        "__doc__": f"Quantized `{module_cls.__name__}`.",
        "tensor_counts": tensor_counts or (_required_arguments(module_cls), 1),
    }
    return type(f"Quantized{module_cls.__name__}", (QuantizationMixin, module_cls), namespace)


def _required_arguments(module_cls: type[nn.Module]) -> int:
    try:
        parameters = list(inspect.signature(module_cls.forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, sum(p.kind in positional and p.default is p.empty for p in parameters))


def _new_quantized(module_cls: type[nn.Module]) -> nn.Module:
    """Make an empty quantized module; unpickling and copying fill it."""
    quantized_cls = QuantizationMixin.wrap(module_cls)
    return quantized_cls.__new__(quantized_cls)
