"""The operators of the algorithms layer: registration, gradients, compilation, error classes."""

from __future__ import annotations

import pytest
import torch

from aimet_torch.ops import algorithms

operators = torch.ops.aimet


def fold_arguments(dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(s, generator=generator, dtype=dtype) for s in ((6, 2, 3, 3), (6,)))
    mean, gamma, beta = (torch.randn(6, generator=generator, dtype=dtype) for _ in range(3))
    variance = torch.rand(6, generator=generator, dtype=dtype) + 0.1
    return (weight, bias, mean, variance, gamma, beta, 1e-3), {"groups": 2, **options}


def absorb_arguments():
    generator = torch.Generator().manual_seed(0)
    shapes = ((4,), (4,), (4,), (4,), (6, 2, 3, 3), (6,))
    tensors = [torch.rand(s, generator=generator, dtype=torch.float64) * 4 for s in shapes]
    return tensors, {"groups": 2}


CASES = {
    "fold_batch_norm": (operators.fold_batch_norm.default, *fold_arguments()),
    "fold_batch_norm_float16": (operators.fold_batch_norm.default, *fold_arguments(torch.float16)),
    "merge_batch_norm_statistics": (
        operators.merge_batch_norm_statistics.default,
        fold_arguments()[0][2:],
        {},
    ),
    "correct_bias_analytically": (
        operators.correct_bias_analytically.default,
        (torch.randn(6), torch.randn(6, 2, 3, 3), torch.randn(6, 2, 3, 3), torch.randn(4)),
        {"groups": 2},
    ),
    "smoothing_scale": (
        operators.smoothing_scale.default,
        (torch.rand(4), [torch.randn(5, 4), torch.randn(4, 1, 3, 3)], 0.5),
        {},
    ),
    "absorb_high_bias": (operators.absorb_high_bias.default, *absorb_arguments()),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_registration(name):
    overload, args, kwargs = CASES[name]
    torch.library.opcheck(overload, tuple(args), kwargs)
    with_gradients = tuple(a.detach().requires_grad_() if torch.is_tensor(a) else a for a in args)
    torch.library.opcheck(overload, with_gradients, kwargs)


@pytest.mark.parametrize("name", ["fold_batch_norm", "merge_batch_norm_statistics"])
def test_gradients(name):
    overload, args, kwargs = CASES[name]
    inputs = tuple(a.detach().requires_grad_() if torch.is_tensor(a) else a for a in args)
    assert torch.autograd.gradcheck(lambda *a: overload(*a, **kwargs), inputs)


def test_equalization_mutates_what_its_schema_says():
    schema = operators.equalize_cross_layers_.default._schema
    written = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write]
    assert written == ["weights", "biases"]
    pair = [torch.rand(5, 3), torch.rand(2, 5)]
    arguments = (pair, [torch.rand(5), torch.empty(0)], [1, 1], [False, False], [0, 1], [2])
    torch.library.opcheck(
        operators.equalize_cross_layers_.default, arguments, test_utils=("test_schema",)
    )


def test_folding_compiles_to_one_graph():
    args, kwargs = fold_arguments(torch.float32)

    def fold(*tensors):
        return algorithms.fold_batch_norm(*tensors, 1e-3, **kwargs)

    compiled = torch.compile(fold, backend="aot_eager", fullgraph=True)
    for a, b in zip(compiled(*args[:-1]), fold(*args[:-1]), strict=True):
        assert a.equal(b)


def test_equalization_of_meta_tensors_is_refused():
    pair = [torch.rand(5, 3, device="meta"), torch.rand(2, 5, device="meta")]
    with pytest.raises(NotImplementedError, match="meta tensors cannot be equalized"):
        algorithms.equalize_cross_layers_(pair, [None, None], [1, 1], [False, False], [[0, 1]])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"groups": 4},
            ValueError,
            "`groups` must be positive and divide dimension 0",
        ),
        (
            {"transposed": True, "fold_into_next": True, "bias": None},
            NotImplementedError,
            "has no exact fold",
        ),
        ({"eps": -1.0}, ValueError, "`eps` must not be negative, got -1"),
        (
            {"weight": torch.ones(6, 2, dtype=torch.int64)},
            TypeError,
            "`weight` must have a floating",
        ),
        ({"weight": torch.ones(6)}, ValueError, "`weight` must have 2 .* to 5 .* dimensions"),
        ({"weight": torch.ones(6, 2)}, ValueError, "belongs to a Linear layer"),
        ({"bias": torch.ones(5)}, ValueError, r"the bias of `weight` must have shape \(6\)"),
        ({"bn_bias": torch.ones(2)}, ValueError, r"`bn_bias` must have shape \(6\)"),
        (
            {"running_var": torch.ones(6, dtype=torch.int64)},
            TypeError,
            "`running_var` must have a fl",
        ),
    ],
)
def test_errors_of_folding(change, error, message):
    args, kwargs = fold_arguments(torch.float32)
    names = ("weight", "bias", "running_mean", "running_var", "bn_weight", "bn_bias", "eps")
    given = {**dict(zip(names, args, strict=True)), **kwargs, **change}
    with pytest.raises(error, match=f"fold_batch_norm: .*{message}"):
        algorithms.fold_batch_norm(**given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 1], [False], [0, 1], [2]), "must have one entry a layer, got 2, 2, 2 and 1"),
        (([1, 1], [False] * 2, [0, 1], [3]), r"`chain_lengths` must add up .*, 2, got \[3\]"),
        (([1, 1], [False] * 2, [0, 1], [1]), r"`chain_lengths` must add up .*, 2, got \[1\]"),
        (([1, 1], [False] * 2, [0, 1], [-2]), r"`chain_lengths` must add up .*, 2, got \[-2\]"),
        (([1, 1], [False] * 2, [0, 2], [2]), "names layer 2, but there are 2"),
    ],
)
def test_errors_of_equalization(arguments, message):
    pair = [torch.rand(5, 3), torch.rand(2, 5)]
    with pytest.raises(ValueError, match=f"equalize_cross_layers_: .*{message}"):
        operators.equalize_cross_layers_(pair, [torch.empty(0)] * 2, *arguments)


def test_errors_of_absorption():
    (bias, gamma, beta, limit, weight, next_bias), kwargs = absorb_arguments()
    with pytest.raises(ValueError, match=r"absorb_high_bias: `bn_bias` must have shape \(4\)"):
        algorithms.absorb_high_bias(bias, gamma, beta[:2], limit, weight, next_bias, **kwargs)
    with pytest.raises(ValueError, match="`next_weight` has 2 input channels, but `bias` has 4"):
        algorithms.absorb_high_bias(bias, gamma, beta, limit, weight, next_bias)
    with pytest.raises(TypeError, match="`upper_limit` must have a floating-point dtype"):
        algorithms.absorb_high_bias(bias, gamma, beta, limit.long(), weight, next_bias, **kwargs)
    with pytest.raises(NotImplementedError, match="border outputs of a transposed convolution"):
        algorithms.absorb_high_bias(
            bias, gamma, beta, limit, torch.rand(4, 2, 3, 3), torch.rand(2), transposed=True
        )
