"""Second moments of layers and the rounding solver: against direct sums, promises, determinism."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aimet_torch.ops import reconstruction as ops
from aimet_torch.ptq.layer_view import LayerView


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


LAYERS = {
    "linear": (nn.Linear(7, 5), (3, 4, 7)),
    "linear_wide": (nn.Linear(300, 280), (1500, 300)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2), (3, 4, 17)),
    "conv2d": (nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 2)), (2, 3, 11, 9)),
    "conv2d_no_bias": (nn.Conv2d(3, 8, 3, bias=False), (2, 3, 11, 9)),
    "conv2d_grouped": (nn.Conv2d(6, 4, 3, groups=2, padding="same"), (2, 6, 7, 6)),
    "conv2d_depthwise": (nn.Conv2d(6, 6, 3, groups=6, padding=1), (2, 6, 30, 40)),
    "conv2d_reflect": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 2, 7, 6)),
    "conv3d": (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 4, 5, 3)),
    "transposed1d": (nn.ConvTranspose1d(4, 6, 4, stride=3, output_padding=1), (2, 4, 9)),
    "transposed2d": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        (2, 4, 6, 5),
    ),
}


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_moments_explain_the_layer(name):
    """With y = layer(x), the sums satisfy cross = W gram + b sum(x)^T, whatever the layer."""
    layer, shape = LAYERS[name]
    view = LayerView(layer)
    sums = view.new_sums()
    for seed in range(2):
        x = random(*shape, seed=seed)
        view.add_batch(sums, x, layer(x).detach())
    weight = view.matrices(layer.weight.detach()).double()
    bias = torch.zeros(view.groups, view.outputs, dtype=torch.float64)
    if layer.bias is not None:
        bias = layer.bias.detach().double().reshape(view.groups, view.outputs)
    expected = weight @ sums.gram + bias.unsqueeze(2) * sums.input_sum.unsqueeze(1)
    # Products of float32: relative errors of 2^-24 an addition within 1,024 positions.
    assert torch.allclose(sums.cross, expected, rtol=1e-5, atol=1e-4)
    sum_y = (weight @ sums.input_sum.unsqueeze(2)).squeeze(2) + bias * sums.total.unsqueeze(1)
    assert torch.allclose(sums.output_sum, sum_y, rtol=1e-5, atol=1e-3)
    assert sums.gram.equal(sums.gram.transpose(1, 2))
    assert view.weight_of(view.matrices(layer.weight)).equal(layer.weight)


def test_importance_weighs_positions():
    layer = nn.Conv2d(4, 4, 3, groups=4, padding=1)
    view = LayerView(layer)
    x, y = random(2, 4, 6, 5), random(2, 4, 6, 5, seed=1)
    keep = (random(2, 4, 6, 5, seed=2) > 0).float()
    sums = view.new_sums()
    view.add_batch(sums, x, y, keep)
    assert sums.total.equal(keep.sum((0, 2, 3)).double())
    assert torch.allclose(sums.output_sum.flatten(), (keep * y).sum((0, 2, 3)).double(), rtol=1e-5)
    columns = nn.functional.unfold(x, 3, padding=1).reshape(2, 4, 9, -1)
    weighted = columns * keep.reshape(2, 4, 1, -1)
    assert torch.allclose(
        sums.gram, torch.einsum("ncik,ncjk->cij", weighted, columns).double(), rtol=1e-4, atol=1e-5
    )


def gram_of(groups, size, samples=None, seed=0):
    x = random(groups, size, samples or 4 * size, seed=seed, dtype=torch.float64)
    mixed = random(groups, size, size, seed=seed + 1, dtype=torch.float64) @ x
    return mixed @ mixed.transpose(1, 2) / x.shape[2]


def problem(groups=2, outputs=11, size=24, blocks=1, bits=3):
    target = random(groups, outputs, size, seed=5, dtype=torch.float64)
    limits = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    scale, offset = ops.search_weight_scales(target, None, blocks, *limits, True)
    return target, gram_of(groups, size), scale, offset, *limits


def values(codes, scale, offset):
    repeat = codes.shape[2] // scale.shape[2]
    scale, offset = (t.repeat_interleave(repeat, 2) for t in (scale, offset))
    return (codes + offset) * scale


@pytest.mark.parametrize("blocks", [1, 4])
def test_gptq_with_an_identity_is_rounding_to_nearest(blocks):
    target, _, scale, offset, *limits = problem(blocks=blocks)
    identity = torch.eye(24, dtype=torch.float64).expand(2, 24, 24)
    codes, used, objective = ops.optimize_rounding(
        target, identity, scale, offset, *limits, max_sweeps=0
    )
    repeated = scale.repeat_interleave(24 // blocks, 2)
    nearest = (target / repeated).round().clamp(*limits)
    assert codes.equal(nearest)
    assert used.equal(scale)
    error = (target - nearest * repeated).square().sum(2)
    assert torch.allclose(objective, error, rtol=1e-12)


@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("feedback", [True, False])
def test_the_objective_never_rises(blocks, feedback):
    target, gram, scale, offset, *limits = problem(blocks=blocks)
    previous = None
    for sweeps in (0, 1, 2, 4, 100):
        codes, _, objective = ops.optimize_rounding(
            target, gram, scale, offset, *limits, feedback=feedback, max_sweeps=sweeps
        )
        direct = ops.quadratic_form(target - values(codes, scale, offset), gram)
        assert torch.allclose(objective, direct, rtol=1e-9)
        if previous is not None:
            assert (objective <= previous * (1 + 1e-12)).all()
        previous = objective
    # Nothing that the descent could do is left: no single step of one code helps.
    step = scale.repeat_interleave(24 // blocks, 2)
    error = target - values(codes, scale, offset)
    slope = (error.unsqueeze(2) @ gram.unsqueeze(1)).squeeze(2)
    curvature = gram.diagonal(dim1=1, dim2=2).unsqueeze(1)
    for sign in (1, -1):
        allowed = (codes + sign >= limits[0]) & (codes + sign <= limits[1])
        gain = 2 * sign * step * slope - step.square() * curvature
        assert (gain[allowed] <= 1e-9).all()


def test_each_stage_lowers_the_error():
    target, gram, scale, offset, *limits = problem(outputs=40)

    def error(**options):
        return ops.optimize_rounding(target, gram, scale, offset, *limits, **options)[2].sum()

    nearest = error(feedback=False, max_sweeps=0)
    feedback = error(max_sweeps=0)
    descent = error()
    refined = error(refine_scale=True)
    assert feedback < 0.7 * nearest
    assert descent < feedback
    assert refined < descent


@pytest.mark.parametrize("blocks", [1, 3])
def test_refined_scales_are_the_best_for_their_codes(blocks):
    target, gram, scale, offset, *limits = problem(blocks=blocks)
    codes, used, objective = ops.optimize_rounding(
        target, gram, scale, offset, *limits, refine_scale=True
    )
    for factor in (0.97, 1.03):
        worse = ops.quadratic_form(target - values(codes, used * factor, offset), gram)
        # Blocks of a row depend on each other, and rounds of refinement are limited.
        assert (worse > objective * (1 - 1e-3)).all()


def test_asymmetric_grids():
    target = random(1, 5, 16, dtype=torch.float64) + 2
    scale, offset = ops.search_weight_scales(target, None, 1, 0, 15, False)
    codes, *_ = ops.optimize_rounding(target, gram_of(1, 16), scale, offset, 0, 15, feedback=False)
    assert codes.min() >= 0
    assert codes.max() <= 15
    nearest = ((target / scale).round() - offset).clamp(0, 15)
    gram = gram_of(1, 16)
    error, error_of_nearest = (
        ops.quadratic_form(target - values(c, scale, offset), gram) for c in (codes, nearest)
    )
    assert (error <= error_of_nearest).all()
    assert error.sum() < 0.7 * error_of_nearest.sum()


def test_scale_search_is_at_least_as_good_as_every_fraction_of_the_range():
    weight = random(3, 4, 50, dtype=torch.float64)
    weight[0, 0, 0] = 30  # an outlier is worth clipping
    scale, _ = ops.search_weight_scales(weight, None, 1, -4, 3, True)

    def error(step):
        return ((weight / step).round().clamp(-4, 3) * step - weight).square().sum(2, keepdim=True)

    widest = torch.maximum(weight.amax(2, True) / 3, -weight.amin(2, True) / 4)
    for k in range(1, 101):
        assert (error(scale) <= error(widest * k / 100) + 1e-9).all()


def test_the_problem_without_quantized_inputs_keeps_the_weights():
    layer = nn.Conv2d(5, 6, 3)
    view = LayerView(layer)
    sums = view.new_sums()
    x = random(4, 5, 12, 12)
    view.add_batch(sums, x, layer(x).detach())
    weight = view.matrices(layer.weight.detach())
    target, gram = ops.rounding_problem(sums, weight, True)
    assert torch.allclose(target, weight.double(), atol=1e-5)
    assert torch.allclose(ops.bias_of_means(sums, weight), layer.bias.double(), atol=1e-5)
    assert (torch.linalg.eigvalsh(gram) > 0).all()


def test_dead_inputs_and_few_samples():
    layer = nn.Linear(40, 3)
    view = LayerView(layer)
    sums = view.new_sums()
    x = random(5, 40)
    x[:, :10] = 0
    view.add_batch(sums, x, layer(x).detach())
    weight = view.matrices(layer.weight.detach())
    target, gram = ops.rounding_problem(sums, weight, True)
    codes, _, objective = ops.optimize_rounding(
        target, gram, torch.full((1, 3, 1), 0.02), torch.zeros(1, 3, 1), -8, 7
    )
    assert codes.isfinite().all()
    assert objective.isfinite().all()
    assert torch.allclose(target[..., :10], weight[..., :10].double(), atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-6])
def test_inputs_that_do_not_vary_leave_the_weights(noise):
    # What is left of their variance are errors of float32, of either sign.
    x = random(1, 64).abs() * 0.02
    for seed in range(4):
        torch.manual_seed(seed)
        layer = nn.Linear(64, 8)
        view = LayerView(layer)
        weight = view.matrices(layer.weight.detach())
        sums = view.new_sums()
        for rows in (x * (1 + noise * torch.randn(16, 64))).split(8):
            view.add_batch(sums, rows, layer(rows).detach())
        target, gram = ops.rounding_problem(sums, weight, True, 1.0)
        assert torch.allclose(target, weight.double(), atol=1e-4)
        assert (torch.linalg.eigvalsh(gram) > 0).all()


@pytest.mark.parametrize("name", ["linear_wide", "conv2d", "conv2d_depthwise", "conv2d_grouped"])
def test_results_do_not_depend_on_threads(name):
    layer, shape = LAYERS[name]
    view = LayerView(layer)
    x = random(*shape)
    y = layer(x).detach()
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            sums = view.new_sums()
            view.add_batch(sums, x, y)
            weight = view.matrices(layer.weight.detach())
            target, gram = ops.rounding_problem(sums, weight, True)
            grid = ops.search_weight_scales(target, None, 1, -8, 7, True)
            rounded = ops.optimize_rounding(target, gram, *grid, -8, 7, refine_scale=True)
            results.append((*sums, target, gram, *grid, *rounded))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.equal(b)


def test_relaxation_lowers_the_error_of_rounding_to_nearest():
    target, gram, scale, offset, *limits = problem(outputs=40)
    codes = ops.relax_rounding(
        target, gram, scale, offset, *limits, iterations=500, learning_rate=2e-2
    )
    lower = (target / scale).floor()
    assert ((codes == lower.clamp(*limits)) | (codes == (lower + 1).clamp(*limits))).all()
    nearest = (target / scale).round().clamp(*limits)
    error, error_of_nearest = (
        ops.quadratic_form(target - values(c, scale, offset), gram).sum() for c in (codes, nearest)
    )
    assert error < 0.9 * error_of_nearest


@pytest.mark.parametrize("activation", [(-torch.inf, torch.inf), (0.0, 1.0)])
def test_relaxation_on_samples_sees_the_activation(activation):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, 3, padding=1, bias=True)
    view = LayerView(layer)
    x = nn.functional.interpolate(random(64, 6, 4, 4), scale_factor=2.0, mode="bilinear")
    y = layer(x).detach()
    rows = view.matrices(layer.weight.detach())
    scale, offset = (
        t.reshape(8, 1, 1, 1).float() for t in ops.search_weight_scales(rows, None, 1, -2, 1, True)
    )
    weight, bias = layer.weight.detach(), layer.bias.detach()
    codes = ops.relax_rounding_on_samples(
        x, y, activation, weight, bias, scale, offset, -2, 1, **view.geometry(),
        output_padding=[0, 0], iterations=400, learning_rate=2e-2,
    )  # fmt: skip

    def error(codes):
        output = nn.functional.conv2d(x, codes.float() * scale, bias, padding=1)
        return (output.clamp(*activation) - y.clamp(*activation)).square().mean()

    assert error(codes) < 0.8 * error((weight / scale).round().clamp(-2, 1))


def test_mutates_what_its_schema_says():
    layer, shape = LAYERS["conv2d"]
    view = LayerView(layer)
    x = random(*shape)
    arguments = (*view.new_sums(), x, layer(x).detach(), [3, 5], [2, 1], [1, 2], [1, 1])
    overload = torch.ops.aimet.accumulate_layer_moments_.default
    torch.library.opcheck(overload, arguments, test_utils=("test_schema",))
    for name in ("optimize_rounding", "search_weight_scales", "quadratic_form"):
        given = {
            "optimize_rounding": problem(),
            "search_weight_scales": (random(2, 3, 4), torch.empty(0), 2, -8, 7, True),
            "quadratic_form": (random(2, 3, 4), random(2, 4, 4)),
        }[name]
        overload = getattr(torch.ops.aimet, name).default
        torch.library.opcheck(overload, given, test_utils=("test_schema",))


def test_error_messages():
    target, gram, scale, offset, *limits = problem()
    with pytest.raises(ValueError, match="optimize_rounding: `gram` must have shape"):
        ops.optimize_rounding(target, gram[:, :5], scale, offset, *limits)
    wrong = scale.expand(-1, -1, 7)
    with pytest.raises(ValueError, match=r"number of blocks must divide .* 24, got 7"):
        ops.optimize_rounding(target, gram, wrong, wrong, *limits)
    with pytest.raises(ValueError, match="scale"):
        ops.optimize_rounding(target, gram, -scale, offset, *limits)
    with pytest.raises(ValueError, match="rounding_problem: no data"):
        ops.rounding_problem(ops.LayerSums.zeros(1, 2, 3), torch.zeros(1, 2, 3), True)
    with pytest.raises(ValueError, match="`damping` must be positive, got 0"):
        ops.rounding_problem(ops.LayerSums.zeros(1, 2, 3), torch.zeros(1, 2, 3), True, 0.0)
    with pytest.raises(ValueError, match="`gram` must be contiguous with shape"):
        ops.accumulate_layer_moments_(
            ops.LayerSums.zeros(1, 2, 4), torch.zeros(5, 3), torch.zeros(5, 2)
        )
    with pytest.raises(ValueError, match="`importance` needs the shape of `output`"):
        ops.accumulate_layer_moments_(
            ops.LayerSums.zeros(1, 2, 3), torch.zeros(5, 3), torch.zeros(5, 2),
            importance=torch.ones(5, 2),
        )  # fmt: skip
    with pytest.raises(TypeError, match="`input` must have a floating-point dtype"):
        ops.accumulate_layer_moments_(
            ops.LayerSums.zeros(1, 2, 3), torch.zeros(5, 3).long(), torch.zeros(5, 2)
        )
