"""Float8 in QDQ files: QuantizeLinear to float8 computes what the simulation computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from aimet_torch.export import onnx_qdq
from aimet_torch.quantization.float import FloatQuantizeDequantize
from tests.python.export.agreement import run
from tests.python.export.test_onnx_encodings import calibrated


def simulated(dtype, **weight):
    torch.manual_seed(0)
    x = torch.randn(5, 6) * 3
    sim = calibrated(nn.Sequential(nn.Linear(6, 4), nn.ReLU()), x)
    for module in sim.qmodules():
        for quantizers in (module.input_quantizers, module.output_quantizers):
            for i, quantizer in enumerate(quantizers):
                if quantizer is not None:
                    quantizers[i] = FloatQuantizeDequantize(dtype=dtype)
    sim.model[0].param_quantizers["weight"] = FloatQuantizeDequantize(dtype=dtype, **weight)
    sim.compute_encodings(lambda m: m(x))
    return sim, x


@pytest.mark.parametrize("prequantize", [False, True])
@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.float8_e4m3fn, "FLOAT8E4M3FN"), (torch.float8_e5m2, "FLOAT8E5M2")],
    ids=str,
)
def test_values_and_types(dtype, name, prequantize, tmp_path):
    sim, x = simulated(dtype, shape=(4, 1))
    path = tmp_path / "net.onnx"
    shapes = ({0: "batch"},)
    onnx_qdq.export(sim, x, path, prequantize_constants=prequantize, dynamic_shapes=shapes)
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    assert file.opset_import[0].version == 20
    zeros = [i for i in file.graph.initializer if i.name.endswith("_zero_point")]
    assert {onnx.TensorProto.DataType.Name(i.data_type) for i in zeros} == {name}
    weight = next(n for n in file.graph.node if n.output[0] == "0.weight_dequantized")
    assert [a.i for a in weight.attribute] == [0]  # a scale for each row
    wild = torch.cat([x, 100 * x, x / 1000])  # beyond the largest number, and subnormal ones
    with torch.no_grad():
        expected = sim.model(wild).numpy()
    result = run(path, wild)[0]
    # Sums in another order next to a boundary: one number of the format, of 3 or 2 bits.
    assert (result == expected).mean() >= 0.95
    np.testing.assert_allclose(result, expected, rtol=0.26, atol=1e-6)


def test_older_opsets_lack_it(tmp_path):
    sim, x = simulated(torch.float8_e4m3fn)
    with pytest.raises(NotImplementedError, match=r"needs `opset_version` 19 or later, got 18"):
        onnx_qdq.export(sim, x, tmp_path / "net.onnx", opset_version=18)


def test_smaller_formats_are_refused(tmp_path):
    sim, x = simulated(torch.float8_e4m3fn)
    sim.model[0].param_quantizers["weight"] = FloatQuantizeDequantize(2, 3, True, False)
    sim.compute_encodings(lambda m: m(x))
    with pytest.raises(NotImplementedError, match=r"0\.param_quantizers\.weight` is a 6-bit"):
        onnx_qdq.export(sim, x, tmp_path / "net.onnx")
