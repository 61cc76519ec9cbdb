"""Quantization-aware training in the user's own loop: learned ranges, and what repairs low bits."""

from aimet_torch.qat.learning import learn_ranges, parameter_groups

__all__ = ["learn_ranges", "parameter_groups"]
