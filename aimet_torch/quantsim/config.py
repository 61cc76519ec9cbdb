"""Quantsim configuration files: which tensors get a quantizer, by AIMET's JSON schema.

This module reads and checks a file; `placement.py` applies it to a model's graph. The schema is
AIMET's: booleans are the strings "True" and "False", operators go by their ONNX names. An unknown
key is an error that gives its path, since a misspelt rule would otherwise be ignored in silence.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_DIRECTORY = Path(__file__).with_name("configs")
_HTP_VERSIONS = ("66", "68", "69", "73", "75", "79", "81", "85")
_ALIASES: dict[str, tuple[str, str | None]] = {
    "default": ("default_config_per_channel.json", None),
    "default_per_tensor": ("default_config.json", None),
    "default_per_channel": ("default_config_per_channel.json", None),
    **{f"htp_v{v}": ("htp_quantsim_config.json", f"V{v}") for v in _HTP_VERSIONS},
}
_SUPERGROUP_PASSES = ("MatmulAdd", "LayerNormalization", "RMSNormalization")


@dataclass(frozen=True)
class ParamRule:
    """How one parameter (or all) is quantized; None leaves it to the more general rule."""

    is_quantized: bool | None = None
    is_symmetric: bool | None = None

    def over(self, general: ParamRule) -> ParamRule:
        """This rule where it speaks, `general` elsewhere."""
        return ParamRule(
            general.is_quantized if self.is_quantized is None else self.is_quantized,
            general.is_symmetric if self.is_symmetric is None else self.is_symmetric,
        )


@dataclass(frozen=True)
class KernelType:
    """One pair of activation and parameter types that a target has a kernel for."""

    activation_bitwidth: int
    activation_dtype: str
    param_bitwidth: int | None = None
    param_dtype: str | None = None


@dataclass(frozen=True)
class OpRule:
    """How one operator type is quantized; None leaves it to the defaults."""

    is_input_quantized: bool | None = None
    is_output_quantized: bool | None = None
    is_symmetric: bool | None = None
    per_channel_quantization: bool | None = None
    params: Mapping[str, ParamRule] = field(default_factory=dict)
    encoding_min: float | None = None
    encoding_max: float | None = None
    supported_kernels: tuple[KernelType, ...] | None = None


@dataclass(frozen=True)
class QuantSimConfig:
    """A checked configuration.

    Precedence: defaults < params < op_type < supergroups < model input and output.
    """

    default_op: OpRule
    default_param: ParamRule
    strict_symmetric: bool
    unsigned_symmetric: bool
    per_channel_quantization: bool
    supported_kernels: tuple[KernelType, ...]
    hw_version: str | None
    params: Mapping[str, ParamRule]
    op_types: Mapping[str, OpRule]
    supergroups: tuple[tuple[str, ...], ...]
    supergroup_passes: tuple[str, ...]
    is_model_input_quantized: bool
    is_model_output_quantized: bool | None

    def op_rule(self, op_type: str) -> OpRule:
        """The rule of an operator type, or one that says nothing."""
        return self.op_types.get(op_type, _EMPTY_RULE)

    def is_output_quantized(self, op_type: str) -> bool:
        """Whether outputs of this operator type are quantized."""
        specific = self.op_rule(op_type).is_output_quantized
        return bool(self.default_op.is_output_quantized if specific is None else specific)

    def is_activation_symmetric(self, op_type: str) -> bool:
        """Whether activations of this operator type are on a symmetric grid."""
        specific = self.op_rule(op_type).is_symmetric
        return bool(self.default_op.is_symmetric if specific is None else specific)

    def param_rule(self, op_type: str, param_name: str) -> ParamRule:
        """The rule for one parameter of an operator type."""
        named = self.params.get(param_name, ParamRule()).over(self.default_param)
        return self.op_rule(op_type).params.get(param_name, ParamRule()).over(named)

    def is_per_channel(self, op_type: str) -> bool:
        """Whether the weights of this operator type have one scale per channel."""
        specific = self.op_rule(op_type).per_channel_quantization
        return self.per_channel_quantization if specific is None else specific

    @property
    def hw_generation(self) -> int | None:
        """The number in `hw_version` ("V73" is 73), or None."""
        return None if self.hw_version is None else int(self.hw_version[1:])


_EMPTY_RULE = OpRule()


def load_config(config_file: str | Path | Mapping[str, Any] | None = None) -> QuantSimConfig:
    """Read and check a quantsim configuration.

    Args:
        config_file: a path to a JSON file; an alias ("default", "default_per_tensor", "htp_v66" to
            "htp_v85"); an already parsed mapping; or None for the default: per-channel weights,
            symmetric parameters, asymmetric activations, biases in floating point.

    Raises:
        FileNotFoundError: neither an alias nor a file.
        ValueError: not JSON, an unknown or missing key, or a wrong value; the message gives the
            key's path.
    """
    if isinstance(config_file, Mapping):
        return _Reader("config").config(config_file)
    name = "default" if config_file is None else str(config_file)
    file_name, hw_version = _ALIASES.get(name, (None, None))
    path = _DIRECTORY / file_name if file_name else Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"QuantizationSimModel: `config_file` {name!r} is neither a file nor one of the "
            "built-in "
            f"configurations: {', '.join(_ALIASES)}"
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"QuantizationSimModel: `config_file` {path} is not JSON: {error}"
        ) from error
    config = _Reader(str(path)).config(document)
    return replace(config, hw_version=hw_version) if hw_version else config


class _Reader:
    """Turns parsed JSON into a `QuantSimConfig`; methods take a value and its path in the file."""

    def __init__(self, source: str) -> None:
        self._source = source

    def _fail(self, path: str, problem: str) -> ValueError:
        return ValueError(f"quantsim config {self._source}: `{path}` {problem}")

    def _object(
        self, value: Any, path: str, allowed: tuple[str, ...] | None = None
    ) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self._fail(path, f"must be an object, got {type(value).__name__}")
        for key in value:
            if allowed is not None and key not in allowed:
                where = f"{path}.{key}" if path else key
                raise self._fail(where, f"is an unknown key; known here: {', '.join(allowed)}")
        return value

    def _bool(self, holder: Mapping[str, Any], key: str, path: str) -> bool | None:
        if key not in holder:
            return None
        value = holder[key]
        if value in ("True", True):
            return True
        if value in ("False", False):
            return False
        raise self._fail(f"{path}.{key}", f'must be "True" or "False", got {value!r}')

    def _only_true(self, holder: Mapping[str, Any], key: str, path: str) -> bool | None:
        value = self._bool(holder, key, path)
        if value is False:
            raise self._fail(
                f"{path}.{key}", 'can only be "True"; leave the key out to switch it off'
            )
        return value

    def _number(self, value: Any, path: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._fail(path, f"must be a number, got {value!r}")
        return float(value)

    def _list(self, value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise self._fail(path, f"must be a list, got {type(value).__name__}")
        return value

    def _kernel_side(self, value: Any, path: str) -> tuple[int, str]:
        side = self._object(value, path, ("bitwidth", "dtype"))
        bitwidth, dtype = side.get("bitwidth"), side.get("dtype")
        if isinstance(bitwidth, bool) or bitwidth not in (4, 8, 16, 32):
            raise self._fail(f"{path}.bitwidth", f"must be 4, 8, 16 or 32, got {bitwidth!r}")
        if dtype not in ("int", "float"):
            raise self._fail(f"{path}.dtype", f'must be "int" or "float", got {dtype!r}')
        return bitwidth, dtype

    def _kernels(self, value: Any, path: str) -> tuple[KernelType, ...]:
        kernels = []
        for i, item in enumerate(self._list(value, path)):
            where = f"{path}[{i}]"
            kernel = self._object(item, where, ("activation", "param"))
            if "activation" not in kernel:
                raise self._fail(where, "lacks the key `activation`")
            activation = self._kernel_side(kernel["activation"], f"{where}.activation")
            param = (
                self._kernel_side(kernel["param"], f"{where}.param") if "param" in kernel else ()
            )
            kernels.append(KernelType(*activation, *param))
        return tuple(kernels)

    def _param_rule(self, value: Any, path: str) -> ParamRule:
        rule = self._object(value, path, ("is_quantized", "is_symmetric"))
        return ParamRule(
            self._bool(rule, "is_quantized", path), self._bool(rule, "is_symmetric", path)
        )

    def _param_rules(self, value: Any, path: str) -> dict[str, ParamRule]:
        return {
            name: self._param_rule(rule, f"{path}.{name}")
            for name, rule in self._object(value, path).items()
        }

    def _op_rule(self, value: Any, path: str) -> OpRule:
        rule = self._object(
            value,
            path,
            (
                "is_input_quantized",
                "is_output_quantized",
                "is_symmetric",
                "per_channel_quantization",
                "params",
                "supported_kernels",
                "encoding_constraints",
            ),
        )
        minimum = maximum = None
        if "encoding_constraints" in rule:
            where = f"{path}.encoding_constraints"
            limits = self._object(rule["encoding_constraints"], where, ("min", "max"))
            if "min" not in limits:
                raise self._fail(where, "lacks the key `min`")
            minimum = self._number(limits["min"], f"{where}.min")
            maximum = self._number(limits["max"], f"{where}.max") if "max" in limits else None
            if maximum is not None and maximum <= minimum:
                raise self._fail(
                    where, f"must have min < max, got min {minimum:g} and max {maximum:g}"
                )
        kernels = rule.get("supported_kernels")
        return OpRule(
            is_input_quantized=self._only_true(rule, "is_input_quantized", path),
            is_output_quantized=self._bool(rule, "is_output_quantized", path),
            is_symmetric=self._bool(rule, "is_symmetric", path),
            per_channel_quantization=self._bool(rule, "per_channel_quantization", path),
            params=self._param_rules(rule.get("params", {}), f"{path}.params"),
            encoding_min=minimum,
            encoding_max=maximum,
            supported_kernels=None
            if kernels is None
            else self._kernels(kernels, f"{path}.supported_kernels"),
        )

    def _supergroup(self, value: Any, path: str) -> tuple[str, ...]:
        group = self._object(value, path, ("op_list",))
        names = self._list(group.get("op_list"), f"{path}.op_list")
        if len(names) < 2 or not all(isinstance(name, str) for name in names):
            raise self._fail(
                f"{path}.op_list", f"must be at least two operator names, got {names!r}"
            )
        return tuple(names)

    def _hw_version(self, value: Any) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str) or value[:1] != "V" or not value[1:].isdigit():
            raise self._fail("defaults.hw_version", f'must look like "V73", got {value!r}')
        return value

    def config(self, document: Any) -> QuantSimConfig:
        """Check the whole document."""
        required = ("defaults", "params", "op_type", "supergroups", "model_input", "model_output")
        top = self._object(document, "", (*required, "supergroup_pass_list"))
        for key in required:
            if key not in top:
                raise self._fail(key, "is missing")
        defaults = self._object(
            top["defaults"],
            "defaults",
            (
                "ops",
                "params",
                "strict_symmetric",
                "unsigned_symmetric",
                "per_channel_quantization",
                "supported_kernels",
                "hw_version",
            ),
        )
        for key in ("strict_symmetric", "unsigned_symmetric"):
            if self._bool(defaults, key, "defaults"):
                warnings.warn(
                    f"quantsim config {self._source}: `defaults.{key}` has no effect, as in AIMET "
                    "2; set `qmin` and `qmax` of the quantizers that shall have such a grid",
                    stacklevel=3,
                )
        ops = self._object(
            defaults.get("ops", {}),
            "defaults.ops",
            ("is_output_quantized", "is_input_quantized", "is_symmetric"),
        )
        if "is_input_quantized" in ops:
            raise self._fail(
                "defaults.ops.is_input_quantized",
                "is not supported: every input is some operator's output; use `model_input` for "
                "the model's inputs",
            )
        passes = self._list(top.get("supergroup_pass_list", []), "supergroup_pass_list")
        for i, name in enumerate(passes):
            if name not in _SUPERGROUP_PASSES:
                raise self._fail(
                    f"supergroup_pass_list[{i}]",
                    f"must be one of {', '.join(_SUPERGROUP_PASSES)}, got {name!r}",
                )
        model_input = self._object(top["model_input"], "model_input", ("is_input_quantized",))
        model_output = self._object(top["model_output"], "model_output", ("is_output_quantized",))
        return QuantSimConfig(
            default_op=OpRule(
                is_output_quantized=self._only_true(ops, "is_output_quantized", "defaults.ops"),
                is_symmetric=self._bool(ops, "is_symmetric", "defaults.ops"),
            ),
            default_param=self._param_rule(defaults.get("params", {}), "defaults.params"),
            strict_symmetric=bool(self._bool(defaults, "strict_symmetric", "defaults")),
            unsigned_symmetric=bool(self._bool(defaults, "unsigned_symmetric", "defaults")),
            per_channel_quantization=bool(
                self._bool(defaults, "per_channel_quantization", "defaults")
            ),
            supported_kernels=self._kernels(
                defaults.get("supported_kernels", []), "defaults.supported_kernels"
            ),
            hw_version=self._hw_version(defaults.get("hw_version")),
            params=self._param_rules(top["params"], "params"),
            op_types={
                name: self._op_rule(rule, f"op_type.{name}")
                for name, rule in self._object(top["op_type"], "op_type").items()
            },
            supergroups=tuple(
                self._supergroup(group, f"supergroups[{i}]")
                for i, group in enumerate(self._list(top["supergroups"], "supergroups"))
            ),
            supergroup_passes=tuple(passes),
            is_model_input_quantized=bool(
                self._only_true(model_input, "is_input_quantized", "model_input")
            ),
            is_model_output_quantized=self._only_true(
                model_output, "is_output_quantized", "model_output"
            ),
        )
