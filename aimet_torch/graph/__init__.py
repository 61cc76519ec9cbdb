"""The connected graph of a model: tracing, operations, values, and how to run it."""

from aimet_torch.graph.capture import bind_inputs, trace
from aimet_torch.graph.macs import macs_of_module, multiply_accumulates
from aimet_torch.graph.model_graph import Boundary, ModelGraph, OpNode, Value, skip_identity
from aimet_torch.graph.op_types import GRID_PRESERVING_OPS, op_type_of_module
from aimet_torch.graph.programs import module_of_program, module_of_torchscript
from aimet_torch.graph.rewrite import drop_simulation_keywords

__all__ = [
    "GRID_PRESERVING_OPS",
    "Boundary",
    "ModelGraph",
    "OpNode",
    "Value",
    "bind_inputs",
    "drop_simulation_keywords",
    "macs_of_module",
    "module_of_program",
    "module_of_torchscript",
    "multiply_accumulates",
    "op_type_of_module",
    "skip_identity",
    "trace",
]
