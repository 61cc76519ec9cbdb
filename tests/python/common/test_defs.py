"""Enumerations and parameter objects of the public interface."""

from __future__ import annotations

import pickle
import re

import pytest

from aimet_torch.common.defs import (
    CallbackFunc,
    Float,
    GreedySelectionParameters,
    QuantDtypeBwInfo,
    QuantizationDataType,
    QuantScheme,
    qtype,
)


def test_schemes_have_the_values_of_aimet():
    assert QuantScheme.min_max is QuantScheme.post_training_tf
    assert [QuantScheme.from_str(name).value for name in ("tf", "tf_enhanced", "percentile")] == [
        1,
        2,
        6,
    ]
    with pytest.raises(ValueError, match=r"`alias` must be one of 'min_max', .*, got 'wide'"):
        QuantScheme.from_str("wide")


@pytest.mark.parametrize(
    ("name", "bits", "kind"),
    [
        ("int4", 4, QuantizationDataType.int),
        ("int7", 7, QuantizationDataType.int),
        ("float16", 16, QuantizationDataType.float),
        ("float8e4m3fn", 8, QuantizationDataType.float),
    ],
)
def test_formats_by_name(name, bits, kind):
    dtype = qtype.from_string(name)
    assert repr(dtype) == name
    assert dtype.to_legacy_repr() == (kind, bits)
    assert qtype.as_qtype(name) == qtype.as_qtype(dtype) == pickle.loads(pickle.dumps(dtype))
    if name != "int7":
        assert qtype.from_legacy_repr(kind, bits) == dtype


def test_formats_by_bits():
    assert qtype.int(8) == qtype.from_string("int8")
    assert qtype.float(5, 10) == qtype.from_string("float16")
    assert repr(qtype.float(3, 2, finite=True, unsigned_zero=True)) == "float6e3m2fnuz"
    assert Float(5, 2).bits == 8


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: qtype.from_string("int"), ValueError, "`name` must be 'int<bits>' or one of"),
        (lambda: qtype.int(0), ValueError, "`bits` must be positive, got 0"),
        (lambda: qtype.float(0, 3), ValueError, "`exponent_bits` must be positive, got 0"),
        (lambda: qtype.as_qtype(8), TypeError, "expected a qtype or a str, got int"),
        (
            lambda: qtype.from_legacy_repr(QuantizationDataType.float, 9),
            ValueError,
            "must be int or float with 8, 16 or 32 bits",
        ),
        (
            lambda: QuantDtypeBwInfo(QuantizationDataType.float, 8),
            ValueError,
            "`act_bw` must be 16 or 32 when `act_dtype` is float, got 8",
        ),
        (
            lambda: QuantDtypeBwInfo(QuantizationDataType.int, 8, QuantizationDataType.float, 4),
            ValueError,
            "`param_bw` must be 16 or 32",
        ),
        (
            lambda: GreedySelectionParameters(0.5, num_comp_ratio_candidates=1),
            ValueError,
            "`num_comp_ratio_candidates` must be at least 2, got 1",
        ),
    ],
)
def test_values_that_make_no_sense(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_precision_candidate():
    candidate = QuantDtypeBwInfo(QuantizationDataType.int, 16, QuantizationDataType.int, 8)
    assert candidate.get_activation() == (QuantizationDataType.int, 16)
    assert candidate.get_param() == (QuantizationDataType.int, 8)
    assert candidate.is_same_activation(QuantizationDataType.int, 16)
    assert not candidate.is_same_param(QuantizationDataType.int, 16)
    assert candidate == QuantDtypeBwInfo(QuantizationDataType.int, 16, QuantizationDataType.int, 8)


def test_callback_gets_its_argument():
    assert CallbackFunc(lambda model, args: (model, args), 5)("model") == ("model", 5)
