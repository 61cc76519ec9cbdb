"""Sensitivity of every quantizer at several bit widths, from one backward pass for each batch.

To second order, an error e of a tensor raises the loss by e^T H e / 2. For the distance between the
outputs of a network and of its simulation, H = E[g g^T] exactly at zero distance, where g is the
gradient of a random projection of the outputs (Gauss-Newton, Fisher information). So one backward
pass gives g for every tensor of the network at once, and what rounding each of them to each
grid would do follows from g and the tensor: no evaluation of a quantized network at all.

For an activation, e^T H e is the mean over the samples of (g . e)^2. Rounding errors of a weight
hardly depend on each other, and there is one weight for all samples, so the diagonal of H has to do
there: the sum of (g e)^2 over the tensor (Dong et al. 2020, arXiv 1911.03852, take one mean
curvature for a layer instead).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from aimet_torch import ops
from aimet_torch.analysis.precision import Precision
from aimet_torch.analysis.sensitivity import Sensitivity, SensitivityRow
from aimet_torch.analysis.switching import Switchboard
from aimet_torch.common.progress import progress
from aimet_torch.graph.structure import leaves
from aimet_torch.ptq.replay import record_inputs
from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantization.base import QuantizerBase, plain_tensor
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.calibration import evaluation_mode

__all__ = ["OutputLoss", "estimate_sensitivity"]

OutputLoss = Literal["squared_error", "cross_entropy"]
_Call = tuple[tuple[Any, ...], dict[str, Any]]
_MEASURES = {
    "squared_error": "power of the outputs' error over the power of the outputs",
    "cross_entropy": "divergence of the outputs' probabilities from those in floating point, nats",
}


def estimate_sensitivity(
    sim: QuantizationSimModel,
    data: Iterable[Any],
    bitwidths: Sequence[int] = (4, 8),
    *,
    loss: OutputLoss = "squared_error",
    num_batches: int | None = None,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
    board: Switchboard | None = None,
    seed: int = 0,
) -> Sensitivity:
    """Estimate what each quantizer alone would cost, without evaluating any of them.

    One forward pass finds the ranges of activations at all bit widths, one forward and backward
    pass in floating point does the rest; 16 to 64 samples usually do. The simulation is left as it
    is.

    Args:
        sim: Calibrated simulation.
        data: Batches of inputs, or of inputs followed by labels, which are not read.
        bitwidths: Of integers, for weights and activations.
        loss: What an error of the outputs is: "squared_error"; "cross_entropy" for a classifier,
            whose outputs are logits in the last dimension.
        num_batches: How many batches are used; None: all.
        forward_fn: ``forward_fn(model, batch)`` runs one; None: a batch is an input, or a tuple
            that begins with the inputs.
        board: Of the simulation, where there is one already; its ranges are used.
        seed: Of the random projections.

    Returns:
        Rows for every integer quantizer that has a range and that the outputs depend on.

    Raises:
        ValueError: No batch, a bit width that does not exist, or an unknown loss.

    Source: Schraudolph 2002, "Fast curvature matrix-vector products" (Gauss-Newton); Martens 2020,
    arXiv 1412.1193 (sampled Fisher information).
    """
    start = time.perf_counter()
    if loss not in get_args(OutputLoss):
        raise ValueError(
            f"estimate_sensitivity: `loss` must be one of {get_args(OutputLoss)}, got {loss!r}"
        )
    wanted = [Precision(bits) for bits in sorted(set(bitwidths))]
    if not wanted:
        raise ValueError("estimate_sensitivity: `bitwidths` must not be empty")
    calls = record_inputs(sim.model, data, forward_fn, num_batches, sim._positional_count())
    board = board or Switchboard(sim)
    missing = {
        precision.bits
        for name in board.activations
        for precision in wanted
        if not board.has_range(name, precision)
    }
    if missing:
        board.observe(lambda model: [model(*args, **kwargs) for args, kwargs in calls], missing)
    probes = _probes(board, wanted)
    generator = torch.Generator().manual_seed(seed)
    samples = 0
    with evaluation_mode(sim.model), _probing(board, probes), torch.enable_grad():
        for args, kwargs in progress(calls, "Sensitivity", unit="batch"):
            outputs = _float_outputs(sim.model(*args, **kwargs))
            samples += _first_size((args, kwargs))
            _backward(outputs, loss, generator)
            for probe in probes.values():
                probe.forget()
    rows = [
        row for name, probe in probes.items() for row in probe.rows(name, board, wanted, len(calls))
    ]
    return Sensitivity(rows, _MEASURES[loss], samples, time.perf_counter() - start)


# -- the loss --------------------------------------------------------------------------------------


def _float_outputs(outputs: Any) -> list[Tensor]:
    found = [plain_tensor(x) for x in leaves(outputs, Tensor)]
    differentiable = [x for x in found if x.requires_grad]
    if not differentiable:
        raise ValueError(
            "estimate_sensitivity: `sim.model` returns no tensor that has a gradient; its outputs "
            "must be floating-point tensors, in tuples, lists or dicts"
        )
    return differentiable


def _backward(outputs: list[Tensor], loss: str, generator: torch.Generator) -> None:
    """Backpropagate vectors v with E[v v^T] = the Hessian of the loss at its minimum."""
    if loss == "cross_entropy":
        vectors = [_sampled_error(x, generator) for x in outputs]
    else:
        vectors = [_signs(x, generator) for x in outputs]
    # The leaves are the probes' own; parameters get no gradient.
    torch.autograd.backward(outputs, vectors)


def _signs(output: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs, so that E[(v^T d)^2] is the squared error d^2 over the outputs' power."""
    signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
    power = output.detach().double().square().sum().clamp(min=torch.finfo(torch.float32).tiny)
    return signs * float(power.rsqrt())


