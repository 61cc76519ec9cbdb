"""`QuantizationSimModel`: how a trained network behaves once its tensors are integers."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aimet_torch.common.collectives import Ranks
from aimet_torch.common.defs import QuantizationDataType, QuantScheme
from aimet_torch.graph import ModelGraph, bind_inputs, drop_simulation_keywords, trace
from aimet_torch.nn import QuantizationMixin
from aimet_torch.nn.calibration import compute_param_encodings_of
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantization.encoding_analyzer import PercentileEncodingAnalyzer
from aimet_torch.quantsim import encodings_io
from aimet_torch.quantsim.accumulators import attach_bias_grids, fit_weight_steps
from aimet_torch.quantsim.calibration import (
    NOT_SPECIFIED,
    calibrating,
    evaluation_mode,
    ranges_of,
    require_whole,
    restore_ranges,
    run_forward_passes,
)
from aimet_torch.quantsim.checkpoints import check_before_loading
from aimet_torch.quantsim.config import load_config
from aimet_torch.quantsim.exporting import ExportMethods
from aimet_torch.quantsim.placement import plan
from aimet_torch.quantsim.realize import Settings, realize
from aimet_torch.quantsim.summary import Summary, summarize

_SCHEME_NAMES = {
    "min_max": QuantScheme.min_max,
    "tf": QuantScheme.min_max,
    "tf_enhanced": QuantScheme.post_training_tf_enhanced,
    "percentile": QuantScheme.post_training_percentile,
    "mse": QuantScheme.post_training_mse,
}


class QuantizationSimModel(ExportMethods):
    """Quantization simulation (QuantSim) of a PyTorch model.

    The model is taken as it is: functional operators, modules called several times and nested
    containers need no rewriting. It is traced with `torch.fx`; each call site gets quantizers of
    its own. What cannot be traced runs as Python with its leaf modules quantized, and the summary
    lists what stays in floating point there.

    Args:
        model: a trained FP32 model; copied unless `in_place`.
        dummy_input: an example input: a tensor, a tuple or list of positional inputs, or a dict of
            keyword inputs. Only its structure, shapes and dtypes matter; the batch size stays free.
        quant_scheme: how ranges are found: a `QuantScheme`, or "min_max", "tf", "tf_enhanced",
            "percentile", "mse".
        default_output_bw: bits of activations, 4 to 32.
        default_param_bw: bits of parameters, 2 to 32.
        in_place: quantize `model` itself.
        config_file: placement rules: a path, an alias such as "htp_v73", or None for the default
            (per-channel weights; see `aimet_torch.quantsim.config.load_config`).
        default_data_type: int, or float for 16- or 32-bit floating-point simulation.

    Attributes:
        model: the simulated `nn.Module`; trains, saves, exports and compiles like any other.
        graph: the traced graph with the quantized modules (`connected_graph` is the same).
        excluded_layers: names of layers that `exclude_layers_from_quantization` has stripped.

    Raises:
        ValueError: a bit width, scheme or configuration that does not exist, or a model already
            quantized.
        TypeError: `model` is not an `nn.Module`.

    >>> sim = QuantizationSimModel(torch.nn.Linear(3, 2), torch.randn(1, 3))
    >>> sim.compute_encodings([torch.randn(4, 3)])
    >>> sim.model(torch.randn(4, 3)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: Any,
        quant_scheme: QuantScheme | str | None = None,
        default_output_bw: int = 8,
        default_param_bw: int = 8,
        in_place: bool = False,
        config_file: str | Path | dict[str, Any] | None = None,
        default_data_type: QuantizationDataType = QuantizationDataType.int,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"QuantizationSimModel: `model` must be an nn.Module, got {type(model).__name__}"
            )
        if any(isinstance(module, QuantizationMixin) for module in model.modules()):
            raise ValueError(
                "QuantizationSimModel: `model` already holds quantized modules; pass the original "
                "model, or "
                "QuantizationSimModel.get_original_model(model)"
            )
        self.settings = Settings(
            scheme=_check_scheme(quant_scheme),
            output_bitwidth=_check_bitwidth(
                "default_output_bw", default_output_bw, 4, default_data_type
            ),
            param_bitwidth=_check_bitwidth(
                "default_param_bw", default_param_bw, 2, default_data_type
            ),
            data_type=default_data_type,
        )
        self.config = load_config(config_file)
        self._names_in_original = _ModuleNames(
            {module: name for name, module in model.named_modules()}
        )
        source = model if in_place else copy.deepcopy(model)
        self.dummy_input = dummy_input
        self.graph: ModelGraph = trace(source, dummy_input)
        self.model: nn.Module = self.graph.to_module()
        check_before_loading(self.model)
        self.plan = plan(self.graph, self.config, default_output_bw)
        with evaluation_mode(self.model):
            self._realization = realize(
                self.model, self.graph, self.plan, self.settings, self.config, self._run_example
            )
        attach_bias_grids(self.graph)
        self.excluded_layers: list[str] = []

    @property
    def connected_graph(self) -> ModelGraph:
        """The traced graph, under AIMET's name."""
        return self.graph

    def _run_example(self) -> object:
        args, kwargs = bind_inputs(self.model, self.dummy_input)
        return self.model(*args, **kwargs)

    def _positional_count(self) -> int:
        return len(bind_inputs(self.model, self.dummy_input)[0])

    # -- calibration -------------------------------------------------------------------------------

    def compute_encodings(
        self,
        forward_pass_callback: Callable[..., Any] | Iterable[Any],
        forward_pass_callback_args: Any = NOT_SPECIFIED,
        *,
        process_group: Any = None,
    ) -> None:
        """Calibrate every quantizer on representative data.

        Parameters are calibrated on their values (steps of weights then move by at most 1e-4 of
        themselves, so that no accumulator falls on a rounding boundary and the exported model
        computes the very same numbers; see `aimet_torch.quantsim.accumulators`). Activations are
        observed, unquantized, while the data runs through the model in evaluation mode without
        gradients; 500 to 1,000 samples usually do.

        Args:
            forward_pass_callback: `callback(model)` or `callback(model, args)` that runs forward
                passes; or a data loader or other iterable of batches, then with a progress bar. Of
                a batch that is a tuple or list, as many entries as the model has inputs are used;
                labels behind them are left out.
            forward_pass_callback_args: passed on to a callable.
            process_group: a `torch.distributed.ProcessGroup`: every rank of it calls this method,
                each with its part of the data, which may be none, and all end with the encodings of
                the whole data. None: this process calibrates by itself, whatever others do.

        Raises:
            TypeError, ValueError: as `aimet_torch.quantsim.calibration.run_forward_passes`.
            RuntimeError: another rank has failed; the message says which one and why.
            NotImplementedError: the model is sharded (FSDP2).

        Quantizers that saw no finite value keep passing their input through; a warning names them.
        """
        require_whole("compute_encodings", self.model)
        modules = list(self.qmodules())
        quantizers = {
            id(quantizer): quantizer
            for module in modules
            for quantizers in (module.input_quantizers, module.output_quantizers)
            for quantizer in quantizers
            if quantizer is not None
        }
        before = ranges_of(self.model)
        try:
            with Ranks(process_group, "compute_encodings") as ranks, evaluation_mode(self.model):
                of_quantizers = {id(parameter) for parameter in self.quantizer_parameters()}
                ranks.require_equal(
                    p for p in self.model.parameters() if id(p) not in of_quantizers
                )
                compute_param_encodings_of(modules)
                with calibrating(quantizers.values(), ranks):
                    run_forward_passes(
                        self.model,
                        forward_pass_callback,
                        forward_pass_callback_args,
                        self._positional_count(),
                        ranks=ranks,
                    )
        except BaseException:  # also Ctrl-C: the ranges are as they were
            restore_ranges(before)
            raise
        for quantizer, low, high in self._realization.limits:
            _apply_limits(quantizer, low, high)
        fit_weight_steps(self.graph)
        self._warn_of_uncalibrated()

    def _warn_of_uncalibrated(self) -> None:
        names = [
            name for name, quantizer in self.named_quantizers() if not quantizer.is_initialized()
        ]
        if names:
            shown = ", ".join(names[:10]) + (
                f" and {len(names) - 10} more" if len(names) > 10 else ""
            )
            warnings.warn(
                "compute_encodings: these quantizers saw no finite value and pass their input "
                f"through: {shown}",
                stacklevel=3,
            )

    def set_percentile_value(self, percentile_value: float) -> None:
        """Set the percentile of every quantizer of the percentile scheme, 50 to 100.

        Raises:
            ValueError: outside 50 to 100.
        """
        for quantizer in self.quantizers():
            analyzer = getattr(quantizer, "encoding_analyzer", None)
            if isinstance(analyzer, PercentileEncodingAnalyzer):
                analyzer.set_percentile(percentile_value)

    # -- modules and quantizers --------------------------------------------------------------------

    def named_qmodules(self) -> Iterator[tuple[str, QuantizationMixin]]:
        """Names and quantized modules, in the order of `model.named_modules()`."""
        for name, module in self.model.named_modules():
            if isinstance(module, QuantizationMixin):
                yield name, module

    def qmodules(self) -> Iterator[QuantizationMixin]:
        """The quantized modules."""
        for _, module in self.named_qmodules():
            yield module

    def named_quantizers(self) -> Iterator[tuple[str, QuantizerBase]]:
        """Names and quantizers; one that several operators share comes once."""
        for name, module in self.model.named_modules():
            if isinstance(module, QuantizerBase):
                yield name, module

    def quantizers(self) -> Iterator[QuantizerBase]:
        """The quantizers."""
        for _, quantizer in self.named_quantizers():
            yield quantizer

    def named_quantizer_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the quantizers: what range learning trains."""
        for name, quantizer in self.named_quantizers():
            for parameter_name, parameter in quantizer.named_parameters():
                yield f"{name}.{parameter_name}", parameter

    def quantizer_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the quantizers."""
        for _, parameter in self.named_quantizer_parameters():
            yield parameter

    def quantizer_state_dict(self) -> dict[str, torch.Tensor]:
        """State of the quantizers alone, for `model.load_state_dict(state, strict=False)`."""
        state = self.model.state_dict()
        prefixes = tuple(
            f"{name}."
            for name, module in self.model.named_modules(remove_duplicate=False)
            if isinstance(module, QuantizerBase)
        )
        return {key: value for key, value in state.items() if key.startswith(prefixes)}

    def exclude_layers_from_quantization(self, layers_to_exclude: list[nn.Module | str]) -> None:
        """Remove every quantizer of some layers.

        Args:
            layers_to_exclude: modules of `sim.model` or of the original model, or their names; of a
                container, all layers inside.

        Raises:
            ValueError: a layer that is in neither model.
        """
        names = dict(self.model.named_modules())
        known = {module: name for name, module in names.items()}
        for layer in layers_to_exclude:
            name = (
                layer
                if isinstance(layer, str)
                else known.get(layer, self._names_in_original.get(layer))
            )
            if name not in names:
                label = repr(layer) if isinstance(layer, str) else type(layer).__name__
                raise ValueError(
                    f"exclude_layers_from_quantization: `layers_to_exclude` has {label}, which is "
                    "in neither "
                    "sim.model nor the original model"
                )
            for inner_name, module in names[name].named_modules(prefix=name):
                if isinstance(module, QuantizationMixin):
                    module._remove_all_quantizers()
                    self.excluded_layers.append(inner_name)

    def exclude_param_from_quantization(self, param_name_to_exclude: str) -> None:
        """Remove the quantizers of all parameters of this name, such as "bias"."""
        for module in self.qmodules():
            if param_name_to_exclude in module.param_quantizers:
                module.param_quantizers[param_name_to_exclude] = None

    def fold_param_quantizers(self) -> None:
        """Replace parameters by their quantized values and drop their quantizers: runs faster.

        The model computes the same as before. So a parameter that its code reads past the layer
        that owns it (``x @ self.fc.weight.t()``) stays as it is and is quantized in every call.
        """
        for module in self.qmodules():
            module.fold_param_quantizers()

    @staticmethod
    def get_original_model(model: nn.Module, qdq_weights: bool = False) -> nn.Module:
        """A copy of a simulated model without any quantizer.

        Args:
            model: `sim.model`.
            qdq_weights: keep the parameters' quantization error in the weights.
        """
        original = copy.deepcopy(model)
        for name, module in list(original.named_modules()):
            if isinstance(module, QuantizationMixin):
                if qdq_weights:
                    module.fold_param_quantizers(keep=())
                _replace(original, name, module.get_original_module())
        drop_simulation_keywords(original)
        return original

    # -- encodings --------------------------------------------------------------------------------

    def save_encodings_to_json(
        self, path: str | Path, filename_prefix: str, encoding_version: str = "0.6.1"
    ) -> None:
        """Write `<path>/<filename_prefix>.json`: all encodings, by torch module.

        Args:
            path: directory; made when missing.
            filename_prefix: stem of the file.
            encoding_version: "0.6.1", which files activations under modules as AIMET does, or
                "1.0.0", "2.0.0" or "2.1.0", where they go by the names of their quantizers
                (`conv1.output_quantizers.0`).

        Raises:
            ValueError: no such version.
            NotImplementedError: the version has no form for an entry, which the message names.
        """
        encodings_io.save(self, Path(path) / f"{filename_prefix}.json", encoding_version)

    def load_encodings(
        self,
        encodings: str | Path | dict[str, Any],
        strict: bool = True,
        partial: bool = True,
        requires_grad: bool | None = None,
        allow_overwrite: bool | None = True,
    ) -> encodings_io.LoadedEncodings:
        """Set quantizers from encodings by the names of the torch modules.

        Everything is checked before the first quantizer changes.

        Args:
            encodings: a file that `save_encodings_to_json` or `export` (`_torch.encodings`) wrote,
                or its content; of any version. Of files that name tensors of an ONNX graph the
                parameters fit, since these have the same names.
            strict: an entry without a quantizer is an error instead of a warning.
            partial: quantizers without an entry are left alone; False removes them, with a warning
                that lists them. Frozen ones stay in any case.
            requires_grad: whether the ranges train; None leaves it.
            allow_overwrite: whether later calibration may change the ranges; None leaves it.

        Returns:
            The names of what was loaded, of entries that fit no quantizer, of quantizers without an
            entry, of int32 biases (which follow from input and weight), and of frozen quantizers.

        Raises:
            ValueError: a name that does not match (strict; all of them are listed), a shape or
                number format that does not fit, a malformed file.
        """
        return encodings_io.load(
            self,
            encodings,
            strict=strict,
            partial=partial,
            requires_grad=requires_grad,
            allow_overwrite=allow_overwrite,
        )

    def load_and_freeze_encodings(
        self, encoding_path: str | Path, ignore_when_quantizer_disabled: bool = False
    ) -> None:
        """`load_encodings`, then keep the ranges through calibration and training."""
        self.load_encodings(
            encoding_path,
            strict=not ignore_when_quantizer_disabled,
            requires_grad=False,
            allow_overwrite=False,
        )

    def set_and_freeze_param_encodings(self, encoding_path: str | Path) -> None:
        """Set and freeze parameter encodings, such as AdaRound's; other entries are left out."""
        encodings_io.load(
            self,
            encoding_path,
            strict=True,
            partial=True,
            requires_grad=False,
            allow_overwrite=False,
            params_only=True,
        )

    # -- report -----------------------------------------------------------------------------------

    def summary(self) -> Summary:
        """What has a quantizer, what has not, and why: prints as a table, iterates as rows."""
        return summarize(self)

    def __str__(self) -> str:
        return str(self.summary())


