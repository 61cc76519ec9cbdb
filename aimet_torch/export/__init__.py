"""Export of a simulation: ONNX with encodings or QDQ, TorchScript, `torch.export`, AOTInductor."""

from aimet_torch.export.bare_edges import BareEdge, activation_edges
from aimet_torch.export.onnx_encodings import export_onnx_with_encodings
from aimet_torch.export.program import export_compiled, export_program
from aimet_torch.export.torchscript import export_torchscript, export_torchscript_with_encodings

__all__ = [
    "BareEdge",
    "activation_edges",
    "export_compiled",
    "export_onnx_with_encodings",
    "export_program",
    "export_torchscript",
    "export_torchscript_with_encodings",
]