def _sampled_error(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Probabilities less a class drawn from them: E[v v^T] is the Hessian of the divergence."""
    rows = logits.detach().float().reshape(-1, logits.shape[-1]).softmax(-1)
    drawn = torch.multinomial(rows.cpu(), 1, generator=generator).to(rows.device)
    rows.scatter_add_(1, drawn, torch.full_like(rows[:, :1], -1.0))
    # Half of the second-order term, as a mean over the rows.
    return rows.reshape(logits.shape).to(logits) * (0.5 / len(rows)) ** 0.5


def _first_size(value: Any) -> int:
    for tensor in leaves(value, Tensor):
        return int(tensor.shape[0]) if tensor.dim() else 1
    return 0


# -- probes ----------------------------------------------------------------------------------------


class _Probe(QuantizerBase):
    """Stands in the place of a quantizer, hands tensors on, and meets their gradients.

    Args:
        candidates: quantizers at the bit widths of interest.
        is_param: of a parameter: one tensor for all samples.
    """

    def __init__(self, candidates: list[AffineQuantizerBase], is_param: bool) -> None:
        super().__init__()
        encodings: list[Any] = [quantizer.get_encodings() for quantizer in candidates]
        self._grids = (
            [encoding.scale.detach() for encoding in encodings],
            [encoding.offset.detach() for encoding in encodings],
            [encoding.qmin for encoding in encodings],
            [encoding.qmax for encoding in encodings],
        )
        self._block_size = candidates[0].block_size
        self.is_param = is_param
        self.errors: Tensor | None = None
        self.power = 0.0
        self.count = 0
        # A tensor that several operators read is one tensor: its gradients add up first.
        self._handed: dict[int, tuple[Tensor, Tensor]] = {}

    def simulate(self, input: Tensor) -> Tensor:
        known = self._handed.get(id(input))
        if known is None:
            goes_on = input.requires_grad and not self.is_param
            source = input if goes_on else input.detach().requires_grad_()
            known = self._handed[id(input)] = (input, _HandOn.apply(source, self, goes_on))
        return known[1]

    def forward(self, input: Tensor) -> Tensor:
        """As `simulate`."""
        return self.simulate(plain_tensor(input))

    def get_encodings(self) -> None:
        """None: it quantizes nothing."""
        return None

    def forget(self) -> None:
        """Let go of the tensors of a batch."""
        self._handed.clear()

    def meet(self, input: Tensor, grad: Tensor) -> None:
        """Add what each grid would do to a tensor with this gradient."""
        errors, power = ops.quantization_errors(
            input, grad, *self._grids, by_sample=not self.is_param, block_size=self._block_size
        )
        self.errors = errors if self.errors is None else self.errors + errors
        self.power += float(power)
        self.count += input.numel()

    def rows(
        self, name: str, board: Switchboard, precisions: list[Precision], batches: int
    ) -> Iterator[SensitivityRow]:
        """What was found; nothing for a tensor that the outputs do not depend on."""
        if self.errors is None:
            return
        for precision, sums in zip(precisions, self.errors.tolist(), strict=True):
            noise, weighted, change, clipped = sums
            ratio = torch.tensor(self.power, dtype=torch.float64) / noise
            yield SensitivityRow(
                name,
                self.is_param,
                precision.bits,
                # One weight serves all samples, so its error has one sum of g e for a batch: too
                # few to tell its expected square.
                (weighted if self.is_param else change) / batches,
                float(10 * ratio.log10()),
                clipped / self.count,
            )


class _HandOn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, probe: _Probe, goes_on: bool) -> Tensor:
        ctx.probe, ctx.goes_on = probe, goes_on
        ctx.save_for_backward(input)
        return input.clone()  # operators that write into their input must not reach what was saved

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (input,) = ctx.saved_tensors
        ctx.probe.meet(input, grads[0])
        return (grads[0] if ctx.goes_on else None), None, None


def _probes(board: Switchboard, precisions: list[Precision]) -> dict[str, _Probe]:
    probes = {}
    for name, quantizer in board.quantizers.items():
        if not isinstance(quantizer, AffineQuantizerBase) or not quantizer.is_initialized():
            continue
        candidates = [board.quantizer_at(name, precision) for precision in precisions]
        probes[name] = _Probe(candidates, name in board.params)
    return probes


@contextlib.contextmanager
def _probing(board: Switchboard, probes: dict[str, _Probe]) -> Iterator[None]:
    """Within this context probes stand in the places of quantizers; the others are off."""
    others = {name: None for name in board.quantizers if name not in probes}
    parameters = [p for p in board.sim.model.parameters() if p.requires_grad and p.is_leaf]
    with board.placed({**others, **probes}):
        try:
            for parameter in parameters:  # biases and the like: no gradient is of interest
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)
