"""Adaptive rounding: weights rounded up or down such that the outputs of layers stay as they were.

Source: Nagel et al. 2020 (AdaRound, arXiv 2004.10568). Public names and defaults are AIMET's;
methods, their effect and their cost: ``docs/rounding.md``.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aimet_torch import encodings as encodings_library
from aimet_torch.common.collectives import Ranks
from aimet_torch.common.defs import QuantScheme
from aimet_torch.common.version import __version__
from aimet_torch.encodings.tensor_encoding import TensorEncoding
from aimet_torch.graph import bind_inputs
from aimet_torch.ptq.checkpoint import fingerprint
from aimet_torch.ptq.layer_rounding import LayerResult, Relaxation, relax_layer, round_layer
from aimet_torch.ptq.layers import LAYER_TYPES, set_bias
from aimet_torch.ptq.layerwise import LayerTask, LayerwiseReport, quantize_layers
from aimet_torch.ptq.replay import record_inputs
from aimet_torch.ptq.sharded_layers import open_checkpoint
from aimet_torch.ptq.value_cache import join_in_files
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["METHODS", "Adaround", "AdaroundParameters"]

METHODS = ("discrete", "relaxation", "sampled")
_FILE_VERSION = "0.6.1"

_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class AdaroundParameters:
    """Data and settings of AdaRound, with AIMET's names and defaults.

    Args:
        data_loader: Unlabeled data: a data loader or other iterable of batches; 500 to 1,000
            samples usually do, and far fewer for the method "discrete".
        num_batches: How many of its batches are used.
        default_num_iterations: Of the methods "relaxation" and "sampled", for each layer; None:
            10,000 with 8 bits or more, else 15,000.
        default_reg_param: Weight of the rounding regularizer, of the same methods.
        default_beta_range: Its exponent at the start and at the end.
        default_warm_start: Share of the iterations without the regularizer, 0 to 1.
        forward_fn: ``forward_fn(model, batch)`` runs the model; None: a batch is an input, a
            mapping, or a tuple or list of inputs and labels.
        learning_rate: Of Adam, in the same methods.
        seed: Of the choice of samples, in the method "sampled".
        method: How a layer is solved:
            "discrete" - error feedback, then single moves until none helps, and scales chosen along
            with the codes; deterministic, no iterations to choose.
            "relaxation" - the paper's relaxation, on the second moments of the layer's inputs.
            "sampled" - the paper's relaxation on samples, with the activation behind the layer in
            the loss, as AIMET does it.
        cache_budget: Bytes of activations kept in memory, the others go to a temporary folder;
            None: a quarter of the memory that is free.
        process_group: A ``torch.distributed.ProcessGroup``: all its ranks call AdaRound, each with
            a data loader of its part of the data (``num_batches`` is then the most that a rank
            uses), and share the work; all get the same result. None: this process alone.

    Raises:
        NotImplementedError: A process group with the method "sampled".
        ValueError: A number is out of its range, or a method does not exist.
    """

    data_loader: Iterable[Any]
    num_batches: int
    default_num_iterations: int | None = None
    default_reg_param: float = 0.01
    default_beta_range: tuple[float, float] = (20, 2)
    default_warm_start: float = 0.2
    forward_fn: Callable[[nn.Module, Any], Any] | None = None
    learning_rate: float = 1e-3
    seed: int = 0
    method: str = "discrete"
    cache_budget: int | None = None
    process_group: Any = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.num_batches < 1:
            raise ValueError(f"{name}: `num_batches` must be positive, got {self.num_batches}")
        length = len(self.data_loader) if isinstance(self.data_loader, Sized) else None
        if self.process_group is None and length is not None and length < self.num_batches:
            raise ValueError(
                f"{name}: `data_loader` has {length} batches, fewer than `num_batches` "
                f"{self.num_batches}; pass num_batches={length}"
            )
        if self.method not in METHODS:
            raise ValueError(f"{name}: `method` must be one of {METHODS}, got {self.method!r}")
        if self.process_group is not None and self.method == "sampled":
            raise NotImplementedError(
                f"{name}: `process_group` does not go with the method 'sampled', which needs all "
                "samples in one place; use 'discrete' or 'relaxation'"
            )
        if not 0 <= self.default_warm_start <= 1:
            raise ValueError(
                f"{name}: `default_warm_start` must be between 0 and 1, got "
                f"{self.default_warm_start}"
            )
        if self.default_num_iterations is not None and self.default_num_iterations < 1:
            raise ValueError(
                f"{name}: `default_num_iterations` must be positive, got "
                f"{self.default_num_iterations}"
            )

    def iterations(self, bitwidth: int) -> int:
        """Iterations for a layer of this bit width."""
        if self.default_num_iterations is not None:
            return self.default_num_iterations
        return 10000 if bitwidth >= 8 else 15000


class Adaround:
    """AdaRound of a whole network."""

    @classmethod
    def apply_adaround(
        cls,
        model: nn.Module,
        dummy_input: Any,
        params: AdaroundParameters,
        path: str | Path,
        filename_prefix: str,
        default_param_bw: int = 4,
        param_bw_override_list: list[tuple[nn.Module, int]] | None = None,
        ignore_quant_ops_list: list[nn.Module] | None = None,
        default_quant_scheme: QuantScheme = QuantScheme.post_training_tf_enhanced,
        default_config_file: str | None = None,
    ) -> nn.Module:
        """Round the weights of all convolutions and linear layers for the least error.

        Finished layers are kept in ``<path>/<filename_prefix>.adaround``; when the job is killed, a
        second call with the same arguments goes on from there, with the same result. The folder
        goes away at the end.

        Args:
            model: Trained model, left as it is. Batch norms should have been folded.
            dummy_input: Example input, as for :class:`aimet_torch.QuantizationSimModel`.
            params: Data and settings.
            path: Folder for the encodings; made if it is not there.
            filename_prefix: The encodings are written to ``<path>/<filename_prefix>.encodings``,
                for ``sim.set_and_freeze_param_encodings``.
            default_param_bw: Bits of weights.
            param_bw_override_list: (module, bits) for modules of ``model`` with others.
            ignore_quant_ops_list: Modules of ``model`` that stay in floating point.
            default_quant_scheme: How ranges of weights are found. With the default the method
                "discrete" chooses them along with the codes, for the least error of the output;
                with any other they are those of the scheme.
            default_config_file: Which weights have grids, and which; as the simulation's.

        Returns:
            A copy of ``model`` with weights on their grids and biases that take up the means.

        Raises:
            TypeError, ValueError: Arguments that make no sense; the message says which and why.
        """
        with Ranks(params.process_group, "apply_adaround") as ranks:
            return cls._apply(
                ranks,
                model,
                dummy_input,
                params,
                Path(path),
                filename_prefix,
                default_param_bw,
                param_bw_override_list,
                ignore_quant_ops_list,
                default_quant_scheme,
                default_config_file,
            )

    @classmethod
    def _apply(
        cls,
        ranks: Ranks,
        model: nn.Module,
        dummy_input: Any,
        params: AdaroundParameters,
        folder: Path,
        filename_prefix: str,
        default_param_bw: int,
        param_bw_override_list: list[tuple[nn.Module, int]] | None,
        ignore_quant_ops_list: list[nn.Module] | None,
        default_quant_scheme: QuantScheme,
        default_config_file: str | None,
    ) -> nn.Module:
        calls = record_inputs(
            model,
            params.data_loader,
            params.forward_fn,
            params.num_batches,
            len(bind_inputs(model, dummy_input)[0]),
            ranks,
        )
        sim = QuantizationSimModel(
            model,
            dummy_input,
            quant_scheme=default_quant_scheme,
            default_param_bw=default_param_bw,
            config_file=default_config_file,
        )
        names = {module: name for name, module in model.named_modules()}
        _override(sim, names, param_bw_override_list or [])
        if ignore_quant_ops_list:
            sim.exclude_layers_from_quantization(list(ignore_quant_ops_list))
        quantizers = {
            name: module.param_quantizers["weight"]
            for name, module in sim.named_qmodules()
            if isinstance(module, LAYER_TYPES) and module.param_quantizers["weight"] is not None
        }
        for name in quantizers:
            module: Any = sim.model.get_submodule(name)
            module.compute_param_encodings()
        settings = {
            field.name: getattr(params, field.name)
            for field in dataclasses.fields(params)
            if field.name not in ("data_loader", "forward_fn", "cache_budget", "process_group")
        }
        grids = {name: repr(quantizer) for name, quantizer in quantizers.items()}
        identity = fingerprint(
            model, calls, [__version__, settings, grids, default_quant_scheme.name]
        )
        checkpoint = open_checkpoint(folder / f"{filename_prefix}.adaround", identity, ranks)
        report = quantize_layers(
            model,
            dummy_input,
            calls,
            quantizers,
            _solver(params, default_quant_scheme),
            cache_budget=params.cache_budget,
            checkpoint=checkpoint,
            description="AdaRound",
            ranks=ranks,
        )
        result = apply_report(model, report)
        encodings_path = folder / f"{filename_prefix}.encodings"
        found = {name: quantizers[name] for name in report.results}
        ranks.of_first(lambda: write_param_encodings(encodings_path, found))
        checkpoint.remove()
        _logger.info("AdaRound: %d layers, encodings in %s", len(report.results), encodings_path)
        return result


def _override(
    sim: QuantizationSimModel, names: dict[nn.Module, str], overrides: list[tuple[nn.Module, int]]
) -> None:
    for module, bitwidth in overrides:
        if module not in names:
            raise ValueError(
                "apply_adaround: `param_bw_override_list` has a "
                f"{type(module).__name__} that is no module of `model`"
            )
        quantized: Any = sim.model.get_submodule(names[module])
        quantizer = dict(getattr(quantized, "param_quantizers", {}).items()).get("weight")
        if quantizer is None:
            raise ValueError(
                f"apply_adaround: `param_bw_override_list` has `{names[module]}`, whose weight has "
                "no quantizer"
            )
        quantizer.bitwidth = bitwidth


def _solver(params: AdaroundParameters, scheme: QuantScheme) -> Callable[[LayerTask], LayerResult]:
    chooses_scales = scheme == QuantScheme.post_training_tf_enhanced

    def solve(task: LayerTask) -> LayerResult:
        if params.method == "discrete":
            return round_layer(task.view, task.grid, task.sums, search_scales=chooses_scales)
        relaxation = Relaxation(
            params.iterations(task.grid.quantizer.bitwidth),
            params.learning_rate,
            params.default_reg_param,
            params.default_beta_range,
            params.default_warm_start,
            params.seed,
        )
        if params.method == "sampled":
            inputs, outputs = join_in_files(task.batches())
            device = task.view.layer.weight.device
            relaxation.samples = (inputs.to(device), outputs.to(device), task.clamp)
        return relax_layer(
            task.view, task.grid, task.sums, relaxation, search_scales=chooses_scales
        )

    return solve


def apply_report(model: nn.Module, report: LayerwiseReport) -> nn.Module:
    """A copy of ``model`` with the weights and biases that a walk found."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in report.weights.items():
            layer: Any = result.get_submodule(name)
            layer.weight.copy_(weight)
            bias = report.results[name].bias
            if bias is not None:
                set_bias(layer, bias.to(layer.weight))
    return result


def write_param_encodings(path: Path, quantizers: dict[str, Any]) -> None:
    """Write the encodings of weights: quantizer by layer name."""
    entries = []
    for name, quantizer in quantizers.items():
        slot = f"{name}.weight"
        entries.append(
            TensorEncoding.from_quantizer(slot, True, quantizer).to_entry(slot, None, _FILE_VERSION)
        )
    document = {
        "version": _FILE_VERSION,
        "producer": {"package": "aimet_torch", "version": __version__},
        "activation_encodings": [],
        "param_encodings": entries,
        "excluded_layers": [],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    encodings_library.write(str(path), document, _FILE_VERSION)
