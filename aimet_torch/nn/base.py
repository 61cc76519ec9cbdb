"""What a quantized module is: its quantizers, its forward, its calibration.

How quantized classes are found and made is in mixin.py.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeGuard

import torch
from torch import Tensor, nn

from aimet_torch.nn.apply import (
    RemovedQuantizers,
    apply_quantizer,
    apply_quantizer_,
    quantize_tensors,
    remove_quantizers,
)
from aimet_torch.nn.bias_grid import BiasGrid
from aimet_torch.nn.call import CUSTOM, Call
from aimet_torch.nn.eager import (
    Activation,
    LastResult,
    ParameterCache,
    activate_and_quantize,
    key_of_parameters,
    may_overwrite,
)
from aimet_torch.nn.kernels import Kernel, run_shadowed, shadow, unshadow
from aimet_torch.nn.weight_formats import round_weight_to_mxfp4, round_weight_to_nvfp4
from aimet_torch.quantization.affine import AffineQuantizerBase, GroupedBlockQuantizeDequantize
from aimet_torch.quantization.affine.regrid import find_grid
from aimet_torch.quantization.base import EncodingBase, QuantizerBase, plain_tensor

__all__ = ["BaseQuantizationMixin", "share_state"]

_CHILDREN = ("input_quantizers", "output_quantizers", "param_quantizers")
_ATTRIBUTES = (
    "inputs_per_call",
    "outputs_per_call",
    "folded_param_encodings",
    "params_read_elsewhere",
    "bias_grids",
    "input_producers",
    "_parameter_cache",
    "_last_result",
)


class BaseQuantizationMixin:
    """What every quantized module has; see `QuantizationMixin`.

    Attributes:
        input_quantizers: for each tensor among the inputs, in the order of the call with nested
            containers flattened; a list shorter than the inputs leaves the rest as it is.
        output_quantizers: likewise for the outputs.
        param_quantizers: by parameter name.
        inputs_per_call: entries of ``input_quantizers`` that belong to one call site.
        outputs_per_call: entries of ``output_quantizers`` that belong to one call site.
        bias_grids: by call site, where an integer target holds the bias; without one, an
            unquantized bias stays as it is.
        input_producers: by call site of an activation function, where its input comes from if it
            goes there and nowhere else, so that it may be overwritten.
        folded_param_encodings: encodings of parameters that `fold_param_quantizers` replaced.
        params_read_elsewhere: names of parameters that the model's code reads past this module,
            too.
    """

    # nn.ModuleList, nn.ModuleList and nn.ModuleDict whose values are QuantizerBase or None.
    input_quantizers: Any
    output_quantizers: Any
    param_quantizers: Any
    bias: Any
    inputs_per_call: int
    outputs_per_call: int
    folded_param_encodings: dict[str, EncodingBase]
    params_read_elsewhere: frozenset[str] = frozenset()
    bias_grids: dict[int, BiasGrid] | None = None
    input_producers: dict[int, Any] | None = None
    _last_result: LastResult | None = None  # where somebody's `input_producers` names this module

    #: Quantized class by original class, and the reverse.
    cls_to_qcls: ClassVar[dict[type[nn.Module], type[nn.Module]]] = {}
    qcls_to_cls: ClassVar[dict[type[nn.Module], type[nn.Module]]] = {}
    #: Tensors that a call takes and returns, where it is not one of each.
    tensor_counts: ClassVar[tuple[int, int]] = (1, 1)
    #: Whether forward takes ``call_site``; False for classes with a forward of their own.
    accepts_call_site: ClassVar[bool] = False

    _ignored: ClassVar[set[type[nn.Module]]] = set()
    _ignores_unknown: ClassVar[bool] = False
    _generated: ClassVar[bool] = False
    _parent_forward: ClassVar[Callable[..., Any]]
    _kernel: ClassVar[Kernel | None]
    _returns_new: ClassVar[bool] = False
    _activation: ClassVar[Activation | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__quant_init__()

    def __quant_init__(self) -> None:
        """Create the quantizer containers, all entries None.

        A class whose inputs or outputs are not counted right overrides this, calls it, and assigns
        ``self.input_quantizers`` and ``self.output_quantizers`` anew.
        """
        inputs, outputs = self.tensor_counts
        names = [name for name, _ in self.named_parameters(recurse=False)]  # type: ignore[attr-defined]
        self.param_quantizers = nn.ModuleDict(dict.fromkeys(names))  # type: ignore[arg-type]
        self.folded_param_encodings = {}
        self._parameter_cache = ParameterCache()
        self.reserve_quantizers(inputs, outputs)

    def reserve_quantizers(self, inputs: int, outputs: int, call_sites: int = 1) -> None:
        """Make room for the tensors of several call sites; all entries become None.

        Args:
            inputs: tensors that one call takes.
            outputs: tensors that one call returns.
            call_sites: calls of this module in one forward pass of the model.
        """
        self.input_quantizers = nn.ModuleList([None] * (inputs * call_sites))  # type: ignore[list-item]
        self.output_quantizers = nn.ModuleList([None] * (outputs * call_sites))  # type: ignore[list-item]
        self.inputs_per_call, self.outputs_per_call = inputs, outputs

    # -- forward --------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the original module. Classes without a forward of their own get another one."""
        return super().forward(*args, **kwargs)  # type: ignore[misc]

    def _quantized_forward(
        self, *args: Any, call_site: int = 0, owns_input: bool = False, **kwargs: Any
    ) -> Any:
        """Run the module with quantized inputs, parameters and outputs.

        Args:
            *args: inputs of the original module.
            call_site: which call of a module that the model uses several times this is.
            owns_input: the caller lets go of the input, so that it may be overwritten.
            **kwargs: inputs of the original module.

        Raises:
            RuntimeError: a quantizer has no range yet.
        """
        modules: Any = self._modules  # type: ignore[attr-defined]
        call = Call.of(call_site)
        for quantizer in modules["input_quantizers"]._modules.values():
            if quantizer is not None:
                args, kwargs = self._quantized_inputs(call, args, kwargs)
                break
        parameters = self._quantized_parameters(None, call)
        with call.saving(args, kwargs):
            output, is_quantized = self._compute(call, parameters, args, kwargs, owns_input)
        if is_quantized:
            return output
        quantizers = modules["output_quantizers"]._modules
        index = call_site * self.outputs_per_call
        is_new = call.eager and self._returns_new and type(output) is Tensor and "out" not in kwargs
        if not is_new or self.__dict__.get("inplace", False):
            if not quantizers:
                return output
            return quantize_tensors(output, quantizers, index, call.apply)[0]
        if quantizers:
            quantizer = quantizers.get(str(index))
            if call.savings is not None:
                made_by = self, parameters, args
                output = call.savings.quantize_activation(quantizer, output, made_by=made_by)
            else:
                output = (apply_quantizer_ if call.no_grad else apply_quantizer)(quantizer, output)
        if self._last_result is not None:
            self._last_result.set(output)
        return output

    def _compute(
        self,
        call: Call,
        parameters: dict[str, Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        owns_input: bool,
    ) -> tuple[Any, bool]:
        """Run the original module; return its result and whether that is quantized already."""
        cls = type(self)
        if parameters is None:
            if cls._activation is not None and call.eager and not call.no_grad:
                activated = activate_and_quantize(self, args, kwargs, call)
                if activated is not None:
                    return activated, True
            if owns_input and call.eager and may_overwrite(self, args, call.site):
                return self._activate_(call, args[0]), True
            return self._parent_forward(*args, **kwargs), False
        if (kernel := cls._kernel) is not None and "weight" in parameters:
            return kernel(self, parameters, *args, **kwargs), False
        return run_shadowed(self, cls._parent_forward, parameters, args, kwargs), False

    def _quantized_inputs(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        quantizers: Any = self._modules["input_quantizers"]._modules  # type: ignore[attr-defined]
        index = call.site * self.inputs_per_call
        args, index = quantize_tensors(args, quantizers, index, call.apply)
        if kwargs:
            kwargs, _ = quantize_tensors(kwargs, quantizers, index, call.apply)
        return args, kwargs

    def _activate_(self, call: Call, input: Tensor) -> Tensor:
        """Clamp ``input`` in place as this activation function does, and quantize it."""
        activation: Any = self._activation
        quantizers: Any = self._modules["output_quantizers"]._modules  # type: ignore[attr-defined]
        quantizer = quantizers.get(str(call.site * self.outputs_per_call))
        if not call.no_grad:
            return call.apply(quantizer, activation.apply_(self, input))
        if quantizer is not None and not (quantizer._forward_hooks or quantizer._forward_pre_hooks):
            output = quantizer.simulate_(input, *activation.bounds(self))
            if output is not None:
                return output
        return apply_quantizer_(quantizer, activation.apply_(self, input))

    def _quantized_parameters(
        self, names: Iterable[str] | None = None, call: Call = CUSTOM
    ) -> dict[str, Any] | None:
        """Return all own parameters, quantized where there is a quantizer; None if nowhere.

        Quantizers without a range compute it here, from the parameter. While no gradient is needed
        (``call.no_grad``) the result is kept as long as nothing that it depends on changes.
        """
        quantizers: Any = self._modules["param_quantizers"]._modules  # type: ignore[attr-defined]
        if not self.bias_grids:
            for quantizer in quantizers.values():
                if quantizer is not None:
                    break
            else:
                return None
        key = None
        if call.no_grad and names is None:
            key = key_of_parameters(self, quantizers, call.site)
            known = None if key is None else self._parameter_cache.get(call.site, key)
            if known is not None:
                return known
        elif not torch.compiler.is_compiling():
            self._parameter_cache.clear()
        selected = quantizers.keys() if names is None else set(names)
        result: dict[str, Any] = dict(self._parameters)  # type: ignore[attr-defined]
        for name, quantizer in quantizers.items():
            parameter = getattr(self, name)
            if parameter is not None and quantizer is not None and name in selected:
                if quantizer.calibration_issue is None and not quantizer.is_initialized():
                    self._compute_param_encoding(name, parameter, quantizer)
                if call.savings is not None:
                    parameter = call.savings.quantize_parameter(quantizer, parameter)
                else:
                    parameter = apply_quantizer(quantizer, parameter)
            result[name] = parameter
        grid = (self.bias_grids or {}).get(call.site)
        if grid is not None and result.get("bias") is not None and quantizers["bias"] is None:
            result["bias"] = grid.round(result["bias"])
        if key is not None:
            self._parameter_cache.put(call.site, key, result)
        return result

    @contextlib.contextmanager
    def _patch_quantized_parameters(
        self, param_names: Iterable[str] | None = None
    ) -> Iterator[None]:
        """Within this context ``self.weight`` and so on are quantized; for a custom forward.

        Args:
            param_names: which parameters; all that have a quantizer if None.
        """
        parameters = self._quantized_parameters(param_names) or {}
        before = shadow(self, parameters)  # type: ignore[arg-type]
        try:
            yield
        finally:
            unshadow(self, before)  # type: ignore[arg-type]

    # -- calibration ----------------------------------------------------------------------------

    def _compute_param_encoding(
        self, name: str, parameter: Tensor, quantizer: QuantizerBase
    ) -> None:
        """Set the range of one parameter quantizer, unless it is frozen."""
        if self._observe_parameter(parameter, quantizer):
            issue = quantizer.end_calibration()
            if issue:
                warnings.warn(f"{type(self).__name__}.{name}: {issue}", stacklevel=4)

    def _observe_parameter(self, parameter: Tensor, quantizer: QuantizerBase) -> bool:
        """Whether the quantizer has seen the parameter and its range is still to be computed."""
        if not quantizer.is_overwrite_allowed():
            return False
        if _is_signed_symmetric(quantizer):
            found = find_grid(
                plain_tensor(parameter.detach()),
                quantizer.shape,
                quantizer.block_size,
                quantizer.qmin,
                quantizer.qmax,
            )
            if found is not None:
                quantizer.set_range(*found)
                return False
        if not quantizer.begin_calibration():
            return False
        quantizer.observe(parameter)
        return True

    def compute_param_encodings(self, overwrite: bool = True) -> None:
        """Set the ranges of the parameter quantizers from the parameters.

        A parameter that lies on a grid of the quantizer's bitwidth already keeps its values: the
        range becomes that grid's.

        Args:
            overwrite: also those that have a range; frozen quantizers always keep theirs.
        """
        for name, quantizer in self.param_quantizers.items():
            parameter = getattr(self, name)
            if quantizer is None or parameter is None:
                continue
            if overwrite or not quantizer.is_initialized():
                self._compute_param_encoding(name, parameter, quantizer)

    @contextlib.contextmanager
    def compute_encodings(self) -> Iterator[None]:
        """Set all ranges: parameters now, inputs and outputs from what passes within the context.

        Within it inputs and outputs stay as they are, parameters are quantized.
        """
        self.compute_param_encodings()
        with contextlib.ExitStack() as stack:
            for quantizer in self._activation_quantizers():
                stack.enter_context(quantizer.compute_encodings(passes_through=True))
            yield

    def _activation_quantizers(self) -> Iterator[QuantizerBase]:
        for quantizer in itertools.chain(self.input_quantizers, self.output_quantizers):
            if quantizer is not None:
                yield quantizer

    @torch.no_grad()
    def fold_param_quantizers(self, keep: Iterable[str] | None = None) -> None:
        """Replace parameters by their quantized-dequantized values and drop the quantizers.

        The parameters are new objects, so the module this one was made from keeps its own. The
        encodings stay available in ``folded_param_encodings``.

        Args:
            keep: names of parameters that stay as they are, with their quantizers; None for
                ``params_read_elsewhere``, since the code that reads them gets them unrounded.
        """
        kept = self.params_read_elsewhere if keep is None else frozenset(keep)
        self.compute_param_encodings(overwrite=False)
        if len(self.bias_grids or {}) == 1 and self.bias is not None and "bias" not in kept:
            (grid,) = (self.bias_grids or {}).values()
            rounded = grid.round(self.bias).detach()
            self.bias = nn.Parameter(rounded.clone(), requires_grad=self.bias.requires_grad)
        for name, quantizer in self.param_quantizers.items():
            parameter = getattr(self, name)
            if quantizer is None or parameter is None or name in kept:
                continue
            encoding = quantizer.get_encodings()
            if encoding is not None:
                self.folded_param_encodings[name] = encoding.map_tensors(torch.Tensor.detach)
            folded = apply_quantizer(quantizer, parameter).detach().clone()
            setattr(self, name, nn.Parameter(folded, requires_grad=parameter.requires_grad))
            self.param_quantizers[name] = None

    # -- weights in blocks of float4 --------------------------------------------------------------

    def set_weight_quantizer_to_mxfp4_int8(self, block_size: int = 32) -> None:
        """Round the weight to MXFP4; see `aimet_torch.nn.weight_formats`."""
        round_weight_to_mxfp4(self, block_size)

    def set_weight_quantizer_to_nvfp4_int8(
        self, scale_q: torch.Tensor, meta_scale: torch.Tensor | float
    ) -> None:
        """Round the weight to NVFP4; see `aimet_torch.nn.weight_formats`."""
        round_weight_to_nvfp4(self, scale_q, meta_scale)

    # -- encodings ------------------------------------------------------------------------------

    def export_input_encodings(self, encoding_version: str) -> list[Any]:
        """Return the encodings of the inputs in a file version; None where there is none."""
        return [_exported(quantizer, encoding_version) for quantizer in self.input_quantizers]

    def export_output_encodings(self, encoding_version: str) -> list[Any]:
        """Return the encodings of the outputs in a file version; None where there is none."""
        return [_exported(quantizer, encoding_version) for quantizer in self.output_quantizers]

    def export_param_encodings(self, encoding_version: str) -> dict[str, Any]:
        """Return the encodings of the parameters in a file version, folded ones included."""
        result = {}
        for name, quantizer in self.param_quantizers.items():
            result[name] = _exported(quantizer, encoding_version)
            if result[name] is None and name in self.folded_param_encodings:
                encoding = self.folded_param_encodings[name]
                result[name] = encoding.to_qnn_encoding_dict(encoding_version)
        return result

    # -- removal --------------------------------------------------------------------------------

    def _remove_input_quantizers(
        self, indices: int | Iterable[int] | None = None
    ) -> RemovedQuantizers:
        """Set input quantizers to None: all, or those at ``indices``."""
        return remove_quantizers(self.input_quantizers, indices, range(len(self.input_quantizers)))

    def _remove_output_quantizers(
        self, indices: int | Iterable[int] | None = None
    ) -> RemovedQuantizers:
        """Set output quantizers to None: all, or those at ``indices``."""
        return remove_quantizers(
            self.output_quantizers, indices, range(len(self.output_quantizers))
        )

    def _remove_param_quantizers(
        self, keys: str | Iterable[str] | None = None
    ) -> RemovedQuantizers:
        """Set parameter quantizers to None: all, or those called ``keys``."""
        return remove_quantizers(self.param_quantizers, keys, list(self.param_quantizers.keys()))

    def _remove_activation_quantizers(self) -> RemovedQuantizers:
        """Set all input and output quantizers to None."""
        inputs, outputs = self._remove_input_quantizers(), self._remove_output_quantizers()
        return RemovedQuantizers(inputs._taken + outputs._taken)

    def _remove_all_quantizers(self) -> RemovedQuantizers:
        """Set every quantizer to None."""
        activations, parameters = (
            self._remove_activation_quantizers(),
            self._remove_param_quantizers(),
        )
        return RemovedQuantizers(activations._taken + parameters._taken)

    # -- from and to the original module --------------------------------------------------------

    def get_original_module(self) -> nn.Module:
        """Return the module without quantization; it shares parameters, buffers and children."""
        original_class = self.qcls_to_cls[type(self)]  # type: ignore[index]
        module = original_class.__new__(original_class)
        share_state(self, module)  # type: ignore[arg-type]
        for name in _CHILDREN:
            del module._modules[name]
        for name in _ATTRIBUTES:
            module.__dict__.pop(name, None)
        return module


def share_state(source: nn.Module, target: nn.Module) -> None:
    """Let ``target`` have the attributes of ``source``; its own containers, the same contents."""
    target.__dict__ = source.__dict__.copy()
    for name in ("_parameters", "_buffers", "_modules"):
        target.__dict__[name] = source.__dict__[name].copy()
    if isinstance(source, nn.RNNBase):
        target.__dict__["_flat_weights"] = list(source._flat_weights)


def _is_signed_symmetric(quantizer: QuantizerBase) -> TypeGuard[AffineQuantizerBase]:
    return (
        isinstance(quantizer, AffineQuantizerBase)
        and not isinstance(quantizer, GroupedBlockQuantizeDequantize)
        and quantizer.symmetric
        and quantizer.signed
        and not quantizer.zero_point_shift
    )


def _exported(quantizer: Any, encoding_version: str) -> Any:
    encoding = None if quantizer is None else quantizer.get_encodings()
    return None if encoding is None else encoding.to_qnn_encoding_dict(encoding_version)
