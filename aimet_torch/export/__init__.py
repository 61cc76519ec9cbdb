"""Export of a simulation: FP32 ONNX with encodings, and QDQ ONNX."""

from aimet_torch.export.bare_edges import BareEdge, activation_edges
from aimet_torch.export.onnx_encodings import export_onnx_with_encodings

__all__ = ["BareEdge", "activation_edges", "export_onnx_with_encodings"]
