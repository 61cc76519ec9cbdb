"""Entries of encodings files of versions 2.x."""

from __future__ import annotations

import pytest
import torch

from aimet_torch.quantization.affine import GroupedBlockQuantizeDequantize, QuantizeDequantize


def encoding_of(quantizer, data):
    with quantizer.compute_encodings():
        quantizer(data)
    return quantizer.get_encodings()


def test_version_2_entries():
    per_tensor = encoding_of(QuantizeDequantize((), 8, False), torch.tensor([-1.0, 2.0]))
    assert per_tensor.to_qnn_encoding_dict("2.0.0") == {
        "output_dtype": "uint8",
        "y_scale": pytest.approx(3 / 255),
        "y_zero_point": 85,
    }
    data = torch.tensor([[-1.0, 2.0, 0.5, 0.5], [3.0, 1.0, -2.0, 0.0]])
    per_channel = encoding_of(QuantizeDequantize((2, 1), 8, True), data)
    assert per_channel.to_qnn_encoding_dict("2.1.0") == {
        "output_dtype": "int8",
        "y_scale": per_channel.scale.flatten().tolist(),
        "axis": 0,
    }
    per_block = encoding_of(QuantizeDequantize((2, 2), 4, True, block_size=(1, 2)), data)
    entry = per_block.to_qnn_encoding_dict("2.0.0")
    assert entry == {
        "output_dtype": "int4",
        "y_scale": per_block.scale.tolist(),
        "axis": 1,
        "block_size": 2,
    }
    grouped = GroupedBlockQuantizeDequantize(
        (2, 2), 4, True, decompressed_bw=8, block_size=(1, 2), block_grouping=(1, 2)
    )
    encoding = encoding_of(grouped, data)
    integers = encoding.per_block_int_scale.int().tolist()
    rest = {"output_dtype": "int4", "axis": 1, "block_size": 2}
    assert encoding.to_qnn_encoding_dict("2.0.0") == {
        **rest,
        "per_block_int_scale": integers,
        "per_channel_float_scale": encoding.per_channel_scale.tolist(),
    }
    outer = encoding.per_channel_scale.flatten().tolist()
    table = {"x": integers, "x_scale": outer, "axis": 0}
    assert encoding.to_qnn_encoding_dict("2.1.0") == {**rest, "y_scale": table}


def test_what_versions_2_have_no_form_for():
    data = torch.randn(2, 4)
    two_axes = encoding_of(QuantizeDequantize((2, 4), 8, True), data)
    with pytest.raises(NotImplementedError, match=r"along one axis, got scales of shape \(2, 4\)"):
        two_axes.to_qnn_encoding_dict("2.0.0")
