"""The table of quantized classes: complete, and each computes what its original computes."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import aimet_torch.nn as qnn
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantization.affine import QuantizeDequantize

IMAGE = torch.linspace(-2, 2, 2 * 4 * 6 * 6).reshape(2, 4, 6, 6)
SIGNAL = IMAGE[:, :, 0]  # (2, 4, 6)
VOLUME = torch.linspace(-1, 1, 2 * 4 * 4 * 4 * 4).reshape(2, 4, 4, 4, 4)
ROWS = torch.linspace(-1, 1, 12).reshape(3, 4)
SEQUENCE = torch.linspace(-1, 1, 5 * 2 * 4).reshape(5, 2, 4)
INDICES = torch.tensor([[0, 2], [1, 1]])
LABELS = torch.tensor([0, 1, 3])
SIGNS = torch.tensor([1.0, -1.0, 1.0])
PROBABILITIES = ROWS.sigmoid()


def pool_indices(dims):
    data = {1: SIGNAL, 2: IMAGE, 3: VOLUME}[dims]
    pool = getattr(nn, f"MaxPool{dims}d")(2, return_indices=True)
    return pool(data)


# Class name -> (constructor arguments, inputs); those with neither are called with IMAGE.
SAMPLES: dict[str, tuple[tuple, tuple]] = {
    **{f"AdaptiveAvgPool{d}d": ((2,), ()) for d in (1, 2, 3)},
    **{f"AdaptiveMaxPool{d}d": ((2,), ()) for d in (1, 2, 3)},
    **{f"{kind}Pool{d}d": ((2,), ()) for kind in ("Avg", "Max") for d in (1, 2, 3)},
    **{f"LPPool{d}d": ((2, 2), ()) for d in (1, 2, 3)},
    **{f"BatchNorm{d}d": ((4,), ()) for d in (1, 2, 3)},
    **{f"InstanceNorm{d}d": ((4,), ()) for d in (1, 2, 3)},
    **{f"Conv{d}d": ((4, 6, 3), ()) for d in (1, 2, 3)},
    **{f"ConvTranspose{d}d": ((4, 6, 3, 2), ()) for d in (1, 2, 3)},
    **{f"Dropout{d}d": ((), ()) for d in (1, 2, 3)},
    **{f"MaxUnpool{d}d": ((2,), pool_indices(d)) for d in (1, 2, 3)},
    **{f"ConstantPad{d}d": ((1, 0.5), ()) for d in (1, 2, 3)},
    **{
        f"{kind}Pad{d}d": ((1,), ())
        for kind in ("Circular", "Reflection", "Replication", "Zero")
        for d in (1, 2, 3)
    },
    "BCELoss": ((), (PROBABILITIES, torch.ones(3, 4))),
    "BCEWithLogitsLoss": ((), (ROWS, torch.ones(3, 4))),
    "Bilinear": ((4, 4, 5), (ROWS, ROWS)),
    "CTCLoss": (
        (),
        (
            SEQUENCE.log_softmax(2),
            torch.ones(2, 2, dtype=torch.long),
            torch.tensor([5, 5]),
            torch.tensor([2, 2]),
        ),
    ),
    "ChannelShuffle": ((2,), ()),
    "CosineEmbeddingLoss": ((), (ROWS, ROWS + 1, SIGNS)),
    "CosineSimilarity": ((), (ROWS, ROWS + 1)),
    "CrossEntropyLoss": ((), (ROWS, LABELS)),
    "Embedding": ((3, 4), (INDICES,)),
    "EmbeddingBag": ((3, 4), (INDICES,)),
    "Flatten": ((), ()),
    "Fold": (((6, 6), 2), (torch.randn(1, 8, 25, generator=torch.Generator().manual_seed(0)),)),
    "FractionalMaxPool2d": ((2, 3, None, False, torch.full((2, 4, 2), 0.5)), ()),
    "FractionalMaxPool3d": ((2, 2, None, False, torch.full((2, 4, 3), 0.5)), (VOLUME,)),
    "GRU": ((4, 3), (SEQUENCE,)),
    "GRUCell": ((4, 3), (ROWS,)),
    "GaussianNLLLoss": ((), (ROWS, ROWS + 1, torch.ones(3, 4))),
    "GroupNorm": ((2, 4), ()),
    "HingeEmbeddingLoss": ((), (ROWS, torch.ones(3, 4))),
    "HuberLoss": ((), (ROWS, ROWS + 1)),
    "KLDivLoss": ((), (ROWS.log_softmax(1), PROBABILITIES)),
    "L1Loss": ((), (ROWS, ROWS + 1)),
    "LSTM": ((4, 3, 2), (SEQUENCE,)),
    "LSTMCell": ((4, 3), (ROWS,)),
    "LayerNorm": ((6,), ()),
    "Linear": ((6, 3), ()),
    "NonDynamicallyQuantizableLinear": ((6, 3), ()),
    "LocalResponseNorm": ((2,), ()),
    "MSELoss": ((), (ROWS, ROWS + 1)),
    "MarginRankingLoss": ((), (ROWS[:, 0], ROWS[:, 1], SIGNS)),
    "MultiLabelMarginLoss": ((), (ROWS, torch.tensor([[0, -1, 0, 0]] * 3))),
    "MultiLabelSoftMarginLoss": ((), (ROWS, torch.ones(3, 4))),
    "MultiMarginLoss": ((), (ROWS, LABELS)),
    "MultiheadAttention": ((4, 2), (SEQUENCE, SEQUENCE, SEQUENCE)),
    "NLLLoss": ((), (ROWS.log_softmax(1), LABELS)),
    "NLLLoss2d": ((), (IMAGE.log_softmax(1), torch.zeros(2, 6, 6, dtype=torch.long))),
    "PairwiseDistance": ((), (ROWS, ROWS + 1)),
    "PixelShuffle": ((2,), ()),
    "PixelUnshuffle": ((2,), ()),
    "PoissonNLLLoss": ((), (ROWS, PROBABILITIES)),
    "RMSNorm": ((6,), ()),
    "RNN": ((4, 3), (SEQUENCE,)),
    "RNNCell": ((4, 3), (ROWS,)),
    "SmoothL1Loss": ((), (ROWS, ROWS + 1)),
    "SoftMarginLoss": ((), (ROWS, torch.ones(3, 4))),
    "SyncBatchNorm": ((4,), ()),
    "Softmax": ((1,), ()),
    "Softmin": ((1,), ()),
    "LogSoftmax": ((1,), ()),
    "Threshold": ((0.1, 0.2), ()),
    "TripletMarginLoss": ((), (ROWS, ROWS + 1, ROWS - 1)),
    "TripletMarginWithDistanceLoss": ((), (ROWS, ROWS + 1, ROWS - 1)),
    "Unflatten": ((1, (2, 2)), ()),
    "Unfold": ((2,), ()),
    "Upsample": ((12,), ()),
    "UpsamplingBilinear2d": ((12,), ()),
    "UpsamplingNearest2d": ((12,), ()),
}
NAMES = sorted(qnn.table.CLASSES)


def sample(name):
    """An original module in eval mode, and its inputs."""
    torch.manual_seed(0)
    original_name = name.removeprefix("Quantized")
    arguments, inputs = SAMPLES.get(original_name, ((), ()))
    quantized_cls = getattr(qnn, name)
    original_cls = QuantizationMixin.qcls_to_cls[quantized_cls]
    if not inputs:
        by_dims = {"1d": SIGNAL, "3d": VOLUME}
        inputs = (by_dims.get(original_name[-2:], IMAGE),)
    arguments = tuple(copy.deepcopy(a) for a in arguments)
    kwargs = {"_random_samples": arguments[4]} if original_name.startswith("Fraction") else {}
    if kwargs:
        arguments = arguments[:2]
    if original_name == "NLLLoss2d":
        with pytest.warns(FutureWarning):
            return original_cls(*arguments), inputs
    return original_cls(*arguments, **kwargs).eval(), inputs


def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in value for tensor in flat(item)] if value is not None else []


@pytest.mark.parametrize("name", NAMES)
def test_without_quantizers_a_class_computes_the_same(name):
    module, inputs = sample(name)
    expected = flat(module(*inputs))
    quantized = QuantizationMixin.from_module(module)
    assert type(quantized) is getattr(qnn, name)
    assert isinstance(quantized, type(module))
    assert set(quantized.state_dict()) == set(module.state_dict())
    assert all(q is None for q in quantized.param_quantizers.values())
    for ours, theirs in zip(flat(quantized(*inputs)), expected, strict=True):
        assert torch.equal(ours, theirs)


def quantize_all(module, bits=16):
    """Give every input, output and parameter a quantizer."""
    is_loss = type(module).__name__.endswith("Loss")  # labels must stay what they are
    for container in (module.input_quantizers, module.output_quantizers):
        for index in range(1 if is_loss else len(container)):
            container[index] = QuantizeDequantize((), bits, False)
    for child in module.modules():
        if isinstance(child, QuantizationMixin):
            for key in child.param_quantizers:
                child.param_quantizers[key] = QuantizeDequantize((), bits, True)
    return module


def calibrate(module, inputs):
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # integer and absent inputs leave their quantizer without data
        with qnn.compute_encodings(module):
            module(*inputs)


@pytest.mark.parametrize("name", NAMES)
def test_with_sixteen_bits_a_class_computes_nearly_the_same(name):
    module, inputs = sample(name)
    expected = flat(module(*inputs))
    quantized = quantize_all(QuantizationMixin.from_module(module))
    raw = {key: value.clone() for key, value in module.state_dict().items()}
    calibrate(quantized, inputs)
    outputs = flat(quantized(*inputs))
    for ours, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
    for key, value in quantized.get_original_module().state_dict().items():
        assert torch.equal(value, raw[key])  # the parameters stay raw
    floats = [q for q in quantized.output_quantizers if q is not None and q.is_initialized()]
    for quantizer, tensor in zip(floats, outputs, strict=False):
        assert torch.equal(quantizer.simulate(tensor), tensor)  # on the grid of the output


@pytest.mark.parametrize(
    "copy_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize(
    "name", ["QuantizedConv2d", "QuantizedLSTM", "QuantizedMultiheadAttention"]
)
def test_copies_are_independent_and_equal(name, copy_of):
    module, inputs = sample(name)
    quantized = quantize_all(QuantizationMixin.from_module(module), bits=8)
    calibrate(quantized, inputs)
    again = copy_of(quantized)
    assert type(again) is type(quantized)
    for ours, theirs in zip(flat(again(*inputs)), flat(quantized(*inputs)), strict=True):
        assert torch.equal(ours, theirs)
    with torch.no_grad():
        next(again.parameters()).add_(1.0)
    assert not torch.equal(next(again.parameters()), next(quantized.parameters()))


def test_fake_quantized_names_are_the_same_classes():
    assert qnn.FakeQuantizedConv2d is qnn.QuantizedConv2d
    assert set(qnn.__all__) <= set(dir(qnn))


def test_constructing_a_quantized_class():
    module = qnn.QuantizedConv2d(3, 4, 3, padding=1, bias=False)
    assert (len(module.input_quantizers), len(module.output_quantizers)) == (1, 1)
    assert list(module.param_quantizers) == ["weight"]
    assert "QuantizedConv2d" in repr(module)


def test_packed_sequences():
    lstm = nn.LSTM(4, 3)
    quantized = QuantizationMixin.from_module(lstm)
    quantized.param_quantizers["weight_ih_l0"] = QuantizeDequantize((), 16, True)
    quantized.output_quantizers[0] = QuantizeDequantize((), 16, False)
    packed = pack_padded_sequence(SEQUENCE, torch.tensor([5, 3]))
    with quantized.compute_encodings():
        quantized(packed)
    ours, theirs = quantized(packed)[0], lstm(packed)[0]
    assert type(ours) is type(theirs)
    assert not torch.equal(ours.data, theirs.data)
    torch.testing.assert_close(ours.data, theirs.data, rtol=1e-3, atol=1e-3)
    assert torch.equal(ours.batch_sizes, theirs.batch_sizes)


def test_recurrent_weights_are_read_again_after_replacement():
    lstm = qnn.QuantizedLSTM(4, 3)
    lstm.param_quantizers["weight_hh_l0"] = QuantizeDequantize((), 8, True)
    lstm(SEQUENCE)
    with torch.no_grad():
        lstm.weight_ih_l0 = nn.Parameter(torch.zeros_like(lstm.weight_ih_l0))
        lstm.bias_ih_l0.zero_()
        lstm.bias_hh_l0.zero_()
    output, _ = lstm(SEQUENCE)
    assert torch.equal(output, torch.zeros_like(output))


def test_attention_uses_the_quantized_output_projection():
    attention = nn.MultiheadAttention(4, 2).eval()
    quantized = QuantizationMixin.from_module(attention)
    assert type(attention.out_proj).__name__ == "NonDynamicallyQuantizableLinear"
    quantized.out_proj.param_quantizers["weight"] = QuantizeDequantize((), 2, True)
    output = quantized(SEQUENCE, SEQUENCE, SEQUENCE)[0]
    assert not torch.equal(output, attention(SEQUENCE, SEQUENCE, SEQUENCE)[0])
    original = quantized.get_original_module()
    assert type(original.out_proj).__name__ == "NonDynamicallyQuantizableLinear"
    assert set(original.state_dict()) == set(attention.state_dict())
