"""CUDA kernels against the CPU's, bit for bit: on a GPU, with a library built with CUDA kernels.

Without either, the tests marked `cuda` are skipped, or fail when AIMET_REQUIRE_CUDA=1. The kernels'
own code is also tested without a GPU: tests/cpp/cuda runs it on the CPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from aimet_torch import ops

OPERATORS = torch.ops.aimet
CUDA_OPERATORS = [
    "quantize",
    "dequantize",
    "quantize_dequantize",
    "_quantize_dequantize_mask",
    "_quantize_dequantize_mask_backward",
    "_quantize_dequantize_backward",
    "quantize_dequantize_float",
    "_quantize_dequantize_float_mask",
    "_quantize_dequantize_float_backward",
    "quantize_dequantize_microscaling",
    "_quantize_dequantize_microscaling_mask",
    "min_max",
    "update_histogram_",
    "encoding_from_range",
]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
GRID = (-8, 7)


def missing() -> str | None:
    """What keeps the tests from running on a GPU."""
    if not ops.build_info()["cuda"]:
        return "libaimet.so was built without CUDA kernels (AIMET_WITH_CUDA=ON builds them)"
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    return None


@pytest.fixture
def gpu() -> torch.device:
    reason = missing()
    if reason is not None:
        if os.environ.get("AIMET_REQUIRE_CUDA") == "1":
            pytest.fail(f"AIMET_REQUIRE_CUDA=1, but {reason}")
        pytest.skip(reason)
    return torch.device("cuda", torch.cuda.current_device())


@dataclass(frozen=True)
class Case:
    """An input's layout and the granularity of its scale."""

    name: str
    shape: tuple[int, ...]
    scale_shape: tuple[int, ...]
    block_size: tuple[int, ...] | None = None
    layout: str = "contiguous"

    def tensors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Input (normal values, ties, both sides of the grid, infinities, NaN), scale, offset."""
        generator = torch.Generator().manual_seed(len(self.name))
        x = torch.randn(self.shape, generator=generator, dtype=torch.float64) * 2
        flat = x.view(-1)
        specials = [0.0, -0.0, 0.125, -0.375, 1e30, torch.inf, -torch.inf, torch.nan]
        for position, value in zip(range(3, flat.numel(), 37), specials, strict=False):
            flat[position] = value
        x = x.to(dtype)
        if self.layout == "channels_last":
            x = x.to(memory_format=torch.channels_last)
        elif self.layout == "transposed":
            x = x.transpose(0, -1).contiguous().transpose(0, -1)
        elif self.layout == "sliced":  # with gaps
            x = torch.stack([x, x], dim=-1)[..., 0]
        elif self.layout == "unaligned":  # dense, but not at a multiple of 16 bytes
            x = torch.cat([torch.zeros(1, dtype=dtype), x.flatten()])[1:].view(self.shape)
        parameter_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        scale = torch.rand(self.scale_shape, generator=generator, dtype=parameter_dtype) + 0.25
        offset = torch.randint(-4, 5, self.scale_shape, generator=generator).to(parameter_dtype)
        return x, scale, offset


CASES = [
    Case("per_tensor", (7, 1003), ()),
    Case("per_tensor_unaligned", (7, 1003), (), layout="unaligned"),
    Case("per_tensor_long", (3, 100_003), ()),
    Case("one_element", (1,), ()),
    Case("no_element", (0, 4), (4,)),
    Case("channel_first", (6, 3, 5, 5), (6, 1, 1, 1)),
    Case("channel_second", (5, 6, 7, 7), (6, 1, 1)),
    Case("channel_last", (257, 33), (33,)),
    Case("channel_last_few_rows", (4, 513), (513,)),
    Case("channels_last", (3, 6, 7, 7), (6, 1, 1), layout="channels_last"),
    Case("transposed", (31, 17, 9), (17, 1), layout="transposed"),
    Case("sliced", (5, 6, 9), (6, 1), layout="sliced"),
    Case("two_axes", (6, 5, 4), (6, 1, 4)),
    Case("blocks", (12, 64), (12, 4), block_size=(1, 16)),
    Case("blocks_of_rows", (12, 10), (3, 10), block_size=(4, 1)),
    Case("blocks_both", (12, 64), (3, 4), block_size=(4, 16)),
]


def all_cases(test):  # type: ignore[no-untyped-def]
    by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
    return pytest.mark.cuda(by_case(by_dtype(test)))


def to_gpu(tensor: Tensor, gpu: torch.device) -> Tensor:
    """``tensor`` on the GPU with its strides, and as badly aligned."""
    if tensor.is_contiguous() and tensor.storage_offset() == 1:
        base = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype, device=gpu)
        return base[1:].view(tensor.shape).copy_(tensor)
    return tensor.to(gpu)


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    """Equal bits, strides and dtype; a NaN equals any other NaN."""
    assert actual.is_cuda
    assert actual.dtype == expected.dtype
    assert actual.stride() == expected.stride()
    found = actual.cpu()
    if expected.is_floating_point():
        width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
        assert torch.equal(found.isnan(), expected.isnan())
        found, expected = found.nan_to_num(7.0), expected.nan_to_num(7.0)
        found, expected = found.contiguous().view(width), expected.contiguous().view(width)
    different = (found != expected).sum().item()
    assert different == 0, f"{different} of {expected.numel()} values differ"


def test_cuda_kernels_are_registered_when_they_are_built_in() -> None:
    for name in CUDA_OPERATORS:
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key(f"aimet::{name}", "CUDA")
        assert has_kernel == ops.build_info()["cuda"], name


@all_cases
def test_forward(gpu: torch.device, case: Case, dtype: torch.dtype) -> None:
    x, scale, offset = case.tensors(dtype)
    on_gpu = [to_gpu(tensor, gpu) for tensor in (x, scale, offset)]
    block = case.block_size
    for op, grid in [
        (OPERATORS.quantize, GRID),
        (OPERATORS.dequantize, ()),
        (OPERATORS.quantize_dequantize, GRID),
    ]:
        assert_same_bits(op(*on_gpu, *grid, block), op(x, scale, offset, *grid, block))


@all_cases
def test_mask(gpu: torch.device, case: Case, dtype: torch.dtype) -> None:
    x, scale, offset = case.tensors(dtype)
    on_gpu = [to_gpu(tensor, gpu) for tensor in (x, scale, offset)]
    output, mask = OPERATORS._quantize_dequantize_mask(x, scale, offset, *GRID, case.block_size)
    found = OPERATORS._quantize_dequantize_mask(*on_gpu, *GRID, case.block_size)
    assert_same_bits(found[0], output)
    assert_same_bits(found[1], mask)
    grad = torch.randn_like(output)
    assert_same_bits(
        OPERATORS._quantize_dequantize_mask_backward(grad.to(gpu), found[1]),
        OPERATORS._quantize_dequantize_mask_backward(grad, mask),
    )


@all_cases
def test_backward(gpu: torch.device, case: Case, dtype: torch.dtype) -> None:
    """Sums too: CPU and CUDA add in the same order."""
    x, scale, offset = case.tensors(dtype)
    x = x.nan_to_num(0.5)  # a NaN would swallow the sums that it is part of
    grad = torch.randn_like(x)
    for wanted in ([True, True, True], [False, True, False], [True, False, False]):
        expected = OPERATORS._quantize_dequantize_backward(
            grad, x, scale, offset, *GRID, case.block_size, wanted
        )
        on_gpu = [to_gpu(tensor, gpu) for tensor in (grad, x, scale, offset)]
        found = OPERATORS._quantize_dequantize_backward(*on_gpu, *GRID, case.block_size, wanted)
        for actual, reference in zip(found, expected, strict=True):
            assert_same_bits(actual, reference)


@all_cases
def test_min_max(gpu: torch.device, case: Case, dtype: torch.dtype) -> None:
    x, scale, _ = case.tensors(dtype)
    expected = OPERATORS.min_max(x, scale.shape, case.block_size)
    found = OPERATORS.min_max(to_gpu(x, gpu), scale.shape, case.block_size)
    for actual, reference in zip(found, expected, strict=True):
        assert_same_bits(actual, reference)


@all_cases
@pytest.mark.parametrize("bins", [7, 2048, 2049])
def test_histogram(gpu: torch.device, case: Case, dtype: torch.dtype, bins: int) -> None:
    x, scale, _ = case.tensors(dtype)
    low, high = -scale, 2 * scale
    expected = torch.ones(*scale.shape, bins, dtype=torch.int64)
    actual = expected.to(gpu)
    on_gpu = [to_gpu(tensor, gpu) for tensor in (x, low, high)]
    OPERATORS.update_histogram_(expected, x, low, high, case.block_size)
    OPERATORS.update_histogram_(actual, *on_gpu, case.block_size)
    assert_same_bits(actual, expected)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
def test_encoding_from_range(gpu: torch.device, dtype: torch.dtype, symmetric: bool) -> None:
    low = (-torch.rand(1000, dtype=torch.float64)).to(dtype)
    high = torch.rand(1000, dtype=torch.float64).to(dtype)
    grid = (-128, 127) if symmetric else (0, 255)
    expected = OPERATORS.encoding_from_range(low, high, *grid, symmetric)
    found = OPERATORS.encoding_from_range(low.to(gpu), high.to(gpu), *grid, symmetric)
    for actual, reference in zip(found, expected, strict=True):
        assert_same_bits(actual, reference)


@pytest.mark.cuda
@pytest.mark.parametrize("learned", [False, True])
def test_autograd(gpu: torch.device, learned: bool) -> None:
    case = next(case for case in CASES if case.name == "channel_second")
    gradients = []
    for device in (torch.device("cpu"), gpu):
        x, scale, offset = (t.nan_to_num(0.5).to(device) for t in case.tensors(torch.float32))
        leaves = [x.requires_grad_()]
        if learned:
            leaves += [scale.requires_grad_(), offset.requires_grad_()]
        weight = torch.linspace(-1, 1, x.numel()).view(x.shape).to(device)
        output = ops.quantize_dequantize(x, scale, offset, *GRID)
        gradients.append(torch.autograd.grad((output * weight).nan_to_num(posinf=0).sum(), leaves))
    for expected, actual in zip(*gradients, strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.cuda
def test_runs_on_the_current_stream(gpu: torch.device) -> None:
    x = torch.randn(1 << 22, device=gpu)
    scale, offset = torch.tensor(0.1, device=gpu), torch.tensor(0.0, device=gpu)
    expected = ops.quantize_dequantize(x, scale, offset, *GRID)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # on another stream the kernel would not wait for this copy
        y = torch.zeros_like(x).copy_(x)
        actual = ops.quantize_dequantize(y, scale, offset, *GRID)
    stream.synchronize()
    assert torch.equal(actual, expected)


@pytest.mark.cuda
def test_is_captured_in_a_graph(gpu: torch.device) -> None:
    """No operator of a forward or a calibration waits for the device."""
    x = torch.randn(8, 33, device=gpu)
    low, high = torch.full((33,), -1.0, device=gpu), torch.full((33,), 2.0, device=gpu)
    histogram = torch.zeros(33, 16, dtype=torch.int64, device=gpu)

    def step() -> Tensor:
        scale, offset = ops.encoding_from_range(low, high, 0, 255, symmetric=False)
        ops.update_histogram_(histogram, x, low, high)
        return ops.quantize_dequantize(x, scale, offset, 0, 255)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()
    histogram.zero_()
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(output, step())
    assert histogram.sum().item() == 2 * x.numel()


@pytest.mark.cuda
def test_is_the_same_in_every_run(gpu: torch.device) -> None:
    x = torch.randn(64, 128, 28, 28, device=gpu)
    grad = torch.randn_like(x)
    scale, offset = torch.rand(128, 1, 1, device=gpu) + 0.1, torch.zeros(128, 1, 1, device=gpu)

    def gradients() -> tuple[Tensor, ...]:
        return OPERATORS._quantize_dequantize_backward(
            grad, x, scale, offset, *GRID, None, [True, True, True]
        )

    first = gradients()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))


@pytest.mark.cuda
def test_has_64_bit_indices(gpu: torch.device) -> None:
    count = (1 << 31) + 17
    if torch.cuda.mem_get_info(gpu)[0] < 8 * count:
        pytest.skip("needs 16 GiB of free GPU memory")
    x = torch.zeros(count, dtype=torch.float16, device=gpu)
    x[-3:] = torch.tensor([1.26, -9.0, 0.5])
    scale, offset = torch.tensor(0.5, device=gpu), torch.tensor(0.0, device=gpu)
    output = ops.quantize_dequantize(x, scale, offset, *GRID)
    assert output[-3:].tolist() == [1.5, -4.0, 0.5]
    low, high = ops.min_max(x, ())
    assert (low.item(), high.item()) == (-9.0, torch.tensor(1.26, dtype=torch.float16).item())
    histogram = torch.zeros(2, dtype=torch.int64, device=gpu)
    ops.update_histogram_(histogram, x, low, high)
    assert histogram.sum().item() == count


@pytest.mark.cuda
def test_arguments_on_different_devices_are_an_error(gpu: torch.device) -> None:
    x, scale, offset = torch.randn(4, 3), torch.ones(3), torch.zeros(3)
    with pytest.raises(ValueError, match=r"quantize: `scale` must be on the device of `input`"):
        OPERATORS.quantize(x.to(gpu), scale, offset.to(gpu), *GRID)
    with pytest.raises(ValueError, match=r"quantize: `offset` must be on the device of `input`"):
        OPERATORS.quantize(x.to(gpu), scale.to(gpu), offset, *GRID)
    with pytest.raises(ValueError, match=r"quantize: `input` must be on the CUDA device"):
        OPERATORS.quantize(x, scale.to(gpu), offset.to(gpu), *GRID)
    histogram = torch.zeros(3, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"`histogram` must be on the device of `input`"):
        OPERATORS.update_histogram_(histogram, x.to(gpu), -scale.to(gpu), scale.to(gpu))
    # A scalar may stay on the host, as in torch's own operators.
    zero = torch.tensor(0.0)
    found = OPERATORS.quantize(x.to(gpu), torch.tensor(0.5), zero, *GRID)
    assert_same_bits(found, OPERATORS.quantize(x, torch.tensor(0.5), zero, *GRID))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["quantize", "dequantize", "quantize_dequantize"])
def test_opcheck(gpu: torch.device, name: str) -> None:
    x, scale, offset = (t.to(gpu) for t in CASES[0].tensors(torch.float32))
    grid = () if name == "dequantize" else GRID
    torch.library.opcheck(getattr(OPERATORS, name), (x.requires_grad_(), scale, offset, *grid))
