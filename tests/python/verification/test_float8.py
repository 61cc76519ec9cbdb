"""Float8 in QDQ files: compared in numbers of the format."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

import aimet_torch
from aimet_torch.export import onnx_qdq
from aimet_torch.quantization.float import FloatQuantizeDequantize
from aimet_torch.verification.qdq_file import Float8Pair, QdqFile
from tests.python.verification.networks import simulated

FORMATS = {torch.float8_e4m3fn: "FLOAT8E4M3FN", torch.float8_e5m2: "FLOAT8E5M2"}


def with_float8(dtype):
    """A small network with every quantizer of the format."""
    sim, inputs = simulated("conv_net")
    sim.model.stem[1].weight.data[::3] *= -0.7  # folded into the convolution, with its sign
    for module in sim.qmodules():
        for quantizers in (module.input_quantizers, module.output_quantizers):
            for i, quantizer in enumerate(quantizers):
                if quantizer is not None:
                    quantizers[i] = FloatQuantizeDequantize(dtype=dtype)
        if dict(module.param_quantizers).get("weight") is not None:
            shape = [module.weight.shape[0], *[1] * (module.weight.dim() - 1)]
            module.param_quantizers["weight"] = FloatQuantizeDequantize(
                dtype=dtype, shape=tuple(shape)
            )
    sim.compute_encodings(inputs[:2])
    return sim, inputs


@pytest.fixture(scope="module", params=FORMATS, ids=str)
def network(request, tmp_path_factory):
    sim, inputs = with_float8(request.param)
    path = tmp_path_factory.mktemp("float8") / "net.onnx"
    onnx_qdq.export(sim, inputs[0], path)
    return sim, path, inputs


def test_every_group_is_compared(network):
    sim, path, inputs = network
    result = aimet_torch.verify(sim, path, inputs)
    assert result.ok, str(result)
    assert len(result.nodes) == 7
    for row in result.nodes:
        assert row.bitwidth == 8
        assert row.steps <= 1
        assert row.chain_equal is not None
        assert row.step > 0
    # ONNX Runtime's own optimizer fails on a Clip before a QuantizeLinear to float8.
    assert not any("refuses" in problem for problem in result.problems)


def test_another_scale_in_the_file_is_found(network, tmp_path):
    sim, path, inputs = network
    model = ir.load(path)
    pair = next(p for p in QdqFile.load(path).pairs if p.quantizer.startswith("pointwise"))
    node = next(n for n in model.graph if n.outputs[0].name == pair.quantized)
    value = node.inputs[1]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.3), name=value.name)
    ir.save(model, tmp_path / "changed.onnx")
    result = aimet_torch.verify(sim, tmp_path / "changed.onnx", inputs)
    assert not result.ok
    assert [row.quantizer for row in result.nodes if row.off_grid] == [pair.quantizer]


def test_integers_only_is_refused(network):
    sim, path, inputs = network
    with pytest.raises(NotImplementedError, match=r"`integer` must be False .* float8"):
        aimet_torch.verify(sim, path, inputs, integer=True)


def test_an_encodings_file_with_float8(tmp_path):
    sim, inputs = with_float8(torch.float8_e4m3fn)
    path = tmp_path / "net.onnx"
    sim.onnx.export(inputs[0], path, encoding_version="2.0.0")
    result = aimet_torch.verify(sim, path, inputs)
    assert result.ok, str(result)
    assert len(result.nodes) == 7


@pytest.mark.parametrize(
    ("name", "finite"),
    [
        ("FLOAT8E4M3FN", 253),  # 256 patterns without two NaN, and one zero instead of two
        ("FLOAT8E4M3FNUZ", 255),
        ("FLOAT8E5M2", 247),  # without two infinities and six NaN
        ("FLOAT8E5M2FNUZ", 255),
    ],
)
def test_codes_count_the_numbers_of_a_format(name, finite):
    dtype = ir.DataType[name]
    scale = np.array(0.3, np.float32)
    pair = Float8Pair("x", "q", "d", scale, np.zeros((), np.int64), 1, dtype, None)
    patterns = np.arange(256, dtype=np.uint8).view(dtype.numpy()).astype(np.float32)
    numbers = np.unique(patterns[np.isfinite(patterns)])
    assert len(numbers) == finite
    codes, distance = pair.codes(numbers * scale)
    np.testing.assert_array_equal(codes, np.arange(finite) - finite // 2)
    assert distance == 0
    np.testing.assert_array_equal(pair.values(codes), numbers * scale)
    assert pair.codes(np.zeros(1, np.float32))[0] == 0
    assert pair.step == pytest.approx(0.3 * numbers[numbers > 0].min())
    # A quarter of the way from one number to the next, wherever they are, is a quarter of a step.
    between = (0.75 * numbers[:-1] + 0.25 * numbers[1:]).astype(np.float32)
    for value in between[[0, finite // 3, finite // 2, -1]]:
        assert pair.codes(value * scale)[1] == pytest.approx(0.25, rel=1e-2)
    top = numbers[-1] + (numbers[-1] - numbers[-2]) * 2
    assert pair.codes(top * scale)[1] == pytest.approx(2, rel=1e-3)
    assert pair.codes(np.array([np.nan], np.float32))[1] == np.inf
