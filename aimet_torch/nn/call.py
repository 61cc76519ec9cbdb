"""One call of a quantized module: under what conditions it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aimet_torch.nn.apply import apply_quantizer
from aimet_torch.nn.recompute import Savings, may_recompute
from aimet_torch.quantization.base import QuantizerBase

__all__ = ["CUSTOM", "Call", "runs_eagerly"]


def runs_eagerly() -> bool:
    """Whether operations run here and now, and nothing but autograd records them."""
    return not (
        torch.compiler.is_compiling()  # first: torch.compile then sees nothing of the rest
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()  # make_fx, FakeTensorMode, FlopCounterMode
        or torch._C._functorch.peek_interpreter_stack() is not None  # vmap, grad
    )


class Call(NamedTuple):
    """What a quantized module needs to know of the call that it runs.

    Attributes:
        site: which call of a module that the model uses several times.
        eager: whether nothing but autograd records the operations.
        no_grad: eager, and no gradient is needed.
        savings: what backward computes anew; None where it keeps everything.
    """

    site: int = 0
    eager: bool = False
    no_grad: bool = False
    savings: Savings | None = None

    @classmethod
    def of(cls, site: int) -> Call:
        """The call that begins now."""
        eager = runs_eagerly()
        no_grad = eager and not torch.is_grad_enabled()
        return cls(
            site, eager, no_grad, Savings() if eager and not no_grad and may_recompute() else None
        )

    @property
    def apply(self) -> Callable[[QuantizerBase | None, Tensor], Tensor]:
        """`apply_quantizer`, or what takes note of how."""
        return apply_quantizer if self.savings is None else self.savings.apply

    def saving(self, *values: Any) -> contextlib.AbstractContextManager[Any]:
        """Within it, operators on ``values`` and on quantized parameters save recipes."""
        if self.savings is None:
            return contextlib.nullcontext()
        self.savings.note_inputs(values)
        return self.savings.recipes()


#: For modules with a forward of their own, which say nothing of their calls.
CUSTOM = Call()
