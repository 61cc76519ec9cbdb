"""AIMET's entry point: a model, an evaluation and a ratio in; a smaller model and a table out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree

from aimet_torch.common.collectives import Ranks
from aimet_torch.common.compression_stats import (
    CompressionStats,
)
from aimet_torch.common.defs import (
    CompressionScheme,
    CostMetric,
    EvalFunction,
)
from aimet_torch.common.services import service
from aimet_torch.compression.calls import first_batches
from aimet_torch.compression.defs import (
    AutoModeParams,
    ChannelPruningParameters,
    CpParameters,
    LowRankParameters,
    SpatialSvdParameters,
    TuckerParameters,
    WeightSvdParameters,
)
from aimet_torch.compression.evaluation import Evaluator
from aimet_torch.compression.job import Job, Trainer
from aimet_torch.compression.low_rank_scheme import LowRankScheme
from aimet_torch.compression.pruning_scheme import PruningScheme
from aimet_torch.compression.schemes import Scheme
from aimet_torch.compression.tensor_scheme import TensorScheme
from aimet_torch.ptq.layers import random_inputs

__all__ = ["ModelCompressor"]

_OP = "compress_model"
_PAGE = "compression.html"

Parameters = (
    SpatialSvdParameters
    | WeightSvdParameters
    | ChannelPruningParameters
    | TuckerParameters
    | CpParameters
    | LowRankParameters
)
_PARAMETERS: dict[CompressionScheme, type[Any]] = {
    CompressionScheme.spatial_svd: SpatialSvdParameters,
    CompressionScheme.weight_svd: WeightSvdParameters,
    CompressionScheme.channel_pruning: ChannelPruningParameters,
    CompressionScheme.tucker: TuckerParameters,
    CompressionScheme.cp: CpParameters,
    CompressionScheme.low_rank: LowRankParameters,
}
_LOW_RANK = {
    CompressionScheme.spatial_svd: "spatial",
    CompressionScheme.weight_svd: "weight",
    CompressionScheme.low_rank: "auto",
}


class ModelCompressor:
    """Compresses models."""

    @staticmethod
    def compress_model(
        model: nn.Module,
        eval_callback: EvalFunction,
        eval_iterations: Any,
        input_shape: Any,
        compress_scheme: CompressionScheme,
        cost_metric: CostMetric,
        parameters: Parameters,
        trainer: Trainer | None = None,
        visualization_url: str | Path | None = None,
        *,
        process_group: Any = None,
    ) -> tuple[nn.Module, CompressionStats]:
        """Make a copy of a model smaller, by ratios that are given or chosen.

        Args:
            model: Left as it is.
            eval_callback: ``eval_callback(model, iterations, use_cuda)`` returns a score; higher is
                better. It gets copies in evaluation mode.
            eval_iterations: Its second argument.
            input_shape: Shape of the model's input, or a list of shapes; or an example input
                (tensors), for models that take anything but real numbers.
            compress_scheme: How layers are made smaller.
            cost_metric: What ratios compare.
            parameters: Of the scheme: given or chosen ratios, and by which method.
            trainer: Fine-tunes the model each time a layer has been compressed.
            visualization_url: Path of an HTML page that is written (a folder: ``compression.html``
                in it); it needs no server and no network. None: none is. An address of a bokeh
                server, which AIMET needs, stands for ``compression.html`` in the working directory.
            process_group: Ranks that share out the evaluations, such as
                ``torch.distributed.group.WORLD``; every one needs all evaluation data, and all
                return the same. None: this process alone.

        Returns:
            The compressed copy, an ordinary module without anything of this library, and what was
            done.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: The ratio cannot be reached, no layer can be made smaller, or a score of the
                original model is not finite; the message says which.
            RuntimeError: ``eval_callback`` raised something.
            ImportError: ``compress_scheme`` is ``tucker`` or ``cp``, and tensorly is not installed.
            PeerError: Another rank failed.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"{_OP}: `model` must be an nn.Module, got {type(model).__name__}")
        wanted = _PARAMETERS.get(compress_scheme)
        if wanted is None or type(parameters) is not wanted:
            names = ", ".join(f"{s.name}: {cls.__name__}" for s, cls in _PARAMETERS.items())
            raise TypeError(
                f"{_OP}: `parameters` must be those of `compress_scheme` ({names}), got "
                f"{type(parameters).__name__} for {compress_scheme!r}"
            )
        if not isinstance(cost_metric, CostMetric):
            raise TypeError(f"{_OP}: `cost_metric` must be a CostMetric, got {cost_metric!r}")
        use_cuda = any(p.is_cuda for p in model.parameters())
        evaluate = Evaluator(eval_callback, eval_iterations, use_cuda)
        with Ranks(process_group, _OP) as ranks:
            ranks.require_equal(model.parameters())
            input = _example(model, input_shape)
            scheme = _make_scheme(model, input, compress_scheme, cost_metric, parameters)
            job = Job(model, input, evaluate, cost_metric, parameters, trainer, ranks)
            compressed, stats = job.run(scheme)
            if visualization_url is not None and ranks.rank == 0:
                service("compression_report")(stats, _page_path(visualization_url))
        return compressed, stats


def _make_scheme(
    model: nn.Module,
    input: Any,
    compress_scheme: CompressionScheme,
    metric: CostMetric,
    parameters: Any,
) -> Scheme:
    mode = parameters.mode_params
    ignored = mode.modules_to_ignore if isinstance(mode, AutoModeParams) else ()
    if isinstance(parameters, ChannelPruningParameters):
        data = parameters.data_loader
        if data is not None:
            data = first_batches(data, parameters.num_reconstruction_samples)
        return PruningScheme(
            model,
            input,
            metric,
            multiplicity=parameters.multiplicity,
            modules_to_ignore=ignored,
            data=data,
            selection=parameters.selection,
        )
    if isinstance(parameters, TuckerParameters):
        return TensorScheme(
            model,
            input,
            compress_scheme.name,
            metric,
            multiplicity=parameters.multiplicity,
            modules_to_ignore=ignored,
        )
    return LowRankScheme(
        model,
        input,
        _LOW_RANK[compress_scheme],
        metric,
        multiplicity=parameters.multiplicity,
        modules_to_ignore=ignored,
        data=parameters.data_loader,
        num_batches=parameters.num_batches,
    )


def _example(model: nn.Module, shape: Any) -> Any:
    if any(isinstance(leaf, Tensor) for leaf in _pytree.tree_leaves(shape)):
        return shape
    return random_inputs(_OP, model, list(shape) if isinstance(shape, tuple | list) else shape)


def _page_path(url: str | Path) -> Path:
    text = str(url)
    if text.startswith(("http://", "https://")):
        warnings.warn(
            f"{_OP}: no server is needed; the page is written to {_PAGE} instead of "
            f"`visualization_url`, {text}",
            stacklevel=3,
        )
        return Path(_PAGE)
    path = Path(text.removeprefix("file://"))
    return path if path.suffix in (".html", ".htm") else path / _PAGE
