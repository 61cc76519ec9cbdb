"""AutoQuant: tries post-training techniques, from the cheapest on, until the accuracy holds.

Range schemes, batch-norm folding, cross-layer equalization, activation equalization, bias
correction, AdaRound, in this order. Every finished attempt is kept on disk, so that a job that was
stopped goes on where it was, and all of them are shown on a page. AIMET's names, which it dropped
in 2.31.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aimet_torch import __version__
from aimet_torch.common.defs import QuantScheme
from aimet_torch.graph import bind_inputs
from aimet_torch.ptq.activation_equalization import equalize_activations
from aimet_torch.ptq.adaround import Adaround, AdaroundParameters
from aimet_torch.ptq.auto_quant_record import Attempt, AttemptStore, write_page
from aimet_torch.ptq.batch_norm_folding import fold_all_batch_norms
from aimet_torch.ptq.bias_correction import correct_biases_of_sim
from aimet_torch.ptq.checkpoint import fingerprint
from aimet_torch.ptq.cross_layer_equalization import equalize_model
from aimet_torch.ptq.layers import LAYER_TYPES, set_bias
from aimet_torch.ptq.replay import record_inputs
from aimet_torch.quantization.encoding_analyzer import PercentileEncodingAnalyzer
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.realize import analyzer_class

__all__ = ["AutoQuant", "QuantSchemePair"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantSchemePair:
    """How ranges are found.

    Attributes:
        param_quant_scheme: Of parameters.
        output_quant_scheme: Of activations.
        output_percentile: With the percentile scheme for activations.
    """

    param_quant_scheme: QuantScheme
    output_quant_scheme: QuantScheme
    output_percentile: float = 99.9

    def __str__(self) -> str:
        percentile = QuantScheme.post_training_percentile
        suffix = f" {self.output_percentile}" if self.output_quant_scheme == percentile else ""
        names = (_SHORT[self.param_quant_scheme], _SHORT[self.output_quant_scheme])
        return f"weights {names[0]}, activations {names[1]}{suffix}"


_SHORT = {
    QuantScheme.min_max: "min-max",
    QuantScheme.post_training_tf_enhanced: "TF-enhanced",
    QuantScheme.post_training_percentile: "percentile",
    QuantScheme.post_training_mse: "MSE",
    QuantScheme.training_range_learning: "min-max",
    QuantScheme.training_range_learning_with_tf_init: "min-max",
    QuantScheme.training_range_learning_with_tf_enhanced_init: "TF-enhanced",
}
_TF, _TFE = QuantScheme.min_max, QuantScheme.post_training_tf_enhanced
_MSE, _PERCENTILE = QuantScheme.post_training_mse, QuantScheme.post_training_percentile
_DEFAULT_PAIRS = (
    QuantSchemePair(_TF, _TF),
    QuantSchemePair(_TFE, _TF),
    QuantSchemePair(_TFE, _TFE),
    QuantSchemePair(_TFE, _PERCENTILE, 99.9),
    QuantSchemePair(_TFE, _PERCENTILE, 99.99),
    QuantSchemePair(_MSE, _MSE),
)
# Techniques in the words of the page.
_WORDS = {"fold": "folding", "equalize": "equalization", "bias": "bias correction"}
_WORDS |= {"smooth": "activation equalization", "adaround": "AdaRound"}


class AutoQuant:
    """Finds a way to quantize a model within an accuracy to spare.

    Args:
        model: Trained model; left as it is.
        dummy_input: Example input.
        data_loader: Batches of inputs, or of inputs followed by labels, which are not read; it is
            gone through several times.
        eval_callback: ``eval_callback(model)`` gives the accuracy, larger is better.
        param_bw: Bits of parameters.
        output_bw: Bits of activations.
        quant_scheme: Ranges where the schemes are not searched.
        rounding_mode: "nearest".
        config_file: Placement rules, as for `QuantizationSimModel`.
        results_dir: Folder for the page, the result and the finished attempts.
        cache_id: Name of the folder of finished attempts; None: "auto_quant". Attempts of another
            model, other data or other settings are never taken.
        strict_validation: A technique that fails ends the job; False: it is noted and left out.
        model_prepare_required: Accepted for AIMET's sake; models need no preparation here.

    Raises:
        TypeError: ``model`` is not a module, or ``eval_callback`` not callable.
        ValueError: ``rounding_mode`` is not "nearest".
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: Any,
        data_loader: Iterable[Any],
        eval_callback: Callable[[nn.Module], float],
        param_bw: int = 8,
        output_bw: int = 8,
        quant_scheme: QuantScheme = QuantScheme.post_training_tf_enhanced,
        rounding_mode: str = "nearest",
        config_file: str | Path | None = None,
        results_dir: str | Path = "/tmp",
        cache_id: str | None = None,
        strict_validation: bool = True,
        model_prepare_required: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"AutoQuant: `model` must be an nn.Module, got {type(model).__name__}")
        if not callable(eval_callback):
            raise TypeError(
                f"AutoQuant: `eval_callback` must be callable, got {type(eval_callback).__name__}"
            )
        if rounding_mode != "nearest":
            raise ValueError(
                f"AutoQuant: `rounding_mode` must be 'nearest', got {rounding_mode!r}; targets "
                "round to the nearest step"
            )
        del model_prepare_required
        self.model = copy.deepcopy(model).eval()
        self.dummy_input = dummy_input
        self.data_loader = data_loader
        self.eval_callback = eval_callback
        self.param_bw, self.output_bw = param_bw, output_bw
        self.quant_scheme = quant_scheme
        self.config_file = config_file
        self.results_dir = Path(results_dir)
        self.cache_id = cache_id
        self.strict_validation = strict_validation
        self.attempts: list[Attempt] = []
        self._pairs: Sequence[QuantSchemePair] = _DEFAULT_PAIRS
        self._adaround_params: AdaroundParameters | None = None
        self._export_options: dict[str, Any] = {}
        self._store: AttemptStore | None = None
        self._fp32: float | None = None
        self._target: float | None = None

    # -- settings ----------------------------------------------------------------------------------

    def set_adaround_params(self, adaround_params: AdaroundParameters) -> None:
        """Settings of AdaRound; by default its own, on all of ``data_loader``."""
        self._adaround_params = adaround_params

    def set_export_params(
        self, onnx_export_args: dict[str, Any] | None = None, propagate_encodings: bool = False
    ) -> None:
        """Arguments of ``sim.export`` for the result."""
        self._export_options = {
            "onnx_export_args": onnx_export_args,
            "propagate_encodings": propagate_encodings,
        }

    def set_model_preparer_params(
        self,
        modules_to_exclude: list[nn.Module] | None = None,
        concrete_args: dict[str, Any] | None = None,
    ) -> None:
        """Accepted for AIMET's sake: models need no preparation here."""

    def get_quant_scheme_candidates(self) -> tuple[QuantSchemePair, ...]:
        """The range schemes that are tried, in order."""
        return tuple(self._pairs)

    def set_quant_scheme_candidates(self, candidates: Sequence[QuantSchemePair]) -> None:
        """Set the range schemes that are tried.

        Raises:
            ValueError: there is none.
        """
        if not candidates:
            raise ValueError("AutoQuant.set_quant_scheme_candidates: `candidates` is empty")
        self._pairs = tuple(candidates)

    # -- the two jobs ------------------------------------------------------------------------------

    def run_inference(self) -> tuple[QuantizationSimModel, float]:
        """Fold batch norms and quantize with the ranges of ``quant_scheme``, nothing else.

        Returns:
            The simulation and its accuracy.

        Raises:
            RuntimeError, ValueError: as :meth:`optimize`.
        """
        self._open()
        pair = QuantSchemePair(self.quant_scheme, self.quant_scheme)
        accuracy = self._attempt(("fold",), pair).accuracy
        assert accuracy is not None
        return self._rebuild(("fold",), pair), accuracy

    def optimize(self, allowed_accuracy_drop: float = 0.0) -> tuple[nn.Module, float, str]:
        """Try technique after technique until the accuracy is within the allowed drop.

        The page ``results_dir/auto_quant.html`` (and ``.json``) shows all attempts, also when the
        job fails; finished attempts are kept, and a second call with the same arguments goes on
        after them.

        Args:
            allowed_accuracy_drop: How far the accuracy may be below that in FP32, in its unit.

        Returns:
            The FP32 model that the best attempt has made, its accuracy when quantized, and the path
            of its encodings by torch module, for ``sim.load_encodings``. Beside them
            ``sim.export`` has written the ONNX model with its encodings.

        Raises:
            ValueError: ``allowed_accuracy_drop`` is negative, or an accuracy is NaN.
            RuntimeError: ``eval_callback`` raised, or a technique failed (strict validation).
        """
        if not allowed_accuracy_drop >= 0:
            raise ValueError(
                "AutoQuant.optimize: `allowed_accuracy_drop` must not be negative, got "
                f"{allowed_accuracy_drop}"
            )
        self._open()
        best: tuple[Attempt, tuple[str, ...], QuantSchemePair] | None = None
        note = "The job was interrupted; finished attempts are kept."
        try:
            self._fp32 = self._fp32_accuracy()
            self._target = self._fp32 - allowed_accuracy_drop
            best = self._search()
            attempt, techniques, pair = best
            note = (
                f"{attempt.name} holds the accuracy."
                if attempt.is_good_enough
                else f"No attempt holds the accuracy; {attempt.name} is the best."
            )
            model, path = self._export(techniques, pair)
        except BaseException as error:
            if isinstance(error, Exception):
                note = f"The job failed: {error}"
            raise
        finally:
            shown = None if best is None else best[0]
            page = self.results_dir / "auto_quant.html"
            write_page(page, self._fp32, self._target, self.attempts, shown, note)
            _logger.info("AutoQuant: %s See %s", note, page)
        assert best[0].accuracy is not None
        return model, best[0].accuracy, path

    def _search(self) -> tuple[Attempt, tuple[str, ...], QuantSchemePair]:
        """The first attempt that is good enough, or the best."""
        tried: list[tuple[Attempt, tuple[str, ...], QuantSchemePair]] = []

        def is_done(techniques: tuple[str, ...], pair: QuantSchemePair) -> bool:
            attempt = self._attempt(techniques, pair)
            if attempt.accuracy is not None:
                tried.append((attempt, techniques, pair))
            return attempt.is_good_enough

        def best_of(kind: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...]:
            fitting = [entry for entry in tried if kind(entry[1])]
            return max(fitting, key=lambda entry: entry[0].accuracy or -math.inf)[1]

        for pair in self._pairs:
            if is_done((), pair):
                return tried[-1]
        if not tried:
            raise RuntimeError("AutoQuant: no range scheme gave an accuracy")
        pair = max(tried, key=lambda entry: entry[0].accuracy or -math.inf)[2]
        for techniques in (("fold",), ("equalize",)):
            if is_done(techniques, pair):
                return tried[-1]
        # Each of the following works on the best of the networks so far.
        start = best_of(lambda techniques: True) or ("fold",)
        if is_done((*start, "smooth"), pair):
            return tried[-1]
        start = best_of(lambda techniques: True) or ("fold",)
        for technique in ("bias", "adaround"):
            if is_done((*start, technique), pair):
                return tried[-1]
        return max(tried, key=lambda entry: entry[0].accuracy or -math.inf)

    # -- attempts ----------------------------------------------------------------------------------

    def _open(self) -> None:
        """Start a job; finished attempts of the same job are found again."""
        self.attempts = []
        inputs = len(bind_inputs(self.model, self.dummy_input)[0])
        calls = record_inputs(self.model, self.data_loader, None, None, inputs)
        settings = [__version__, self.param_bw, self.output_bw, str(self.config_file)]
        adaround = self._adaround_params
        if adaround is not None:
            settings.append(repr({**vars(adaround), "data_loader": None, "forward_fn": None}))
        identity = fingerprint(self.model, calls, settings)
        folder = self.results_dir / (self.cache_id or "auto_quant")
        self._store = AttemptStore(folder, identity)

    def _fp32_accuracy(self) -> float:
        assert self._store is not None
        kept = self._store.load("fp32")
        if kept is None:
            kept = {"accuracy": self._evaluate(copy.deepcopy(self.model), "FP32")}
            self._store.save("fp32", kept)
        return float(kept["accuracy"])

    def _attempt(self, techniques: tuple[str, ...], pair: QuantSchemePair) -> Attempt:
        assert self._store is not None
        name = _name_of(techniques, pair)
        kept = self._store.load(name)
        attempt = Attempt(name, None, 0.0, is_from_cache=kept is not None)
        self.attempts.append(attempt)
        if kept is None:
            start = time.perf_counter()
            try:
                sim = self._make(techniques, pair)
            except Exception as error:
                attempt.seconds = time.perf_counter() - start
                attempt.problem = f"{type(error).__name__}: {error}"
                if self.strict_validation:
                    raise RuntimeError(
                        f"AutoQuant: `{name}` failed: {attempt.problem}. Finished attempts are "
                        f"kept in {self._store.folder}; strict_validation=False leaves it out"
                    ) from error
                return attempt
            try:
                accuracy = self._evaluate(sim.model, name)
            except Exception as error:
                attempt.problem = str(error)
                raise
            finally:
                attempt.seconds = time.perf_counter() - start
            state = {key: tensor.detach().cpu() for key, tensor in sim.model.state_dict().items()}
            kept = {"accuracy": accuracy, "seconds": attempt.seconds, "state": state}
            self._store.save(name, kept)
        attempt.accuracy, attempt.seconds = float(kept["accuracy"]), float(kept["seconds"])
        attempt.is_good_enough = self._target is not None and attempt.accuracy >= self._target
        _logger.info("AutoQuant: %s: %.6g", name, attempt.accuracy)
        return attempt

    def _evaluate(self, model: nn.Module, name: str) -> float:
        assert self._store is not None
        kept = f"finished attempts are kept in {self._store.folder}"
        try:
            with torch.no_grad():
                accuracy = float(self.eval_callback(model))
        except Exception as error:
            raise RuntimeError(
                f"AutoQuant: `eval_callback` raised {type(error).__name__} for {name}: {error}; "
                f"{kept}, call again to go on"
            ) from error
        if math.isnan(accuracy):
            raise ValueError(f"AutoQuant: `eval_callback` returned NaN for {name}; {kept}")
        return accuracy

    # -- models ------------------------------------------------------------------------------------

    def _prepare(self, techniques: tuple[str, ...]) -> nn.Module:
        """A copy of the model with the structure that the techniques give it."""
        model = copy.deepcopy(self.model)
        for technique in techniques:
            if technique == "fold":
                fold_all_batch_norms(model, None, self.dummy_input)
            elif technique == "equalize":
                equalize_model(model, dummy_input=self.dummy_input)
            elif technique == "smooth":
                equalize_activations(model, self.dummy_input, self.data_loader)
        return model

    def _simulate(self, model: nn.Module, pair: QuantSchemePair) -> QuantizationSimModel:
        sim = QuantizationSimModel(
            model,
            self.dummy_input,
            pair.output_quant_scheme,
            default_output_bw=self.output_bw,
            default_param_bw=self.param_bw,
            config_file=self.config_file,
        )
        scheme = analyzer_class(pair.param_quant_scheme, is_param=True)
        for module in sim.qmodules():
            for quantizer in module.param_quantizers.values():
                if getattr(quantizer, "encoding_analyzer", None) is not None:
                    quantizer.encoding_analyzer = scheme(
                        quantizer.shape, block_size=quantizer.block_size
                    )
            for quantizer in (*module.input_quantizers, *module.output_quantizers):
                analyzer = getattr(quantizer, "encoding_analyzer", None)
                if isinstance(analyzer, PercentileEncodingAnalyzer):
                    analyzer.set_percentile(pair.output_percentile)
        return sim

    def _make(self, techniques: tuple[str, ...], pair: QuantSchemePair) -> QuantizationSimModel:
        model = self._prepare(techniques)
        encodings = None
        if techniques[-1:] == ("adaround",):
            model, encodings = self._round(model)
        sim = self._simulate(model, pair)
        if encodings is not None:
            sim.set_and_freeze_param_encodings(encodings)
        sim.compute_encodings(self.data_loader)
        if techniques[-1:] == ("bias",):
            correct_biases_of_sim(sim, self.data_loader)
        return sim

    def _round(self, model: nn.Module) -> tuple[nn.Module, Path]:
        assert self._store is not None
        params = self._adaround_params
        if params is None:
            batches = list(self.data_loader)
            params = AdaroundParameters(batches, len(batches))
        self._store.folder.mkdir(parents=True, exist_ok=True)
        rounded = Adaround.apply_adaround(
            model,
            self.dummy_input,
            params,
            self._store.folder,
            "adaround",
            self.param_bw,
            default_config_file=None if self.config_file is None else str(self.config_file),
        )
        return rounded, self._store.folder / "adaround.encodings"

    def _rebuild(self, techniques: tuple[str, ...], pair: QuantSchemePair) -> QuantizationSimModel:
        """The simulation of a finished attempt, as it was evaluated."""
        assert self._store is not None
        kept = self._store.load(_name_of(techniques, pair))
        assert kept is not None
        model = self._prepare(techniques)
        with torch.no_grad():
            for name, layer in model.named_modules():
                if isinstance(layer, LAYER_TYPES) and f"{name}.bias" in kept["state"]:
                    set_bias(
                        layer, kept["state"][f"{name}.bias"]
                    )  # AdaRound gives it where none is
        sim = self._simulate(model, pair)
        sim.model.load_state_dict(kept["state"], strict=False)
        return sim

    def _export(self, techniques: tuple[str, ...], pair: QuantSchemePair) -> tuple[nn.Module, str]:
        sim = self._rebuild(techniques, pair)
        sim.export(self.results_dir, "auto_quant", self.dummy_input, **self._export_options)
        path = self.results_dir / "auto_quant_torch.encodings"
        return QuantizationSimModel.get_original_model(sim.model), str(path)


def _name_of(techniques: tuple[str, ...], pair: QuantSchemePair) -> str:
    words = " + ".join(_WORDS[technique] for technique in techniques)
    return f"{words}; {pair}" if words else str(pair)
