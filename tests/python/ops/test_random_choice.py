"""choose_randomly: the formula, gradients, devices, threads, errors."""

from __future__ import annotations

import pytest
import torch

from aimet_torch.ops import choose_randomly

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def mixed(x):
    """MurmurHash3's fmix32, from its description."""
    x ^= x >> 16
    x = x * 0x85EBCA6B & 0xFFFFFFFF
    x ^= x >> 13
    x = x * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ x >> 16


def uniform(seed, index):
    low = mixed(index & 0xFFFFFFFF) ^ mixed((seed & 0xFFFFFFFF) ^ 0x85EBCA6B)
    high = (index >> 32) ^ mixed(seed >> 32 & 0xFFFFFFFF)
    return (mixed(mixed(low) ^ high) >> 8) / 2**24


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [0, 7, -3, 2**40 + 5])
def test_formula(dtype, seed):
    first, second = torch.arange(1, 61).reshape(3, 4, 5).to(dtype), torch.zeros(3, 4, 5).to(dtype)
    expected = [float(uniform(seed, i) < 0.3) for i in range(60)]
    result = choose_randomly(first, second, 0.3, seed)
    assert result.dtype == dtype
    assert result.ne(0).double().flatten().tolist() == expected
    chosen = result.ne(0)
    assert result[chosen].equal(first[chosen])


def test_strided_inputs_are_chosen_in_row_major_order():
    first, second = torch.ones(40, 30), torch.zeros(40, 30)
    expected = choose_randomly(first, second, 0.5, 11)
    strided = choose_randomly(torch.ones(30, 40).t(), torch.zeros(40, 60)[:, ::2], 0.5, 11)
    assert strided.equal(expected)


def test_share_and_independence():
    ones, zeros = torch.ones(200_000), torch.zeros(200_000)
    a, b = (choose_randomly(ones, zeros, 0.25, seed) for seed in (1, 2))
    deviation = (0.25 * 0.75 / 200_000) ** 0.5
    assert abs(a.mean() - 0.25) < 4 * deviation
    assert abs((a * b).mean() - 0.0625) < 4 * deviation  # seeds side by side share nothing
    assert abs((a[1:] * a[:-1]).mean() - 0.0625) < 4 * deviation  # nor do neighbors
    assert choose_randomly(ones, zeros, 0.0, 1).equal(zeros)
    assert choose_randomly(ones, zeros, 1.0, 1).equal(ones)


def test_gradients_go_where_elements_came_from():
    first, second = (torch.randn(6, 7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.autograd.gradcheck(lambda a, b: choose_randomly(a, b, 0.4, 5), (first, second))
    gradient = torch.randn(6, 7, dtype=torch.float64)
    of_first, of_second = torch.autograd.grad(
        choose_randomly(first, second, 0.4, 5), (first, second), gradient
    )
    assert (of_first + of_second).equal(gradient)
    assert not (of_first * of_second).any()


def test_every_number_of_threads_gives_the_same():
    first, second = torch.ones(100_001), torch.zeros(100_001)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(choose_randomly(first, second, 0.5, 9))
    finally:
        torch.set_num_threads(threads)
    assert results[0].equal(results[1])


def test_other_devices_choose_the_same():
    key = torch._C.DispatchKey.CompositeExplicitAutograd
    first, second = torch.randn(5, 400), torch.randn(5, 400)
    operators = torch.ops.aimet
    for seed in (0, 3, -8, 2**45 + 1):
        for name, given in (
            ("choose_randomly", (first, second, 0.5, seed)),
            ("_choose_randomly_backward", (first, 0.5, seed)),
        ):
            overload = getattr(operators, name).default
            ours, fallback = overload(*given), overload._op_dk(key, *given)
            pairs = zip(ours, fallback, strict=True)
            assert all(a.equal(b) for a, b in pairs)


def test_opcheck_and_torchscript():
    first = torch.randn(4, 5, requires_grad=True)
    operators = torch.ops.aimet
    torch.library.opcheck(operators.choose_randomly.default, (first, torch.randn(4, 5), 0.5, 3))
    torch.library.opcheck(operators._choose_randomly_backward.default, (torch.ones(4, 5), 0.5, 3))

    @torch.jit.script
    def scripted(a: torch.Tensor, b: torch.Tensor):
        return torch.ops.aimet.choose_randomly(a, b, 0.5, 3)

    other = torch.randn(4, 5)
    assert scripted(first, other).equal(choose_randomly(first, other, 0.5, 3))


def test_error_messages():
    x = torch.ones(2, 3)
    with pytest.raises(TypeError, match="choose_randomly: `first` must be float16"):
        choose_randomly(x.int(), x.int(), 0.5, 0)
    with pytest.raises(TypeError, match="`second` must have the dtype of `first`, Float, got Dou"):
        choose_randomly(x, x.double(), 0.5, 0)
    with pytest.raises(ValueError, match=r"`second` must have the shape of `first`, \[2, 3\], got"):
        choose_randomly(x, x[:1], 0.5, 0)
    with pytest.raises(ValueError, match=r"`probability` must be between 0 and 1, got 1\.5"):
        choose_randomly(x, x, 1.5, 0)
