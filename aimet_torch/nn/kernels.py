"""How a module runs with quantized parameters while ``module.weight`` stays the raw parameter.

Common classes have a kernel: their forward as a function of the parameters, free of side effects
and safe to call from several threads at once. Kernels are found by the forward function they
stand for, so a subclass with a forward of its own never gets the kernel of its base. Every other
class runs its own forward while the quantized tensors shadow the parameters as instance
attributes: the registered parameters are not touched, but one such module must not run in two
threads at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["kernel_of", "repeatable", "run_shadowed", "shadow", "unshadow"]

Parameters = Mapping[str, Any]  # tensors by name; None for a parameter that is absent
Kernel = Callable[..., Tensor]
Repetition = tuple[Callable[..., Tensor], tuple[Any, ...]]

_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _linear(module: Any, parameters: Parameters, input: Tensor) -> Tensor:
    return F.linear(input, parameters["weight"], parameters["bias"])


def _conv(module: Any, parameters: Parameters, input: Tensor) -> Tensor:
    return module._conv_forward(input, parameters["weight"], parameters["bias"])


def _conv_transpose(
    module: Any, parameters: Parameters, input: Tensor, output_size: list[int] | None = None
) -> Tensor:
    dims = len(module.kernel_size)
    output_padding = module._output_padding(
        input,
        output_size,
        module.stride,
        module.padding,
        module.kernel_size,
        dims,
        module.dilation,
    )
    return _CONV_TRANSPOSE[dims](
        input,
        parameters["weight"],
        parameters["bias"],
        module.stride,
        module.padding,
        output_padding,
        module.groups,
        module.dilation,
    )


def _batch_norm(module: Any, parameters: Parameters, input: Tensor) -> Tensor:
    module._check_input_dim(input)
    momentum = 0.0 if module.momentum is None else module.momentum
    is_updating = module.training and module.track_running_stats
    if is_updating and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        if module.momentum is None:  # cumulative average
            momentum = 1.0 / float(module.num_batches_tracked)
    uses_buffers = is_updating or not module.training
    return F.batch_norm(
        input,
        module.running_mean if uses_buffers else None,
        module.running_var if uses_buffers else None,
        parameters["weight"],
        parameters["bias"],
        _uses_batch_statistics(module),
        momentum,
        module.eps,
    )


def _uses_batch_statistics(module: Any) -> bool:
    has_statistics = module.running_mean is not None or module.running_var is not None
    return bool(module.training) or not has_statistics


def _batch_norm_again(module: Any, parameters: Parameters) -> Repetition:
    is_training, eps = _uses_batch_statistics(module), module.eps

    def function(input: Tensor, weight: Any, bias: Any, mean: Any, variance: Any) -> Tensor:
        return F.batch_norm(input, mean, variance, weight, bias, is_training, 0.0, eps)

    # With the statistics of a batch the running ones do not matter, and must not be updated again.
    mean, variance = (None, None) if is_training else (module.running_mean, module.running_var)
    return function, (parameters["weight"], parameters["bias"], mean, variance)


def _layer_norm(module: Any, parameters: Parameters, input: Tensor) -> Tensor:
    return F.layer_norm(
        input, module.normalized_shape, parameters["weight"], parameters["bias"], module.eps
    )


def _group_norm(module: Any, parameters: Parameters, input: Tensor) -> Tensor:
    return F.group_norm(
        input, module.num_groups, parameters["weight"], parameters["bias"], module.eps
    )


def _rms_norm(module: Any, parameters: Parameters, input: Tensor) -> Tensor:
    return F.rms_norm(input, module.normalized_shape, parameters["weight"], module.eps)


def _prelu(module: Any, parameters: Parameters, input: Tensor) -> Tensor:
    return F.prelu(input, parameters["weight"])


def _embedding(module: Any, parameters: Parameters, input: Tensor) -> Tensor:
    return F.embedding(
        input,
        parameters["weight"],
        module.padding_idx,
        module.max_norm,
        module.norm_type,
        module.scale_grad_by_freq,
        module.sparse,
    )


_KERNELS: dict[Any, Kernel] = {
    nn.Linear.forward: _linear,
    nn.Conv1d.forward: _conv,
    nn.Conv2d.forward: _conv,
    nn.Conv3d.forward: _conv,
    nn.ConvTranspose1d.forward: _conv_transpose,
    nn.ConvTranspose2d.forward: _conv_transpose,
    nn.ConvTranspose3d.forward: _conv_transpose,
    nn.BatchNorm2d.forward: _batch_norm,  # BatchNorm1d and BatchNorm3d have the same one
    nn.LayerNorm.forward: _layer_norm,
    nn.GroupNorm.forward: _group_norm,
    nn.RMSNorm.forward: _rms_norm,
    nn.PReLU.forward: _prelu,
    nn.Embedding.forward: _embedding,
}


def kernel_of(forward: Callable[..., Any]) -> Kernel | None:
    """Return the kernel that computes the same as ``forward``, None if there is none."""
    return _KERNELS.get(forward)


# Results that are cheaper to compute once more than to keep, without side effects.
_REPEATABLE: dict[Any, Callable[[Any, Parameters], Repetition]] = {
    nn.BatchNorm2d.forward: _batch_norm_again,
}


def repeatable(module: Any, parameters: Parameters | None) -> Repetition | None:
    """How the result of ``module`` can be computed once more, if that is cheap.

    Args:
        module: a quantized module.
        parameters: its quantized parameters; None if they are its own.

    Returns:
        A function and what it takes after the module's input; None where keeping is better.
    """
    found = _REPEATABLE.get(type(module)._parent_forward)
    return None if found is None else found(module, parameters or module._parameters)


def shadow(module: nn.Module, parameters: Parameters) -> dict[str, Any]:
    """Make ``module.<name>`` the given tensors; return what `unshadow` needs."""
    if isinstance(module, nn.RNNBase):
        # Recurrent modules read a list. They refresh it when a parameter was replaced, so bring it
        # up to date first and leave the parameters alone.
        module._update_flat_weights()
        flat = [parameters.get(n, getattr(module, n, None)) for n in module._flat_weights_names]
        parameters = {"_flat_weights": flat}
    namespace = module.__dict__
    before: dict[str, Any] = {}
    for name, tensor in parameters.items():
        if tensor is not None:
            before[name] = namespace.get(name, _ABSENT)
            namespace[name] = tensor
    return before


def unshadow(module: nn.Module, before: dict[str, Any]) -> None:
    """Undo `shadow`."""
    namespace = module.__dict__
    for name, value in before.items():
        if value is _ABSENT:
            namespace.pop(name, None)
        else:
            namespace[name] = value


_ABSENT = object()


def run_shadowed(
    module: Any,
    forward: Callable[..., Any],
    parameters: Parameters,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Call ``forward(module, ...)`` while the tensors stand in for the parameters."""
    before = shadow(module, parameters)
    try:
        return forward(module, *args, **kwargs)
    finally:
        unshadow(module, before)