def load_encodings_to_sim(
    quant_sim_model: QuantizationSimModel, pytorch_encoding_path: str | Path
) -> None:
    """Set quantizers from a `_torch.encodings` file; those without an entry are removed."""
    quant_sim_model.load_encodings(pytorch_encoding_path, partial=False)


class _ModuleNames(weakref.WeakKeyDictionary[nn.Module, str]):
    """Names of the original's modules; a pickle has none, as the original is not in it."""

    def __reduce__(self) -> Any:
        return (_ModuleNames, ())


def _check_scheme(scheme: QuantScheme | str | None) -> QuantScheme:
    if scheme is None:
        return QuantScheme.min_max
    if isinstance(scheme, QuantScheme):
        return scheme
    if isinstance(scheme, str) and scheme in _SCHEME_NAMES:
        return _SCHEME_NAMES[scheme]
    raise ValueError(
        "QuantizationSimModel: `quant_scheme` must be a QuantScheme or one of "
        f"{', '.join(_SCHEME_NAMES)}, "
        f"got {scheme!r}"
    )


def _check_bitwidth(name: str, bitwidth: int, least: int, data_type: QuantizationDataType) -> int:
    if data_type == QuantizationDataType.float:
        if bitwidth not in (16, 32):
            raise ValueError(
                f"QuantizationSimModel: `{name}` must be 16 or 32 with floating-point simulation, "
                f"got {bitwidth!r}"
            )
    elif isinstance(bitwidth, bool) or not isinstance(bitwidth, int) or not least <= bitwidth <= 32:
        raise ValueError(
            f"QuantizationSimModel: `{name}` must be an integer from {least} to 32, got "
            f"{bitwidth!r}"
        )
    return bitwidth


def _apply_limits(quantizer: Any, low: float | None, high: float | None) -> None:
    if not quantizer.is_initialized() or not quantizer.is_overwrite_allowed():
        return
    minimum, maximum = quantizer.get_min(), quantizer.get_max()
    quantizer.set_range(
        minimum if low is None else torch.full_like(minimum, low),
        maximum if high is None else torch.full_like(maximum, high),
    )


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
