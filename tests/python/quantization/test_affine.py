"""Functions, encodings and quantizers of affine grids."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aimet_torch.quantization.affine import (
    AffineEncoding,
    Dequantize,
    GroupedBlockEncoding,
    GroupedBlockQuantizeDequantize,
    Quantize,
    QuantizeDequantize,
    dequantize,
    quantize,
    quantize_dequantize,
)
from aimet_torch.quantization.tensor import DequantizedTensor, QuantizedTensor


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def calibrated(*args, data, **kwargs):
    quantizer = QuantizeDequantize(*args, **kwargs)
    with quantizer.compute_encodings():
        quantizer(data)
    return quantizer


# -- argument forms --------------------------------------------------------------------------------

SCALE, OFFSET = torch.tensor(0.5), torch.tensor(0.0)
FORMS = [
    ((4,), {"signed": True}),
    ((4, True), {}),
    ((), {"bitwidth": 4, "signed": True}),
    ((), {"num_steps": 15, "signed": True}),
    ((-8, 7), {}),
    ((-8, 7, None), {}),
    ((), {"qmin": -8, "qmax": 7}),
]


@pytest.mark.parametrize(("args", "kwargs"), FORMS)
def test_every_form_of_a_grid_means_the_same(args, kwargs):
    x = torch.tensor([-9.0, -0.75, 0.25, 0.75, 9.0])
    assert quantize(x, SCALE, OFFSET, *args, **kwargs).tolist() == [-8, -2, 0, 2, 7]
    assert quantize_dequantize(x, SCALE, OFFSET, *args, **kwargs).tolist() == [-4, -1, 0, 1, 3.5]
    encoding = AffineEncoding(SCALE, OFFSET, *args[:2], **kwargs)
    assert (encoding.qmin, encoding.qmax, encoding.bitwidth, encoding.signed) == (-8, 7, 4, True)


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((), {}, TypeError, "got none of them"),
        ((8,), {"bitwidth": 8}, TypeError, "two values for `bitwidth`"),
        ((), {"bitwidth": 8, "qmin": 0, "qmax": 3}, TypeError, "unknown argument `bitwidth`"),
        ((), {"qmin": 0}, TypeError, "got qmin"),
        ((), {"bitwidth": 8, "bits": 3}, TypeError, "unknown argument `bits`"),
        ((8, False, None, 1), {}, TypeError, "at most 3 arguments"),
        ((2.5,), {}, TypeError, "`bitwidth` must be an integer, got 2.5"),
        ((0,), {}, ValueError, "`bitwidth` must be between 1 and 32, got 0"),
        ((33,), {}, ValueError, "`bitwidth` must be between 1 and 32, got 33"),
        ((5, 5), {}, ValueError, "`qmin` must be below `qmax`, got 5 and 5"),
        ((0, 2**32), {}, ValueError, "must fit 32 bits"),
    ],
)
def test_a_grid_that_makes_no_sense_is_an_error(args, kwargs, error, message):
    with pytest.raises(error, match=message):
        quantize(torch.ones(2), SCALE, OFFSET, *args, **kwargs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: QuantizeDequantize((), 8, True),
        lambda: QuantizeDequantize((), bitwidth=8, symmetric=True),
        lambda: QuantizeDequantize((), -128, 127, True),
        lambda: QuantizeDequantize((), qmin=-128, qmax=127, symmetric=True),
        lambda: QuantizeDequantize(shape=(), bitwidth=8, symmetric=True),
    ],
)
def test_constructor_forms(make):
    quantizer = make()
    assert (quantizer.qmin, quantizer.qmax, quantizer.symmetric) == (-128, 127, True)


def test_constructor_errors():
    with pytest.raises(TypeError, match="`symmetric` is missing"):
        QuantizeDequantize((), bitwidth=8)
    with pytest.raises(ValueError, match="`block_size` must have one entry"):
        QuantizeDequantize((2, 1), 8, True, block_size=(1,))
    with pytest.raises(ValueError, match=r"`zero_point_shift` must be 0 or 0.5, got 0.3"):
        QuantizeDequantize((), 2, True, zero_point_shift=0.3)
    with pytest.raises(TypeError, match="`encoding_analyzer` must be an EncodingAnalyzer"):
        QuantizeDequantize((), 8, True, encoding_analyzer="min_max")


def test_bitwidth_and_signedness_can_be_changed():
    quantizer = QuantizeDequantize((), 8, False)
    quantizer.bitwidth = 4
    assert (quantizer.qmin, quantizer.qmax) == (0, 15)
    quantizer.signed = True
    assert (quantizer.qmin, quantizer.qmax) == (-8, 7)
    quantizer.bitwidth = 8
    assert (quantizer.qmin, quantizer.qmax, quantizer.signed) == (-128, 127, True)


# -- values: aimet.md section 8 --------------------------------------------------------------------


def test_worked_example_of_an_asymmetric_grid():
    quantizer = QuantizeDequantize((), 8, False)
    quantizer.set_range(-1.0, 2.0)
    assert quantizer.get_scale().item() == pytest.approx(3 / 255)
    assert quantizer.get_offset().item() == -85
    output = quantizer(torch.tensor([-1.0, 0.004, 2.1]))
    assert output.quantized_repr().tolist() == [0, 85, 255]
    assert output.tolist() == pytest.approx([-1.0, 0.0, 2.0])


@pytest.mark.parametrize(
    ("bits", "symmetric", "scale", "offset", "low", "high"),
    [
        (4, False, 0.16, -9, -1.44, 0.96),
        (8, False, 0.00941176, -159, -1.4964706, 0.9035294),
        (16, False, 3.6621653e-5, -40959, -1.4999863, 0.9000137),
        (4, True, 0.1875, -8, -1.5, 1.3125),
        (8, True, 0.01171875, -128, -1.5, 1.4882813),
        (16, True, 4.5776367e-5, -32768, -1.5, 1.4999542),
    ],
)
def test_encodings_of_a_given_range(bits, symmetric, scale, offset, low, high):
    encoding = calibrated((), bits, symmetric, data=torch.tensor([-1.5, 0.3, 0.9])).get_encodings()
    assert encoding.scale.item() == pytest.approx(scale, rel=1e-5)
    assert encoding.unsigned_offset().item() == offset
    assert (encoding.min.item(), encoding.max.item()) == pytest.approx((low, high), rel=1e-5)
    assert encoding.mapping == "affine"
    assert encoding.granularity == "pertensor"


def test_shifted_grid_of_two_bits():
    x = torch.tensor([-2.0, -0.6, -0.1, 0.1, 0.9, 5.0])
    output = quantize_dequantize(
        x, torch.tensor(1.0), torch.tensor(0.0), 2, True, zero_point_shift=0.5
    )
    assert output.tolist() == [-1.5, -0.5, -0.5, 0.5, 0.5, 1.5]
    quantizer = QuantizeDequantize((), 2, True, zero_point_shift=0.5)
    quantizer.set_range(-2.0, 1.0)
    assert quantizer(x).tolist() == output.tolist()
    with pytest.raises(NotImplementedError, match=r"`zero_point_shift` must be 0, got 0.5"):
        quantizer(x).quantize()


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    bits=st.integers(2, 16),
    symmetric=st.booleans(),
    low=st.floats(-100, 100, width=32),
    width=st.floats(2**-10, 100, width=32),
)
def test_properties_of_a_calibrated_quantizer(bits, symmetric, low, width):
    data = torch.linspace(low, low + width, 37)
    quantizer = calibrated((), bits, symmetric, data=data)
    output = quantizer(data)
    scale = quantizer.get_scale().item()
    assert torch.equal(quantizer(output), output)  # idempotent
    assert quantizer(torch.zeros(1)).item() == 0.0  # zero is exact
    assert (output.diff() >= 0).all()  # monotonic
    integers = output.quantized_repr().long()
    assert integers.min() >= quantizer.qmin
    assert integers.max() <= quantizer.qmax
    # Half a step of rounding, half a step because zero was moved onto the grid, and rounding
    # errors of float32.
    assert (output - data).abs().max() <= scale * 1.001 + 1e-5 * (abs(low) + width)


# -- granularity -----------------------------------------------------------------------------------

GRANULARITIES = [
    ((3, 1, 1, 1), (3, 4, 2, 2), None),  # Conv2d weight, axis 0
    ((1, 4, 1, 1), (3, 4, 2, 2), None),  # ConvTranspose2d weight, axis 1
    ((6, 1), (6, 8), None),  # Linear weight
    ((6, 2), (6, 8), (1, 4)),  # blocks of a Linear weight
    ((6, 2), (6, 8), (1, -1)),
    ((3, 2, 1, 1), (3, 4, 2, 2), (1, 2, 2, 2)),  # blocks of a Conv2d weight
]


@pytest.mark.parametrize(("shape", "data_shape", "block_size"), GRANULARITIES)
def test_each_channel_or_block_has_its_own_grid(shape, data_shape, block_size):
    data = torch.randn(data_shape)
    quantizer = calibrated(shape, 4, True, block_size=block_size, data=data)
    output = quantizer(data)
    assert quantizer.get_scale().shape == shape
    assert output.encoding.granularity == ("blockwise" if block_size else "perchannel")
    for index in torch.cartesian_prod(*(torch.arange(size) for size in shape)).tolist():
        selection = tuple(
            slice(i * (size // count), (i + 1) * (size // count))
            for i, size, count in zip(index, data_shape, shape, strict=True)
        )
        alone = calibrated((), 4, True, data=data[selection])
        assert torch.equal(alone(data[selection]), output[selection])


def test_grouped_blocks_by_hand():
    # aimet.md section 8.3: raw scales [0.0031, 0.0160] and [0.0120, 0.0048] of 4 to 8 bits
    quantizer = GroupedBlockQuantizeDequantize(
        (2, 2), 4, True, 8, block_size=(1, 3), block_grouping=(1, -1)
    )
    raw = torch.tensor([[0.0031, 0.0160], [0.0120, 0.0048]])
    quantizer.set_range(raw * -8, raw * 7)
    encoding = quantizer.get_encodings()
    assert isinstance(encoding, GroupedBlockEncoding)
    assert encoding.per_block_int_scale.tolist() == [[3, 16], [16, 6]]
    expected = torch.tensor([[0.003, 0.016], [0.012, 0.0045]])
    torch.testing.assert_close(encoding.scale, expected)
    torch.testing.assert_close(quantizer.get_scale(), expected)
    entry = encoding.to_qnn_encoding_dict("1.0.0")
    assert entry["scale"] == pytest.approx([0.001, 0.00075])
    assert {k: entry[k] for k in ("enc_type", "bw", "compressed_bw", "block_size", "offset")} == {
        "enc_type": "LPBQ",
        "bw": 8,
        "compressed_bw": 4,
        "block_size": 3,
        "offset": [-128, -128],
    }
    assert entry["per_block_int_scale"] == [3, 16, 16, 6]
    again = GroupedBlockQuantizeDequantize.from_encodings(encoding)
    torch.testing.assert_close(again.get_scale(), quantizer.get_scale())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"symmetric": False}, "`symmetric` must be True"),
        ({"decompressed_bw": 3}, "`decompressed_bw` must be at least `bitwidth` 4, got 3"),
        ({"block_grouping": (1, 3)}, "-1 or a divisor"),
        ({"block_grouping": (1,)}, "-1 or a divisor"),
    ],
)
def test_grouped_blocks_errors(change, message):
    arguments = {
        "shape": (2, 4),
        "bitwidth": 4,
        "symmetric": True,
        "decompressed_bw": 8,
        "block_size": (1, 2),
        "block_grouping": (1, -1),
    }
    with pytest.raises(ValueError, match=message):
        GroupedBlockQuantizeDequantize(**{**arguments, **change})


# -- gradients -------------------------------------------------------------------------------------


def test_gradients_reach_input_and_range():
    quantizer = QuantizeDequantize((), 4, True)
    quantizer.set_range(-0.8, 0.7)
    x = torch.tensor([0.26, 5.0, -5.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [1.0, 0.0, 0.0]
    # scale = (max - min) / 15; d output / d scale = (3 - 2.6) + 7 - 8
    assert quantizer.max.grad.item() == pytest.approx((0.4 - 1) / 15, rel=1e-5)
    assert quantizer.min.grad.item() == pytest.approx(-(0.4 - 1) / 15, rel=1e-5)


# -- Quantize, Dequantize --------------------------------------------------------------------------


def test_quantize_then_dequantize_is_quantize_dequantize():
    x = torch.randn(3, 5)
    both, first, second = (c((), 8, False) for c in (QuantizeDequantize, Quantize, Dequantize))
    for quantizer in (both, first, second):
        quantizer.set_range(-1.0, 1.0)
    integers = first(x)
    assert isinstance(integers, QuantizedTensor)
    assert torch.equal(second(integers), both(x))
    plain = integers.as_subclass(torch.Tensor)
    assert torch.equal(second(plain), both(x))
    assert torch.equal(dequantize(plain, first.get_scale(), first.get_offset()), both(x))
    assert torch.equal(both(x).quantize(), integers)


def test_integers_pass_through():
    quantizer = calibrated((), 8, False, data=torch.randn(4))
    indices = torch.arange(3)
    assert quantizer(indices) is indices


# -- ranges ----------------------------------------------------------------------------------------


def test_quantizer_without_range_says_what_to_do():
    quantizer = QuantizeDequantize((), 8, False)
    assert quantizer.get_encodings() is None
    assert quantizer.get_scale() is None
    assert quantizer.get_min() is None
    with pytest.raises(RuntimeError, match=r"within `compute_encodings\(\)`, or call set_range"):
        quantizer(torch.ones(2))


def test_set_range_broadcasts_and_checks():
    quantizer = QuantizeDequantize((2, 1), 8, True)
    quantizer.set_range(-1.0, torch.tensor([[1.0], [2.0]]))
    assert quantizer.max.tolist() == [[1.0], [2.0]]
    quantizer.set_range(None, 3.0)
    assert (quantizer.min.tolist(), quantizer.max.tolist()) == ([[-1.0]] * 2, [[3.0]] * 2)
    with pytest.raises(ValueError, match="`min` must be finite, got"):
        quantizer.set_range(float("nan"), 1.0)
    with pytest.raises(ValueError, match=r"`min` must not exceed `max`, got 4.0 and 3.0 at 0"):
        quantizer.set_range(4.0, None)


def test_range_written_to_the_parameters_counts():
    quantizer = QuantizeDequantize((), 8, False)
    with torch.no_grad():
        quantizer.min.fill_(-1.0)
        quantizer.max.fill_(1.0)
    assert quantizer.is_initialized()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("block_size", [None, (1, 4)])
def test_round_trip_through_encodings(symmetric, block_size):
    shape = (6, 2) if block_size else (6, 1)
    data = torch.randn(6, 8)
    quantizer = calibrated(shape, 8, symmetric, block_size=block_size, data=data)
    again = QuantizeDequantize.from_encodings(quantizer.get_encodings())
    torch.testing.assert_close(again(data), quantizer(data))
    assert again.block_size == block_size


def test_legacy_encodings_round_trip():
    data = torch.randn(3, 4)
    quantizer = calibrated((3, 1), 4, True, data=data)
    entries = quantizer.get_legacy_encodings()
    assert [e["offset"] for e in entries] == [-8, -8, -8]
    assert {e["is_symmetric"] for e in entries} == {"True"}
    again = QuantizeDequantize((3, 1), 8, False)
    again.set_legacy_encodings(entries)
    torch.testing.assert_close(again(data), quantizer(data))


def test_version_1_0_0_entries():
    per_tensor = calibrated((), 8, False, data=torch.tensor([-1.0, 2.0])).get_encodings()
    assert per_tensor.to_qnn_encoding_dict("1.0.0") == {
        "enc_type": "PER_TENSOR",
        "dtype": "INT",
        "bw": 8,
        "is_sym": False,
        "scale": pytest.approx([3 / 255]),
        "offset": [-85],
    }
    per_block = calibrated((2, 2), 4, True, block_size=(1, 2), data=torch.randn(2, 4))
    entry = per_block.get_encodings().to_qnn_encoding_dict("1.0.0")
    assert (entry["enc_type"], entry["block_size"], entry["offset"]) == ("PER_BLOCK", 2, [-8] * 4)
    with pytest.raises(NotImplementedError, match="`encoding_version` must be"):
        per_tensor.to_qnn_encoding_dict("3.0")


# -- state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copy_of",
    [copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q))],
    ids=["deepcopy", "pickle"],
)
def test_copies_keep_the_range(copy_of):
    quantizer = calibrated((3, 1), 4, True, data=torch.randn(3, 5))
    again = copy_of(quantizer)
    x = torch.randn(3, 5)
    assert torch.equal(again(x), quantizer(x))
    with torch.no_grad():
        again.max.mul_(2)
    assert not torch.equal(again(x), quantizer(x))


def test_state_dict_round_trip_with_weights_only():
    source = torch.nn.ModuleList(
        [calibrated((), 8, False, data=torch.randn(5)), QuantizeDequantize((), 8, False)]
    )
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    target = torch.nn.ModuleList([QuantizeDequantize((), 8, False) for _ in range(2)])
    target.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert [q.is_initialized() for q in target] == [True, False]
    assert target[0].get_scale() == source[0].get_scale()


def test_state_dict_of_aimet_loads():
    state = {
        "min": torch.tensor(-1.0),
        "max": torch.tensor(1.0),
        "_extra_state": {"min": torch.tensor(True), "max": torch.tensor(True)},
    }
    quantizer = QuantizeDequantize((), 8, False)
    quantizer.load_state_dict(state)
    assert quantizer.is_initialized()


def test_frozen_range_survives_calibration_and_loading():
    quantizer = calibrated((), 8, False, data=torch.tensor([-1.0, 1.0]))
    quantizer.allow_overwrite(False)
    before = quantizer.get_scale().item()
    x = torch.tensor([100.0])
    with quantizer.compute_encodings():
        inside = quantizer(x)
    assert inside.item() == pytest.approx(1.0, abs=0.01)  # quantizes as ever
    quantizer.load_state_dict({"min": torch.tensor(-9.0), "max": torch.tensor(9.0)})
    assert quantizer.get_scale().item() == before
    quantizer.allow_overwrite(True)
    quantizer.load_state_dict({"min": torch.tensor(-9.0), "max": torch.tensor(9.0)})
    assert quantizer.get_scale().item() == pytest.approx(18 / 255)


def test_one_end_can_be_frozen():
    quantizer = calibrated((), 8, False, data=torch.tensor([-1.0, 1.0]))
    quantizer.allow_overwrite(min=False)
    assert quantizer.is_overwrite_allowed()
    assert not quantizer.is_overwrite_allowed("min")
    with quantizer.compute_encodings():
        quantizer(torch.tensor([-7.0, 5.0]))
    assert (quantizer.min.item(), quantizer.max.item()) == (-1.0, 5.0)
    with pytest.raises(TypeError, match="names among min, max, got scale"):
        quantizer.allow_overwrite(scale=True)


def test_freeze_takes_the_gradient_too():
    quantizer = calibrated((), 8, False, data=torch.tensor([-1.0, 1.0]))
    quantizer.freeze()
    assert not quantizer.min.requires_grad
    assert not quantizer.is_overwrite_allowed()
    assert "frozen=True" in repr(quantizer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_keep_exact_ranges(dtype):
    quantizer = calibrated((), 16, False, data=torch.tensor([-1.2345, 0.777]))
    scale = quantizer.get_scale().item()
    quantizer.to(dtype)
    assert quantizer.get_scale().item() == scale
    x = torch.randn(5).to(dtype)
    assert quantizer(x).dtype == dtype
    quantizer.double()
    assert quantizer.min.dtype == torch.float64


def test_quantizer_returns_tensors_with_encoding():
    output = calibrated((), 8, False, data=torch.randn(4))(torch.randn(4))
    assert isinstance(output, DequantizedTensor)
    assert output.encoding.bitwidth == 8
