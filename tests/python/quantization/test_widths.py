"""Integer grids of every width, alone and in blocks with one or two levels of scales."""

from __future__ import annotations

import pytest
import torch

from aimet_torch.quantization.affine import GroupedBlockQuantizeDequantize, QuantizeDequantize


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bitwidth", range(2, 17))
@pytest.mark.parametrize(("shape", "block_size"), [((), None), ((6, 1), None), ((6, 4), (1, 8))])
def test_every_width_from_two_to_sixteen_bits(bitwidth, symmetric, shape, block_size):
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(bitwidth))
    quantizer = QuantizeDequantize(shape, bitwidth, symmetric, block_size=block_size)
    with quantizer.compute_encodings():
        quantizer(x)
    output = quantizer(x)
    integers = output.quantized_repr()
    assert integers.min() >= quantizer.qmin
    assert integers.max() <= quantizer.qmax
    assert integers.unique().numel() > 2 ** min(bitwidth, 4) / 4
    scale = quantizer.get_scale().detach()
    if block_size is not None:
        scale = scale.repeat_interleave(8, 1)
    inside = quantizer.get_max().detach(), quantizer.get_min().detach()
    high, low = (e.repeat_interleave(8, 1) if block_size is not None else e for e in inside)
    error = (output.detach() - x.clamp(low, high)).abs()
    # Half a step, and float32's rounding of values that are up to 2^16 steps.
    assert bool((error <= scale * (0.5 + 2**-6)).all())


@pytest.mark.parametrize(("bitwidth", "decompressed"), [(2, 4), (2, 8), (4, 8), (8, 16)])
def test_grouped_blocks_of_every_width(bitwidth, decompressed):
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(bitwidth))
    quantizer = GroupedBlockQuantizeDequantize(
        (6, 4), bitwidth, True, decompressed, block_size=(1, 8), block_grouping=(1, 4)
    )
    with quantizer.compute_encodings():
        quantizer(x)
    raw = QuantizeDequantize((6, 4), bitwidth, True, block_size=(1, 8))
    raw.set_range(quantizer.min.detach(), quantizer.max.detach())
    r = raw.get_scale().detach()
    largest = 2 ** (decompressed - bitwidth)
    channel = r.amax(1, keepdim=True) / largest
    k = (r / channel).round().clamp(1, largest)
    assert torch.equal(quantizer.get_scale().detach(), k * channel)
    assert torch.equal(quantizer.get_encodings().per_block_int_scale, k)
    step = (k * channel).repeat_interleave(8, 1)
    codes = (x / step).round().clamp(quantizer.qmin, quantizer.qmax)
    assert torch.equal(quantizer(x).detach().as_subclass(torch.Tensor), codes * step)
