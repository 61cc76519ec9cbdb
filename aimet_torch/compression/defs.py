"""Parameters of a compression, under AIMET's names (alias ``aimet_torch.defs``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, TypeAlias

from torch import nn

from aimet_torch.common.defs import GreedySelectionParameters, RankSelectScheme

__all__ = [
    "ChannelPruningParameters",
    "CpParameters",
    "ExactSelectionParameters",
    "GreedySelectionParameters",
    "Mode",
    "ModuleCompRatioPair",
    "RankSelectScheme",
    "SpatialSvdParameters",
    "TuckerParameters",
    "WeightSvdParameters",
]


@dataclasses.dataclass(frozen=True)
class ModuleCompRatioPair:
    """A layer of the model and its ratio: its cost after the compression over its cost before."""

    module: nn.Module
    comp_ratio: float


@dataclasses.dataclass(frozen=True)
class ExactSelectionParameters:
    """Settings of the exact choice; may stand wherever ``GreedySelectionParameters`` may.

    One pass over some inputs measures what each candidate of each layer does to the model's
    outputs; dynamic programming then finds the choice with the least sum within the budget.

    Attributes:
        target_comp_ratio: Cost of the compressed model over that of the original, in (0, 1].
        num_comp_ratio_candidates: Ratios tried for each layer.
        data_loader: Batches without labels: inputs, or tuples that begin with them. None: what
            ``eval_callback`` gives to the model when it evaluates the original.
        forward_fn: ``forward_fn(model, batch)``, where a batch is something else.
        num_samples: Inputs that are used.

    Raises:
        ValueError: A number is out of range.
    """

    target_comp_ratio: float
    num_comp_ratio_candidates: int = 20
    data_loader: Iterable[Any] | None = None
    forward_fn: Callable[[nn.Module, Any], Any] | None = None
    num_samples: int = 128

    def __post_init__(self) -> None:
        for name, least in (("num_comp_ratio_candidates", 2), ("num_samples", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"ExactSelectionParameters: `{name}` must be at least {least}, got "
                    f"{getattr(self, name)}"
                )


Selection = GreedySelectionParameters | ExactSelectionParameters


class Mode(Enum):
    """Who chooses the ratios of the layers."""

    manual = 1
    auto = 2


@dataclasses.dataclass
class ManualModeParams:
    """Ratios that the user has chosen; all other layers keep their shape."""

    list_of_module_comp_ratio_pairs: Sequence[ModuleCompRatioPair]


class AutoModeParams:
    """How ratios are chosen.

    Args:
        greedy_select_params: The method and the ratio of the whole model.
        modules_to_ignore: Layers that keep their shape. Channel pruning: whose input channels stay;
            their outputs go where the layers behind them may lose inputs, as in AIMET.
    """

    def __init__(
        self,
        greedy_select_params: Selection,
        modules_to_ignore: Sequence[nn.Module] | None = None,
    ) -> None:
        self.greedy_params = greedy_select_params
        self.modules_to_ignore = list(modules_to_ignore or ())


class WeightSvdAutoModeParams(AutoModeParams):
    """How ratios are chosen for weight SVD, with AIMET's name of the method in front.

    Args:
        rank_select_scheme: ``RankSelectScheme.greedy``, the only one; ``select_params`` decides.
        select_params: The method and the ratio of the whole model.
        modules_to_ignore: Layers that keep their shape. Channel pruning: whose input channels stay;
            their outputs go where the layers behind them may lose inputs, as in AIMET.
    """

    def __init__(
        self,
        rank_select_scheme: RankSelectScheme,
        select_params: Selection,
        modules_to_ignore: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__(select_params, modules_to_ignore)
        self.rank_select_scheme = rank_select_scheme
        self.select_params = select_params


_Mode: TypeAlias = Mode  # inside the classes below the names stand for the attributes
_ModeParams: TypeAlias = ManualModeParams | AutoModeParams


class _SchemeParameters:
    """What the parameters of all schemes have."""

    Mode = Mode
    ManualModeParams = ManualModeParams
    AutoModeParams: type[AutoModeParams] = AutoModeParams

    def __init__(self, mode: _Mode, params: _ModeParams, multiplicity: int) -> None:
        name = type(self).__name__
        wanted = ManualModeParams if mode is Mode.manual else AutoModeParams
        if not isinstance(mode, Mode):
            raise TypeError(
                f"{name}: `mode` must be {name}.Mode.manual or {name}.Mode.auto, got {mode!r}"
            )
        if not isinstance(params, wanted):
            raise TypeError(
                f"{name}: `params` must be {wanted.__name__} in {mode.name} mode, got "
                f"{type(params).__name__}"
            )
        if multiplicity < 1:
            raise ValueError(f"{name}: `multiplicity` must be at least 1, got {multiplicity}")
        self.mode = mode
        self.mode_params = params
        self.multiplicity = multiplicity


class SpatialSvdParameters(_SchemeParameters):
    """Spatial SVD: a convolution becomes one of (kh, 1) and one of (1, kw).

    Args:
        mode: Who chooses the ratios.
        params: ``SpatialSvdParameters.ManualModeParams`` or ``AutoModeParams``.
        multiplicity: Ranks are rounded up to multiples of this.
        data_loader: Not in AIMET. Batches without labels; the factors of the final model then have
            the least error of the layers' outputs instead of that of the weights.
        num_batches: How many of them; None: all.

    Raises:
        TypeError: ``params`` does not fit the mode.
        ValueError: ``multiplicity`` is below 1.
    """

    def __init__(
        self,
        mode: _Mode,
        params: _ModeParams,
        multiplicity: int = 1,
        data_loader: Iterable[Any] | None = None,
        num_batches: int | None = None,
    ) -> None:
        super().__init__(mode, params, multiplicity)
        self.data_loader = data_loader
        self.num_batches = num_batches


class WeightSvdParameters(SpatialSvdParameters):
    """Weight SVD: a layer becomes one of 1 x 1 and one with the kernel; a linear one, two.

    Arguments as of :class:`SpatialSvdParameters`.
    """

    AutoModeParams = WeightSvdAutoModeParams


class LowRankParameters(SpatialSvdParameters):
    """Not in AIMET: for each layer spatial SVD, weight SVD or the mirror image that loses least.

    Arguments as of :class:`SpatialSvdParameters`.
    """


class TuckerParameters(_SchemeParameters):
    """Tucker-2, not in AIMET: 1 x 1, the kernel between fewer channels, 1 x 1.

    Needs tensorly: ``pip install aimet-torch[tensor]``.

    Args:
        mode: Who chooses the ratios.
        params: ``TuckerParameters.ManualModeParams`` or ``AutoModeParams``.
        multiplicity: Ranks are rounded up to multiples of this.

    Raises:
        TypeError: ``params`` does not fit the mode.
        ValueError: ``multiplicity`` is below 1.
    """

    def __init__(self, mode: _Mode, params: _ModeParams, multiplicity: int = 1) -> None:
        super().__init__(mode, params, multiplicity)


class CpParameters(TuckerParameters):
    """CP, not in AIMET: 1 x 1, one depthwise kernel for each dimension, 1 x 1.

    Arguments as of :class:`TuckerParameters`. A decomposition takes many iterations, and there is
    one for each candidate: fewer candidates, or the exact choice, save time.
    """


class ChannelPruningParameters(_SchemeParameters):
    """Channel pruning: a layer reads fewer channels, and what gives them loses them.

    Args:
        data_loader: Batches without labels, or tuples that begin with the input: the weights that
            are left are fitted to them. None: they keep their values.
        num_reconstruction_samples: Inputs that are used for that.
        allow_custom_downsample_ops: AIMET puts a module of its own where channels of a tensor that
            is read elsewhere are left out. Here all members of a coupled group lose the same
            channels and none is needed: it has no effect.
        mode: Who chooses the ratios.
        params: ``ChannelPruningParameters.ManualModeParams`` or ``AutoModeParams``.
        multiplicity: Channel counts are rounded up to multiples of this.
        selection: Not in AIMET, whose choice is ``magnitude``: ``lasso`` and ``gram`` choose by the
            layers' outputs on the data.

    Raises:
        TypeError: ``params`` does not fit the mode.
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        data_loader: Iterable[Any] | None,
        num_reconstruction_samples: int,
        allow_custom_downsample_ops: bool,
        mode: _Mode,
        params: _ModeParams,
        multiplicity: int = 1,
        selection: str = "magnitude",
    ) -> None:
        super().__init__(mode, params, multiplicity)
        if num_reconstruction_samples < 1:
            raise ValueError(
                "ChannelPruningParameters: `num_reconstruction_samples` must be positive, got "
                f"{num_reconstruction_samples}"
            )
        self.data_loader = data_loader
        self.num_reconstruction_samples = num_reconstruction_samples
        self.allow_custom_downsample_ops = allow_custom_downsample_ops
        self.selection = selection
