"""Accumulators of integer layers: against sums in Python's integers, and how far they can go."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from aimet_torch.ops.integer import accumulator_limits, integer_convolution, integer_matmul

OPERATORS = torch.ops.aimet


def codes(*shape: int, low: int = 0, high: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def convolved(x, w, bias, stride, pads, dilation, groups):
    """Sums of (already centered) integers, position by position."""
    dims = w.ndim - 2
    x = np.pad(x, [(0, 0), (0, 0), *[(pads[i], pads[dims + i]) for i in range(dims)]])
    sizes = [
        (x.shape[2 + i] - dilation[i] * (w.shape[2 + i] - 1) - 1) // stride[i] + 1
        for i in range(dims)
    ]
    result = np.zeros((x.shape[0], w.shape[0], *sizes), np.int64)
    per_group_in, per_group_out = w.shape[1], w.shape[0] // groups
    for out, *at in itertools.product(range(w.shape[0]), *map(range, sizes)):
        first = out // per_group_out * per_group_in
        window = [
            slice(p * s, p * s + d * (k - 1) + 1, d)
            for p, s, d, k in zip(at, stride, dilation, w.shape[2:], strict=True)
        ]
        patch = x[(slice(None), slice(first, first + per_group_in), *window)]
        result[(slice(None), out, *at)] = (patch * w[out]).sum(tuple(range(1, x.ndim)))
    return result + (0 if bias is None else bias.reshape(-1, *[1] * dims))


@pytest.mark.parametrize(
    ("shape", "weight", "groups", "stride", "pads", "dilation"),
    [
        ((2, 3, 9, 7), (8, 3, 3, 3), 1, (2, 1), (1, 0, 1, 2), (1, 1)),
        ((1, 6, 8, 8), (6, 1, 3, 3), 6, (1, 1), (1, 1, 1, 1), (1, 1)),
        ((1, 4, 9, 9), (6, 2, 2, 3), 2, (1, 2), (0, 0, 0, 0), (2, 3)),
        ((2, 3, 11), (4, 3, 3), 1, (1,), (2, 0), (1,)),
        ((1, 2, 4, 5, 6), (3, 2, 2, 2, 2), 1, (1, 2, 1), (0, 1, 0, 0, 1, 1), (1, 1, 1)),
    ],
)
def test_convolutions(shape, weight, groups, stride, pads, dilation):
    x, w = codes(*shape), codes(*weight, low=-128, high=128, seed=1)
    zeros = codes(weight[0], *[1] * (len(weight) - 1), low=-3, high=4, seed=2)
    bias = codes(weight[0], low=-(2**30), high=2**30, seed=3)
    got = integer_convolution(
        x.to(torch.uint8), w.to(torch.int8), bias.int(), input_zero_point=113,
        weight_zero_point=zeros, stride=stride, padding=pads, dilation=dilation, groups=groups,
    )  # fmt: skip
    expected = convolved(
        x.numpy() - 113, (w - zeros).numpy(), bias.numpy(), stride, pads, dilation, groups
    )
    assert got.dtype == torch.int64
    np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions(groups):
    x, w = codes(2, 4, 5, 4), codes(4, 3, 3, 2, low=-8, high=8, seed=1)
    got = integer_convolution(
        x, w, None, input_zero_point=100, weight_zero_point=torch.tensor(0), stride=(2, 3),
        padding=(1, 0, 0, 1), dilation=(1, 1), groups=groups, transposed=True,
        output_padding=(1, 0),
    )  # fmt: skip
    # A product of every input with the whole kernel, added where it falls.
    full = np.zeros((2, 3 * groups, 2 * 4 + 3 + 1, 3 * 3 + 2), np.int64)
    centered = x.numpy() - 100
    for channel, i, j in itertools.product(range(4), range(5), range(4)):
        first = channel // (4 // groups) * 3
        product = centered[:, channel, i, j, None, None, None] * w.numpy()[channel]
        full[:, first : first + 3, 2 * i : 2 * i + 3, 3 * j : 3 * j + 2] += product
    np.testing.assert_array_equal(got.numpy(), full[:, :, 1:, :-1])


def test_sums_beyond_32_bits_are_exact_and_wrap_when_they_are_stored():
    x = torch.full((1, 512), 65535)
    w = torch.full((512, 1), 127)
    got = integer_matmul(x, w, None, input_zero_point=0, other_zero_point=torch.tensor(0))
    assert got.item() == 512 * 65535 * 127
    assert got.to(torch.int32).item() == (got.item() + 2**31) % 2**32 - 2**31 != got.item()


@pytest.mark.parametrize(
    ("a", "b", "bias"), [((5, 6), (6, 4), (4,)), ((2, 3, 5, 6), (3, 6, 4), None), ((6,), (6,), ())]
)
def test_products(a, b, bias):
    x, w = codes(*a), codes(*b, low=-128, high=128, seed=1)
    offset = None if bias is None else codes(*bias, low=-(2**30), high=2**30, seed=2)
    zeros = codes(b[-1], low=-3, high=4, seed=3)
    got = integer_matmul(x, w, offset, input_zero_point=99, other_zero_point=zeros)
    expected = np.matmul(x.numpy() - 99, (w - zeros).numpy())
    np.testing.assert_array_equal(got, expected + (0 if offset is None else offset.numpy()))


def test_limits_are_reached_and_never_passed():
    w, bias = codes(3, 2, 2, low=-7, high=8, seed=1), torch.tensor([5, -100, 0])
    least, largest = accumulator_limits(w, bias, -3, 12)
    rows = w.flatten(1)
    worst = torch.where(rows > 0, -3, 12), torch.where(rows > 0, 12, -3)
    assert torch.equal(least, (rows * worst[0]).sum(1) + bias)
    assert torch.equal(largest, (rows * worst[1]).sum(1) + bias)
    x = codes(500, 4, low=-3, high=13, seed=2)
    sums = x @ rows.t() + bias
    assert (sums >= least).all()
    assert (sums <= largest).all()


CONVOLUTION = (
    codes(1, 4, 5, 5), codes(6, 2, 3, 3, seed=1), codes(6), 3, torch.tensor(0), [1, 1],
    [1, 1, 1, 1], [1, 1], 2, False, [],
)  # fmt: skip
TRANSPOSED = (
    codes(1, 4, 5, 5), codes(4, 2, 3, 3, seed=1), codes(4), 3, torch.tensor(0), [2, 2],
    [1, 1, 1, 1], [1, 1], 2, True, [1, 1],
)  # fmt: skip
PRODUCT = (codes(2, 3, 4), codes(4, 5), None, 3, torch.tensor(1))
LIMITS = (codes(3, 4), codes(3), -5, 9)


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        ("integer_convolution", CONVOLUTION),
        ("integer_convolution", TRANSPOSED),
        ("integer_matmul", PRODUCT),
        ("accumulator_limits", LIMITS),
    ],
)
def test_registration(operator, arguments):
    torch.library.opcheck(getattr(OPERATORS, operator).default, arguments)


@pytest.mark.parametrize(
    ("operator", "arguments", "change", "error", "message"),
    [
        (
            "integer_convolution",
            CONVOLUTION,
            {0: torch.ones(1, 4, 5, 5)},
            TypeError,
            "`input` must",
        ),
        (
            "integer_convolution",
            CONVOLUTION,
            {1: torch.ones(1)},
            TypeError,
            "`weight` must have an",
        ),
        (
            "integer_convolution",
            CONVOLUTION,
            {2: torch.ones(6)},
            TypeError,
            "`bias` must have an i",
        ),
        (
            "integer_convolution",
            CONVOLUTION,
            {2: codes(5)},
            ValueError,
            r"`bias` .* \(6\), got \[5",
        ),
        (
            "integer_convolution",
            CONVOLUTION,
            {4: torch.ones(1)},
            TypeError,
            "`weight_zero_point` m",
        ),
        (
            "integer_convolution",
            CONVOLUTION,
            {0: codes(4, 5)},
            ValueError,
            "one to three dimension",
        ),
        (
            "integer_convolution",
            CONVOLUTION,
            {1: codes(6, 2, 3)},
            ValueError,
            "`weight` must have ",
        ),
        (
            "integer_convolution",
            CONVOLUTION,
            {5: [1]},
            ValueError,
            "`stride` and `dilation` must h",
        ),
        ("integer_convolution", CONVOLUTION, {6: [1, 1]}, ValueError, "and `padding` 4, got"),
        (
            "integer_convolution",
            CONVOLUTION,
            {8: 1},
            ValueError,
            "takes 2 channels, and `input` ha",
        ),
        (
            "integer_convolution",
            CONVOLUTION,
            {10: [1, 1]},
            ValueError,
            "`output_padding` is for tr",
        ),
        ("integer_convolution", CONVOLUTION, {0: codes(1, 4, 5, 5) << 44}, ValueError, r"2\*\*53"),
        (
            "integer_matmul",
            PRODUCT,
            {0: torch.ones(3, 4)},
            TypeError,
            "`input` must have an intege",
        ),
        (
            "integer_matmul",
            PRODUCT,
            {0: torch.tensor(1)},
            ValueError,
            "must have a dimension at le",
        ),
        (
            "integer_matmul",
            PRODUCT,
            {0: codes(3)},
            ValueError,
            "the last dimension of `input`, 3, ",
        ),
        (
            "accumulator_limits",
            LIMITS,
            {0: torch.ones(3, 4)},
            TypeError,
            "`weight` must have an in",
        ),
        ("accumulator_limits", LIMITS, {0: torch.tensor(3)}, ValueError, r"`weight` must be \(out"),
        (
            "accumulator_limits",
            LIMITS,
            {2: 10},
            ValueError,
            "`input_min` must not exceed `input_ma",
        ),
    ],
)
def test_errors(operator, arguments, change, error, message):
    changed = [change.get(i, value) for i, value in enumerate(arguments)]
    with pytest.raises(error, match=f"{operator}: .*{message}"):
        getattr(OPERATORS, operator)(*changed)
