"""Reading and checking quantsim configuration files."""

from __future__ import annotations

import copy
import json

import pytest

from aimet_torch.quantsim.config import KernelType, load_config

MINIMAL = {
    "defaults": {
        "ops": {"is_output_quantized": "True"},
        "params": {"is_quantized": "True", "is_symmetric": "True"},
    },
    "params": {"bias": {"is_quantized": "False"}},
    "op_type": {"Softmax": {"encoding_constraints": {"min": 0.0, "max": 1.0}}},
    "supergroups": [{"op_list": ["Conv", "Relu"]}],
    "model_input": {"is_input_quantized": "True"},
    "model_output": {},
}


def changed(path: list, value) -> dict:
    document = copy.deepcopy(MINIMAL)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return document


def test_default_is_per_channel_for_layers_with_weights():
    config = load_config()
    assert config.is_per_channel("Conv")
    assert config.is_per_channel("Gemm")
    assert not config.is_per_channel("LayerNormalization")
    assert config.is_output_quantized("Add")
    assert not config.is_output_quantized("Cast")
    assert config.param_rule("Conv", "weight").is_symmetric
    assert not config.param_rule("Conv", "bias").is_quantized
    assert config.is_model_input_quantized


def test_per_tensor_alias():
    assert not load_config("default_per_tensor").is_per_channel("Conv")


@pytest.mark.parametrize("version", ["66", "73", "85"])
def test_htp_alias_sets_the_hardware_version(version):
    config = load_config(f"htp_v{version}")
    assert config.hw_generation == int(version)
    assert config.op_rule("Softmax").encoding_max == 1.0
    assert ("Conv", "BatchNormalization", "HardSwish") in config.supergroups
    assert not config.param_rule("LayerNormalization", "weight").is_symmetric
    assert config.param_rule("GroupNormalization", "bias").is_quantized


def test_operator_rule_overrides_parameter_rule_overrides_default():
    document = changed(["op_type", "Conv"], {"params": {"bias": {"is_quantized": "True"}}})
    config = load_config(document)
    assert config.param_rule("Conv", "bias").is_quantized
    assert not config.param_rule("Gemm", "bias").is_quantized
    assert config.param_rule("Conv", "bias").is_symmetric  # from the defaults


def test_file_and_mapping_agree(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MINIMAL))
    assert load_config(path) == load_config(MINIMAL) == load_config(str(path))


def test_supported_kernels():
    kernels = [
        {"activation": {"bitwidth": 16, "dtype": "int"}, "param": {"bitwidth": 8, "dtype": "int"}}
    ]
    config = load_config(changed(["defaults", "supported_kernels"], kernels))
    assert config.supported_kernels == (KernelType(16, "int", 8, "int"),)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["defaults", "opz"], {}, r"`defaults\.opz` is an unknown key; known here: ops, params"),
        (["extra"], {}, r"`extra` is an unknown key"),
        (
            ["params", "bias"],
            {"is_quantised": "True"},
            r"`params\.bias\.is_quantised` is an unknown key",
        ),
        (["op_type", "Conv"], {"foo": 1}, r"`op_type\.Conv\.foo` is an unknown key"),
        (
            ["defaults", "params", "is_symmetric"],
            "yes",
            r'`defaults\.params\.is_symmetric` must be "True" or "False"',
        ),
        (["defaults", "ops", "is_output_quantized"], "False", r'can only be "True"'),
        (["defaults", "ops", "is_input_quantized"], "True", r"is not supported: every input"),
        (
            ["supergroups"],
            [{"op_list": ["Conv"]}],
            r"`supergroups\[0\]\.op_list` must be at least two",
        ),
        (["supergroups"], "Conv", r"`supergroups` must be a list, got str"),
        (
            ["supergroup_pass_list"],
            ["Nope"],
            r"`supergroup_pass_list\[0\]` must be one of MatmulAdd",
        ),
        (["op_type", "Softmax", "encoding_constraints"], {"max": 1}, r"lacks the key `min`"),
        (
            ["op_type", "Softmax", "encoding_constraints"],
            {"min": 1, "max": 0},
            r"must have min < max",
        ),
        (
            ["op_type", "Softmax", "encoding_constraints"],
            {"min": "0"},
            r"must be a number, got '0'",
        ),
        (["defaults", "hw_version"], "73", r'must look like "V73"'),
        (["defaults", "supported_kernels"], [{"param": {}}], r"lacks the key `activation`"),
        (
            ["defaults", "supported_kernels"],
            [{"activation": {"bitwidth": 7, "dtype": "int"}}],
            r"supported_kernels\[0\]\.activation\.bitwidth` must be 4, 8, 16 or 32, got 7",
        ),
        (["model_input"], [], r"`model_input` must be an object, got list"),
    ],
)
def test_errors_give_the_path_of_the_key(path, value, message):
    with pytest.raises(ValueError, match=message):
        load_config(changed(path, value))


@pytest.mark.parametrize("key", list(MINIMAL))
def test_missing_top_level_key(key):
    document = {name: rule for name, rule in MINIMAL.items() if name != key}
    with pytest.raises(ValueError, match=f"`{key}` is missing"):
        load_config(document)


def test_not_json(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"defaults": ')
    with pytest.raises(ValueError, match="is not JSON"):
        load_config(path)


def test_no_such_file():
    with pytest.raises(FileNotFoundError, match="neither a file nor one of the built-in"):
        load_config("nowhere.json")


@pytest.mark.parametrize("key", ["strict_symmetric", "unsigned_symmetric"])
def test_what_has_no_effect_says_so(key, recwarn):
    load_config(changed(["defaults", key], "False"))
    assert not recwarn.list
    with pytest.warns(UserWarning, match=f"`defaults.{key}` has no effect"):
        load_config(changed(["defaults", key], "True"))
