"""Block reconstruction (BRECQ), with random dropping of activation quantization (QDrop).

Sources: Li et al. 2021 (BRECQ, arXiv 2102.05426); Wei et al. 2022 (QDrop, arXiv 2203.05740). What
is optimized, and what it brings: ``docs/rounding.md``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import Any

from torch import nn

from aimet_torch.common.version import __version__
from aimet_torch.graph import bind_inputs
from aimet_torch.ptq.adaround import write_param_encodings
from aimet_torch.ptq.block_walk import BlockReport, BlockResult, BlockWalk
from aimet_torch.ptq.checkpoint import Checkpoint, fingerprint
from aimet_torch.ptq.layerwise import Call
from aimet_torch.ptq.replay import record_inputs
from aimet_torch.ptq.sim_weights import layers_of, take_results
from aimet_torch.ptq.value_cache import ValueCache
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.calibration import ranges_of, restore_ranges

__all__ = [
    "WEIGHTINGS",
    "BlockReconstructionParameters",
    "BlockReport",
    "BlockResult",
    "apply_block_reconstruction",
]

WEIGHTINGS = ("none", "squared_gradient")


@dataclasses.dataclass
class BlockReconstructionParameters:
    """Data and settings of block reconstruction.

    Args:
        data_loader: Unlabeled data: a data loader or other iterable of batches. A step of the
            optimization takes one batch as it comes; 32 samples are usual.
        num_batches: How many of its batches are used.
        num_iterations: Steps for each block.
        network_iterations: Steps at the end for the scales and biases (and ranges of activations)
            of all layers together, codes fixed, against the outputs of the network.
        activation_drop: Probability with which an element of an activation is left unquantized
            during the optimization (QDrop). Ranges of activations are calibrated with the original
            weights and learned along. None: activations are not quantized at all (BRECQ); calibrate
            afterwards.
        weighting: What elements of a block's output count: "none" - all alike;
            "squared_gradient" - the squared gradient of a random mixture of the network's outputs,
            the diagonal of the Gauss-Newton matrix, which needs no labels.
        max_block_layers: A chain of layers is divided into blocks of at most this many.
        learns_scales: Scales of weights are chosen along with the codes; False: those that the
            simulation has.
        learning_rate: Of Adam on the roundings; None: 6 / num_iterations, at least 0.001.
        scale_learning_rate: Of Adam on the logarithms of scales, and on biases in units of the
            rounding noise.
        range_learning_rate: Of Adam on the limits of activations, as a share of the range.
        reg_param: Weight of the rounding regularizer beside the error as a share of that of the
            start, both for each weight.
        beta_range: Its exponent at the start and at the end.
        warm_start: Share of the iterations without the regularizer, 0 to 1.
        forward_fn: ``forward_fn(model, batch)`` runs the model; None: a batch is an input, a
            mapping, or a tuple or list of inputs and labels.
        seed: Of the order of batches and of everything that is drawn.
        cache_budget: Bytes of activations kept in memory, the others go to a temporary folder;
            None: a quarter of the memory that is free.

    Raises:
        ValueError: A number is out of its range, or a weighting does not exist.
    """

    data_loader: Iterable[Any]
    num_batches: int
    num_iterations: int = 500
    network_iterations: int = 0
    activation_drop: float | None = None
    weighting: str = "none"
    max_block_layers: int = 4
    learns_scales: bool = True
    learning_rate: float | None = None
    scale_learning_rate: float = 1e-3
    range_learning_rate: float = 1e-3
    reg_param: float = 300.0
    beta_range: tuple[float, float] = (20, 2)
    warm_start: float = 0.2
    forward_fn: Callable[[nn.Module, Any], Any] | None = None
    seed: int = 0
    cache_budget: int | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field in ("num_batches", "num_iterations", "max_block_layers"):
            if getattr(self, field) < 1:
                raise ValueError(f"{name}: `{field}` must be positive, got {getattr(self, field)}")
        if self.network_iterations < 0:
            raise ValueError(
                f"{name}: `network_iterations` must not be negative, got {self.network_iterations}"
            )
        length = len(self.data_loader) if isinstance(self.data_loader, Sized) else None
        if length is not None and length < self.num_batches:
            raise ValueError(
                f"{name}: `data_loader` has {length} batches, fewer than `num_batches` "
                f"{self.num_batches}; pass num_batches={length}"
            )
        for field in ("activation_drop", "warm_start"):
            value = getattr(self, field)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}: `{field}` must be between 0 and 1, got {value}")
        for field in ("learning_rate", "scale_learning_rate", "range_learning_rate"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: `{field}` must be positive, got {value}")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"{name}: `weighting` must be one of {WEIGHTINGS}, got {self.weighting!r}"
            )


def apply_block_reconstruction(
    sim: QuantizationSimModel,
    params: BlockReconstructionParameters,
    path: str | Path,
    filename_prefix: str,
    modules_to_exclude: Iterable[nn.Module | str] | None = None,
) -> BlockReport:
    """Round the weights of a simulation for the least error of its blocks' outputs.

    Every layer is first solved by itself, as AdaRound's method "discrete" does it; then the layers
    of a block are optimized together. Weights, biases and encodings of ``sim`` are set and frozen;
    with ``activation_drop`` the ranges of activations too. When the job is killed, a second call
    with the same arguments goes on from the last finished block, with the same result.

    Args:
        sim: The simulation. Batch norms should have been folded before it was made.
        params: Data and settings.
        path: Folder for the encodings; made if it is not there.
        filename_prefix: Encodings of weights are written to ``<path>/<filename_prefix>.encodings``,
            for ``set_and_freeze_param_encodings``; with ``activation_drop`` all encodings to
            ``<path>/<filename_prefix>.json``, for ``load_encodings``.
        modules_to_exclude: Modules, or their names, whose weights stay as they are.

    Returns:
        What became of each layer and each block.

    Raises:
        TypeError, ValueError: Arguments that make no sense; the message says which and why.
    """
    quantizers = layers_of("apply_block_reconstruction", sim, modules_to_exclude)
    original = QuantizationSimModel.get_original_model(sim.model)
    count = len(bind_inputs(sim.model, sim.dummy_input)[0])
    calls = record_inputs(
        original, params.data_loader, params.forward_fn, params.num_batches, count
    )
    for name, quantizer in quantizers.items():
        module: Any = sim.model.get_submodule(name)
        if not quantizer.is_initialized():
            module.compute_param_encodings()
    folder = Path(path)
    before = ranges_of(sim.model)
    try:
        if params.activation_drop is not None:
            _calibrate_activations(sim, calls)
        walk = BlockWalk(sim, original, quantizers, params)
        identity = _identity(sim, original, calls, quantizers, params)
        checkpoint = Checkpoint(folder / f"{filename_prefix}.blocks", identity)
        walk.checkpoint = checkpoint
        with ValueCache(params.cache_budget) as cache:
            walk.run(calls, cache, "Block reconstruction")
    except BaseException:  # also Ctrl-C: the simulation is as it was
        restore_ranges(before)
        raise
    walk.warn_of_skipped("Block reconstruction", stacklevel=3)
    take_results(sim, quantizers, walk.report, keeps_weights=False)
    if walk.sites is not None:
        walk.sites.freeze()
        folder.mkdir(parents=True, exist_ok=True)
        sim.save_encodings_to_json(folder, filename_prefix)
    write_param_encodings(
        folder / f"{filename_prefix}.encodings",
        {name: quantizers[name] for name in walk.report.results},
    )
    checkpoint.remove()
    return walk.report


def _calibrate_activations(sim: QuantizationSimModel, calls: list[Call]) -> None:
    """Set ranges of activations with weights as they are: nearest is no guide at few bits."""
    removed = [module._remove_param_quantizers() for module in sim.qmodules()]

    def run(model: nn.Module) -> None:
        for args, kwargs in calls:
            model(*args, **kwargs)

    try:
        sim.compute_encodings(run)
    finally:
        for quantizers in removed:
            quantizers.restore()


def _identity(
    sim: QuantizationSimModel,
    original: nn.Module,
    calls: list[Call],
    quantizers: dict[str, Any],
    params: BlockReconstructionParameters,
) -> str:
    settings = {
        field.name: getattr(params, field.name)
        for field in dataclasses.fields(params)
        if field.name not in ("data_loader", "forward_fn", "cache_budget")
    }
    grids = {name: repr(quantizer) for name, quantizer in quantizers.items()}
    ranges = {name: value.tolist() for name, value in sim.quantizer_state_dict().items()}
    return fingerprint(original, calls, [__version__, "blocks", settings, grids, ranges])
