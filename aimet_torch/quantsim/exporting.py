"""The export methods of `QuantizationSimModel`: they check, and hand over to the export layer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from aimet_torch.common.files import replace_together
from aimet_torch.common.services import service
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantsim import encodings_io

if TYPE_CHECKING:
    from aimet_torch.quantsim.sim import QuantizationSimModel


class OnnxExporter:
    """`sim.onnx`: an ordinary FP32 ONNX file with an encodings file beside it."""

    def __init__(self, sim: QuantizationSimModel) -> None:
        self._sim = sim

    def export(
        self,
        args: Any,
        f: str | Path,
        *,
        encoding_version: str | None = None,
        export_int32_bias: bool | None = None,
        force_activation_as: str | None = "unsigned",
        **torch_onnx_kwargs: Any,
    ) -> Any:
        """Write `f` and `<stem of f>.encodings`.

        Args:
            args: example input: a tensor, a tuple of positional or a dict of keyword inputs.
            f: path of the ONNX file.
            encoding_version: "0.6.1", "1.0.0", "2.0.0" or "2.1.0"; None: what
                `aimet_torch.common.quantsim.encoding_version` says, "1.0.0" unless it is assigned
                to or AIMET_ENCODING_VERSION is set.
            export_int32_bias: list biases as 32-bit integers, too; None: from version 2.0.0 on.
            force_activation_as: "unsigned" or "signed" integers for activations, in versions from
                2.0.0 on; None keeps those of the simulation.
            **torch_onnx_kwargs: passed on to `torch.onnx.export` (input_names, dynamic_shapes,
                ...). `verify=True` runs the files in ONNX Runtime beside the simulation.

        Returns:
            With `verify` the `Verification`, else None.

        Raises:
            ValueError: quantizers without a range, or an unknown version.
            NotImplementedError: the version has no form for an entry, which the message names.
        """
        return service("export_onnx_with_encodings")(
            self._sim,
            args,
            f,
            encoding_version=encoding_version,
            export_int32_bias=export_int32_bias,
            force_activation_as=force_activation_as,
            **torch_onnx_kwargs,
        )


class ExportMethods:
    """Mixed into `QuantizationSimModel`."""

    @property
    def onnx(self) -> OnnxExporter:
        """Exporter of ONNX and encodings: `sim.onnx.export(args, f)`."""
        return OnnxExporter(self)  # type: ignore[arg-type]

    def export(
        self,
        path: str | Path,
        filename_prefix: str,
        dummy_input: Any,
        onnx_export_args: dict[str, Any] | None = None,
        propagate_encodings: bool = False,
        export_to_torchscript: bool = False,
        use_embedded_encodings: bool = False,
        export_model: bool = True,
        filename_prefix_encodings: str | None = None,
        apply_param_qdq: bool = False,
        encoding_version: str | None = None,
    ) -> None:
        """Write the FP32 model and its encodings, as AIMET's `export` does.

        Files: `<prefix>.pth` (the model without quantizers, `torch.save`), `<prefix>.onnx`,
            `<prefix>.encodings`
        (by ONNX tensor) and `<prefix>_torch.encodings` (by torch module, for `load_encodings`).
        Older files stay until all new ones are complete.

        Args:
            path: directory; made when missing.
            filename_prefix: stem of the model files.
            dummy_input: example input for torch.onnx.
            onnx_export_args: further arguments for `torch.onnx.export`.
            propagate_encodings: accepted for AIMET's sake; tensors that operators such as reshaping
                only move always have their producer's encoding.
            export_to_torchscript: write `<prefix>.torchscript.pth` in place of the ONNX file, and
                the encodings by the names of its values, as
                `aimet_torch.export.export_torchscript_with_encodings` does.
            use_embedded_encodings: not supported.
            export_model: write `.pth` and `.onnx`; without it only the encodings.
            filename_prefix_encodings: stem of the encodings files; the same by default.
            apply_param_qdq: write parameters as their quantized values; they have the same integers
                either way.
            encoding_version: as in `sim.onnx.export`; `_torch.encodings` is always of 0.6.1.

        Raises:
            ValueError: quantizers without a range, or an unknown version.
            NotImplementedError: `use_embedded_encodings`.
        """
        if use_embedded_encodings:
            raise NotImplementedError(
                "QuantizationSimModel.export: `use_embedded_encodings`=True is not supported; "
                "aimet_torch.onnx.export writes an ONNX file with QuantizeLinear and "
                "DequantizeLinear, sim.export_torchscript TorchScript with quantizers"
            )
        sim: QuantizationSimModel = self  # type: ignore[assignment]
        source = copy.copy(sim)
        if apply_param_qdq:
            source.model = _with_rounded_parameters(sim.model)
        encodings_prefix = filename_prefix_encodings or filename_prefix
        kind, suffix = (
            ("torchscript", ".torchscript.pth") if export_to_torchscript else ("onnx", ".onnx")
        )
        with replace_together(path) as folder:
            service(f"export_{kind}_with_encodings")(
                source,
                dummy_input,
                folder / f"{filename_prefix}{suffix}",
                encoding_version=encoding_version,
                encodings_path=folder / f"{encodings_prefix}.encodings",
                export_model=export_model,
                **({} if export_to_torchscript else onnx_export_args or {}),
            )
            encodings_io.save(sim, folder / f"{encodings_prefix}_torch.encodings")
            if export_model:
                original = sim.get_original_model(source.model)
                torch.save(original, folder / f"{filename_prefix}.pth")

    def export_torchscript(
        self, path: str | Path, example: Any, *, parameters: str = "quantized"
    ) -> None:
        """Write the simulation as a TorchScript file for Python and C++.

        See `aimet_torch.export.export_torchscript`.

        Args:
            path: of the file.
            example: a tensor, a tuple of positional or a dict of keyword arguments.
            parameters: "quantized" stores their quantized values, "simulated" keeps them and
                quantizes them in every call.
        """
        service("export_torchscript")(self, example, path, parameters=parameters)

    def export_program(
        self, path: str | Path, example: Any, *, dynamic_shapes: Any = "batch"
    ) -> None:
        """Write the simulation as a `torch.export` program (`.pt2`).

        See `aimet_torch.export.export_program`.

        Args:
            path: of the file.
            example: a tensor, a tuple of positional or a dict of keyword arguments.
            dynamic_shapes: "batch": the first size of each input stays open; None: no size; else as
                for `torch.export.export`.
        """
        service("export_program")(self, example, path, dynamic_shapes=dynamic_shapes)

    def export_compiled(
        self,
        path: str | Path,
        example: Any,
        *,
        dynamic_shapes: Any = "batch",
        inductor_configs: dict[str, Any] | None = None,
    ) -> None:
        """Compile the simulation with AOTInductor into a package for C++ and Python.

        See `aimet_torch.export.export_compiled`.

        Args:
            path: of the package, ending in `.pt2`.
            example: a tensor, a tuple of positional or a dict of keyword arguments.
            dynamic_shapes: as for `export_program`.
            inductor_configs: options of the compiler.
        """
        service("export_compiled")(
            self, example, path, dynamic_shapes=dynamic_shapes, inductor_configs=inductor_configs
        )

    def deployment_report(self) -> Any:
        """Bytes of weights, multiplications by bit width, and what stays in floating point.

        Returns:
            An `aimet_torch.report.DeploymentReport`: prints as tables, `to_json()`,
            `write_html(path)`.
        """
        return service("deployment_report")(self)


def _with_rounded_parameters(model: nn.Module) -> nn.Module:
    """A copy whose parameters lie on their grids."""
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for module in rounded.modules():
            if isinstance(module, QuantizationMixin):
                for name, quantizer in module.param_quantizers.items():
                    if quantizer is not None:
                        parameter = getattr(module, name)
                        parameter.copy_(quantizer.simulate(parameter))
    return rounded
