"""Tensors with an encoding: what keeps it, what loses it."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from aimet_torch.quantization import DequantizedTensor, EncodingError, QuantizedTensor
from aimet_torch.quantization.affine import AffineEncoding, Quantize, QuantizeDequantize


def make(shape=(), data_shape=(4, 6)):
    torch.manual_seed(0)
    data = torch.randn(data_shape)
    quantizer = QuantizeDequantize(shape, 8, True)
    with quantizer.compute_encodings():
        quantizer(data)
    return quantizer(data)


MOVES = {
    "reshape": lambda t: t.reshape(-1),
    "view": lambda t: t.view(6, 4),
    "flatten": torch.flatten,
    "transpose": lambda t: t.transpose(0, 1),
    "permute": lambda t: torch.permute(t, (1, 0)),
    "T": lambda t: t.T,
    "index": lambda t: t[1:, ::2],
    "unsqueeze": lambda t: t.unsqueeze(0),
    "expand": lambda t: t.unsqueeze(0).expand(3, -1, -1),
    "flip": lambda t: t.flip(0),
    "gather": lambda t: t.gather(1, torch.zeros(4, 1, dtype=torch.long)),
    "index_select": lambda t: t.index_select(0, torch.tensor([1, 1])),
    "embedding": lambda t: torch.nn.functional.embedding(torch.tensor([2, 0]), t),
}
KEEPS = {
    "clone": lambda t: t.clone(),
    "detach": lambda t: t.detach(),
    "contiguous": lambda t: t.contiguous(),
    "double": lambda t: t.double(),
    "to": lambda t: t.to(torch.float64),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_moving_values_keeps_a_per_tensor_encoding(move):
    tensor = make()
    moved = move(tensor)
    assert isinstance(moved, DequantizedTensor)
    expected = move(tensor.quantized_repr().float())
    assert torch.equal(moved.quantized_repr().float(), expected)
    assert torch.equal(move(tensor.quantize()).dequantize(), moved)


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_moving_values_loses_a_per_channel_encoding(move):
    moved = move(make((4, 1)))
    with pytest.raises(EncodingError, match="`encoding` is None"):
        moved.quantize()


@pytest.mark.parametrize("keep", KEEPS.values(), ids=KEEPS)
@pytest.mark.parametrize("shape", [(), (4, 1)])
def test_copies_keep_any_encoding(keep, shape):
    tensor = make(shape)
    assert torch.equal(keep(tensor).quantized_repr(), tensor.quantized_repr())


def test_split_and_unbind_return_encoded_pieces():
    tensor = make()
    for pieces in (tensor.split(2), torch.unbind(tensor), tensor.chunk(2, 1)):
        assert all(isinstance(piece, DequantizedTensor) for piece in pieces)
        assert all(piece.encoding is tensor.encoding for piece in pieces)


@pytest.mark.parametrize(
    "operation",
    [lambda t: t + 1, lambda t: t * t, torch.relu, torch.sum, lambda t: t @ t.T, lambda t: t > 0],
)
def test_arithmetic_gives_plain_tensors(operation):
    result = operation(make())
    assert type(result) is torch.Tensor
    plain = make().as_subclass(torch.Tensor)
    assert torch.equal(result, operation(plain))


def test_plain_tensor_first_gives_plain_tensors():
    tensor = make()
    assert type(torch.ones(4, 6) + tensor) is torch.Tensor
    assert type(torch.nn.functional.linear(torch.ones(2, 6), tensor)) is torch.Tensor


@pytest.mark.parametrize("shape", [(), (4, 1)])
@pytest.mark.parametrize(
    ("operation", "factor"), [(lambda t: t * 2.5, 2.5), (lambda t: t / 4, 0.25)]
)
def test_scaling_scales_the_encoding(shape, operation, factor):
    tensor = make(shape)
    scaled = operation(tensor)
    torch.testing.assert_close(scaled.encoding.scale, tensor.encoding.scale * factor)
    assert torch.equal(scaled.quantized_repr(), tensor.quantized_repr())


def test_scaling_by_a_negative_number_gives_a_plain_tensor():
    assert type(make() * -1.0) is torch.Tensor


def test_in_place_arithmetic_invalidates_the_encoding():
    tensor = make().detach()
    tensor.add_(1)
    with pytest.raises(EncodingError, match="quantize the result again"):
        tensor.quantize()
    tensor = make().detach()
    tensor[0, 0] = 99.0
    assert tensor.encoding is None


def test_quantize_and_dequantize_are_idempotent():
    tensor = make()
    integers = tensor.quantize()
    assert isinstance(integers, QuantizedTensor)
    assert integers.quantize() is integers
    assert tensor.dequantize() is tensor
    assert torch.equal(integers.dequantize(), tensor)


@pytest.mark.parametrize(
    ("qmin", "qmax", "dtype"),
    [
        (-8, 7, torch.int8),
        (0, 255, torch.uint8),
        (-128, 127, torch.int8),
        (-32768, 32767, torch.int16),
        (0, 65535, torch.int32),
        (0, 2**32 - 1, torch.int64),
    ],
)
def test_integer_representation_has_the_smallest_dtype(qmin, qmax, dtype):
    encoding = AffineEncoding(torch.tensor(0.5), torch.tensor(0.0), qmin, qmax)
    tensor = DequantizedTensor(torch.tensor([0.5, 1.0]), encoding=encoding)
    assert tensor.quantized_repr().dtype == dtype
    assert tensor.quantized_repr().tolist() == [1, 2]


def test_integers_cannot_be_an_encoded_tensor():
    with pytest.raises(TypeError, match=r"must be floating-point, got torch.int64"):
        QuantizedTensor(torch.arange(3))


def test_deepcopy_and_pickle():
    tensor = make((4, 1)).detach()
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    buffer.seek(0)
    for again in (copy.deepcopy(tensor), torch.load(buffer, weights_only=False)):
        assert isinstance(again, DequantizedTensor)
        assert torch.equal(again.quantized_repr(), tensor.quantized_repr())
        assert again.data_ptr() != tensor.data_ptr()


def test_gradient_flows_through():
    x = torch.tensor([0.3, 0.6], requires_grad=True)
    quantizer = QuantizeDequantize((), 8, True)
    quantizer.set_range(-1.0, 1.0)
    output = quantizer(x).reshape(1, 2).quantize().dequantize()
    output.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_encoding_moves_to_another_dtype():
    encoding = make((4, 1)).encoding
    assert encoding.to(torch.float64).scale.dtype == torch.float64
    with pytest.raises(TypeError, match=r"`dtype` must be floating-point, got torch.int32"):
        encoding.to(torch.int32)


def test_example_of_aimets_documentation():
    quantizer = Quantize(shape=(2, 1), bitwidth=8, symmetric=True)
    x = torch.tensor([[-1.20, 4.1, -0.21, 2.3], [0.2, 5.6, -1.0, -0.1]])
    with quantizer.compute_encodings():
        x_q = quantizer(x)
    assert torch.equal(x_q.encoding.scale, quantizer.get_scale())
    assert repr(x_q).startswith("QuantizedTensor([[-37., 127.,  -7.,  71.]")
    assert x_q.quantized_repr().tolist() == [[-37, 127, -7, 71], [5, 127, -23, -2]]
    assert x_q.quantized_repr().dtype == torch.int8
    expected = [[-1.1945, 4.1, -0.2260, 2.2921], [0.2205, 5.6, -1.0142, -0.0882]]
    torch.testing.assert_close(
        x_q.dequantize().as_subclass(torch.Tensor).detach(),
        torch.tensor(expected),
        atol=5e-5,
        rtol=0,
    )
