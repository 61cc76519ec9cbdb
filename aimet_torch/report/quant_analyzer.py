"""`QuantAnalyzer`: AIMET's analysis of a quantized model, with its methods and its files.

What AIMET computes layer by layer with a run of both models each comes from one run here, and the
page of `aimet_torch.analysis.analyze` is written beside AIMET's files.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from aimet_torch.analysis.histograms import (
    activation_histograms,
    channel_histograms,
)
from aimet_torch.analysis.layers import compare_layers
from aimet_torch.analysis.run import Analysis, analyze
from aimet_torch.analysis.switching import Switchboard, evaluate_settings
from aimet_torch.common.defs import CallbackFunc, QuantScheme
from aimet_torch.common.tables import write_json
from aimet_torch.graph import bind_inputs
from aimet_torch.ptq.batch_norm_folding import fold_all_batch_norms
from aimet_torch.ptq.replay import record_inputs
from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.calibration import evaluation_mode, run_forward_passes
from aimet_torch.report.chart_pages import write_distribution, write_ranges, write_values

__all__ = ["CallbackFunc", "QuantAnalyzer"]

_logger = logging.getLogger(__name__)
_Callback = CallbackFunc | Callable[..., Any]
_BINS = 512


class QuantAnalyzer:
    """Finds the parts of a model that are sensitive to quantization.

    Args:
        model: Trained FP32 model; left as it is (AIMET folds its batch norms).
        dummy_input: Example input.
        forward_pass_callback: Runs unlabeled data through a model: a `CallbackFunc` or
            ``callback(model)``; or an iterable of batches.
        eval_callback: A `CallbackFunc` or ``callback(model)`` that returns a score.
        modules_to_ignore: Modules of ``model`` that are not quantized.

    Raises:
        TypeError: ``model`` is not a module, or a callback is none.

    Example::

        analyzer = QuantAnalyzer(
            model, dummy_input, CallbackFunc(run, data_loader), CallbackFunc(accuracy, 1000)
        )
        analyzer.enable_per_layer_mse_loss(data_loader, num_batches=4)
        analyzer.analyze(default_param_bw=8, default_output_bw=8, results_dir="./tmp/")
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: Any,
        forward_pass_callback: _Callback | Iterable[Any],
        eval_callback: _Callback,
        modules_to_ignore: list[nn.Module] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"QuantAnalyzer: `model` must be an nn.Module, got {type(model).__name__}"
            )
        if not (callable(forward_pass_callback) or isinstance(forward_pass_callback, Iterable)):
            raise TypeError(
                "QuantAnalyzer: `forward_pass_callback` must be a CallbackFunc, a callable or an "
                f"iterable of batches, got {type(forward_pass_callback).__name__}"
            )
        if not callable(eval_callback):
            raise TypeError(
                "QuantAnalyzer: `eval_callback` must be a CallbackFunc or a callable, got "
                f"{type(eval_callback).__name__}"
            )
        self._model = model
        self._dummy_input = dummy_input
        self._forward_pass_callback = forward_pass_callback
        self._eval_callback = eval_callback
        self._modules_to_ignore = list(modules_to_ignore or [])
        self._unlabeled: Collection[Any] | None = None
        self._num_batches = 0

    # -- everything --------------------------------------------------------------------------------

    def analyze(
        self,
        quant_scheme: QuantScheme = QuantScheme.post_training_tf_enhanced,
        default_param_bw: int = 8,
        default_output_bw: int = 8,
        config_file: str | None = None,
        results_dir: str = "./tmp/",
    ) -> Analysis | None:
        """Do all of the analysis and write its files.

        Args:
            quant_scheme: How ranges are found.
            default_param_bw: Bits of parameters.
            default_output_bw: Bits of activations.
            config_file: Placement rules, as for `QuantizationSimModel`.
            results_dir: Folder of the files; made when missing.

        Returns:
            Where `enable_per_layer_mse_loss` gave data: the analysis with advice, which is in
            ``analysis.html`` and ``analysis.json`` of the folder, too. AIMET returns nothing.
        """
        sim = self._simulation(quant_scheme, default_param_bw, default_output_bw, config_file)
        scores = self.check_model_sensitivity_to_quantization(sim)
        enabled = self.perform_per_layer_analysis_by_enabling_quant_wrappers(sim, results_dir)
        disabled = self.perform_per_layer_analysis_by_disabling_quant_wrappers(sim, results_dir)
        self.export_per_layer_encoding_min_max_range(sim, results_dir)
        self.export_per_layer_stats_histogram(sim, results_dir)
        if self._unlabeled is None:
            return None
        self.export_per_layer_mse_loss(sim, results_dir)
        batches = list(itertools.islice(self._unlabeled, self._num_batches))
        found = analyze(sim, self._dummy_input, batches, title=type(self._model).__name__)
        quantized = self._evaluate(sim, {"quantized": {}})["quantized"]
        found.set_scores(scores, enabled, disabled, quantized)
        found.write_html(Path(results_dir) / "analysis.html")
        found.write_json(Path(results_dir) / "analysis.json")
        return found

    def _simulation(
        self, scheme: QuantScheme, param_bits: int, output_bits: int, config_file: str | None
    ) -> QuantizationSimModel:
        names = {id(module): name for name, module in self._model.named_modules()}
        prepared = copy.deepcopy(self._model).eval()
        fold_all_batch_norms(prepared, None, self._dummy_input)
        sim = QuantizationSimModel(
            prepared,
            self._dummy_input,
            scheme,
            output_bits,
            param_bits,
            in_place=True,
            config_file=config_file,
        )
        for module in self._modules_to_ignore:
            if id(module) not in names:
                raise ValueError(
                    "QuantAnalyzer: `modules_to_ignore` must hold modules of `model`, got a "
                    f"{type(module).__name__} that is not in it"
                )
            sim.exclude_layers_from_quantization([names[id(module)]])
        with evaluation_mode(sim.model):
            sim.compute_encodings(self._run_data)
        return sim

    def _run_data(self, model: nn.Module) -> None:
        """Run the user's data through a model."""
        count = len(bind_inputs(self._model, self._dummy_input)[0])
        run_forward_passes(model, self._forward_pass_callback, input_count=count)

    # -- scores ------------------------------------------------------------------------------------

    def check_model_sensitivity_to_quantization(
        self, sim: QuantizationSimModel
    ) -> tuple[float, float, float]:
        """Evaluate with weights and with activations alone quantized.

        Args:
            sim: Calibrated simulation of the model.

        Returns:
            Scores in FP32, with weights quantized, and with activations quantized.
        """
        board = Switchboard(sim)
        with evaluation_mode(self._model):
            fp32 = float(self._eval_callback(self._model))
        scores = self._evaluate(
            sim,
            {
                "weights": dict.fromkeys(board.activations),
                "activations": dict.fromkeys(board.params),
            },
        )
        settings = sim.settings
        for bits, score in (
            ("W32A32", fp32),
            (f"W{settings.param_bitwidth}A32", scores["weights"]),
            (f"W32A{settings.output_bitwidth}", scores["activations"]),
        ):
            _logger.info("score (%s): %f", bits, score)
        return fp32, scores["weights"], scores["activations"]

    def perform_per_layer_analysis_by_enabling_quant_wrappers(
        self, sim: QuantizationSimModel, results_dir: str
    ) -> dict[str, float]:
        """Evaluate with the quantizers of one layer at a time, all others off.

        Args:
            sim: Calibrated simulation.
            results_dir: Gets ``per_layer_quant_enabled.html`` and ``.json``.

        Returns:
            Scores by name of the layer, in the order of execution.
        """
        board = Switchboard(sim)
        settings = {
            layer: board.only_at({name: board.precision(name) for name in names})
            for layer, names in board.by_layer().items()
        }
        lead = "Score with the quantizers of one layer alone, all others off."
        base = dict.fromkeys(board.quantizers)
        return self._per_layer(sim, settings, results_dir, "per_layer_quant_enabled", lead, base)

    def perform_per_layer_analysis_by_disabling_quant_wrappers(
        self, sim: QuantizationSimModel, results_dir: str
    ) -> dict[str, float]:
        """Evaluate with the quantizers of one layer at a time off, all others on.

        Args:
            sim: Calibrated simulation.
            results_dir: Gets ``per_layer_quant_disabled.html`` and ``.json``.

        Returns:
            Scores by name of the layer, in the order of execution.
        """
        layers = Switchboard(sim).by_layer()
        settings = {layer: dict.fromkeys(names) for layer, names in layers.items()}
        lead = "Score with the quantizers of one layer off, all others on."
        return self._per_layer(sim, settings, results_dir, "per_layer_quant_disabled", lead, {})

    def _per_layer(
        self,
        sim: QuantizationSimModel,
        settings: dict[str, Any],
        results_dir: str,
        title: str,
        lead: str,
        base: dict[str, Any],
    ) -> dict[str, float]:
        scores = self._evaluate(sim, settings, base)
        folder = Path(results_dir)
        write_values(folder / f"{title}.html", title, lead, scores, "score")
        write_json(folder / f"{title}.json", scores)
        return scores

    def _evaluate(
        self,
        sim: QuantizationSimModel,
        settings: dict[str, Any],
        base: dict[str, Any] | None = None,
    ) -> dict[str, float]:
        return evaluate_settings(
            Switchboard(sim), settings, self._eval_callback, base=base, description="Layers"
        )

    # -- ranges and distributions ------------------------------------------------------------------

    def export_per_layer_encoding_min_max_range(
        self, sim: QuantizationSimModel, results_dir: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Write the limits of all grids.

        Args:
            sim: Calibrated simulation.
            results_dir: Its folder ``min_max_ranges`` gets ``activations.html``, ``weights.html``
                and both as JSON; weights with several ranges get ``<layer>_<parameter>.html``.

        Returns:
            (min, max) of weights and of activations by name; of a weight with several ranges, a
            dict of them by name and number.
        """
        folder = Path(results_dir) / "min_max_ranges"
        weights: dict[str, Any] = {}
        activations: dict[str, Any] = {}
        for label, name, quantizer in _named(sim):
            if not isinstance(quantizer, AffineQuantizerBase) or not quantizer.is_initialized():
                continue
            low, high = quantizer.get_min(), quantizer.get_max()
            assert low is not None
            assert high is not None
            pairs = list(zip(low.flatten().tolist(), high.flatten().tolist(), strict=True))
            if ".param_quantizers." not in name:
                activations[label] = pairs[0]
            elif len(pairs) == 1:
                weights[label] = pairs[0]
            else:
                weights[label] = {f"{label}_{i}": pair for i, pair in enumerate(pairs)}
                write_ranges(folder / f"{label}.html", label, weights[label])
        whole = {name: pair for name, pair in weights.items() if isinstance(pair, tuple)}
        for title, ranges in (("weights", whole), ("activations", activations)):
            if ranges:
                write_ranges(folder / f"{title}.html", title, ranges)
        write_json(folder / "weights.json", weights)
        write_json(folder / "activations.json", activations)
        return weights, activations

    def export_per_layer_stats_histogram(self, sim: QuantizationSimModel, results_dir: str) -> None:
        """Write the distributions of all quantized tensors with their grids.

        Of any scheme: the values are counted here, not taken from the calibration.

        Args:
            sim: Calibrated simulation.
            results_dir: Its folder ``activations_pdf`` gets ``<layer>_<input|output>_q<i>_0.html``,
                its folder ``weights_pdf`` a folder a layer with ``<layer>_<parameter>_<i>.html``,
                one for each range.
        """
        board, folder = Switchboard(sim), Path(results_dir)
        labels = {name: label for label, name, _ in _named(sim)}
        for found in activation_histograms(board, self._run_data, _BINS):
            layer, kind, index = found.name.rsplit(".", 2)
            label = f"{layer}_{kind.removesuffix('_quantizers')}_q{index}_0"
            write_distribution(folder / "activations_pdf" / f"{label}.html", label, found)
        for name in board.params:
            layer = name.rsplit(".", 2)[0]
            for number, channel in enumerate(channel_histograms(board, name, _BINS)):
                label = f"{labels[name]}_{number}"
                write_distribution(folder / "weights_pdf" / layer / f"{label}.html", label, channel)

    # -- layers ------------------------------------------------------------------------------------

    def enable_per_layer_mse_loss(
        self, unlabeled_dataset_iterable: Collection[Any], num_batches: int
    ) -> None:
        """Give `analyze` data to compare layers on; 256 samples altogether are usual.

        Args:
            unlabeled_dataset_iterable: Batches of inputs, with a length.
            num_batches: How many of them are used.

        Raises:
            ValueError: There are fewer.
        """
        if len(unlabeled_dataset_iterable) < num_batches:
            raise ValueError(
                "enable_per_layer_mse_loss: `num_batches` must be at most the number of batches, "
                f"{len(unlabeled_dataset_iterable)}, got {num_batches}"
            )
        self._unlabeled, self._num_batches = unlabeled_dataset_iterable, num_batches

    def export_per_layer_mse_loss(
        self, sim: QuantizationSimModel, results_dir: str
    ) -> dict[str, float]:
        """Write the mean squared difference of every layer's output from that in FP32.

        Two runs of the model for each batch give those of all layers.

        Args:
            sim: Calibrated simulation.
            results_dir: Gets ``per_layer_mse_loss.html`` and ``.json``.

        Returns:
            Losses by name of the layer, in the order of execution.

        Raises:
            ValueError: `enable_per_layer_mse_loss` was not called.
        """
        if self._unlabeled is None:
            raise ValueError(
                "export_per_layer_mse_loss: there are no data; call enable_per_layer_mse_loss first"
            )
        count = sim._positional_count()
        calls = record_inputs(sim.model, self._unlabeled, None, self._num_batches, count)

        def run(model: nn.Module, batch: int) -> Any:
            args, kwargs = calls[batch]
            return model(*args, **kwargs)

        with evaluation_mode(sim.model):
            rows = compare_layers(Switchboard(sim), run, len(calls))
        losses = {row.name: row.mse for row in rows}
        folder, title = Path(results_dir), "per_layer_mse_loss"
        lead = "Mean squared difference of each layer's output from that in FP32."
        write_values(folder / f"{title}.html", title, lead, losses, "MSE loss")
        write_json(folder / f"{title}.json", losses)
        return losses


def _named(sim: QuantizationSimModel) -> list[tuple[str, str, Any]]:
    """AIMET's label (``conv1_weight``, ``relu_output_0``), name and object of every quantizer."""
    found = []
    for name, quantizer in sim.named_quantizers():
        layer, kind, key = name.rsplit(".", 2)
        middle = "" if kind == "param_quantizers" else kind.removesuffix("quantizers")
        found.append((f"{layer}_{middle}{key}", name, quantizer))
    return found
