"""Random programs of views and in-place writes: the graph of values computes what memory held."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aimet_torch.graph import trace

# Each takes the list of live (2, 4, 6) tensors or views of them, and two numbers to choose with.
VIEWS = [
    lambda t: t.view(-1),
    lambda t: t.reshape(t.shape[0], -1),
    lambda t: t.transpose(0, -1),
    lambda t: t[0],
    lambda t: t[..., 1:],
    lambda t: t.chunk(2, dim=-1)[1],
    lambda t: t.flatten().unflatten(0, (-1, 2)).unbind(1)[0],
    lambda t: t.unsqueeze(0).squeeze(0),
    lambda t: t.detach(),
    lambda t: t.contiguous(),
]
WRITES = [
    lambda t, s: t.add_(1.0),
    lambda t, s: t.mul_(0.5),
    lambda t, s: F.relu(t, inplace=True),
    lambda t, s: t.__iadd__(s),
    lambda t, s: t.copy_(s * 2),
    lambda t, s: t.__setitem__((..., 0), 3.0),
    lambda t, s: t.__setitem__((Ellipsis,), t.flip(-1)),
    lambda t, s: t.clamp_(-1, 1),
    lambda t, s: t.zero_(),
    lambda t, s: t.masked_fill_(t > 0.5, -0.25),
]


class Program(nn.Module):
    """Runs a list of steps; every value that is alive at the end goes into the result."""

    def __init__(self, steps: list[tuple[int, int, int]]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> list[Tensor]:
        live = [x * 1.0, x + 0.5]
        for kind, target, operation in self.steps:
            tensor = live[target % len(live)]
            if kind == 0 and tensor.dim() > 0 and tensor.shape[-1] >= 2:
                live.append(VIEWS[operation % len(VIEWS)](tensor))
            elif kind == 1:
                WRITES[operation % len(WRITES)](tensor, live[0].mean() + tensor.sum())
            else:
                live.append(tensor * 0.5)
        return [t * 1.0 for t in live]


STEP = st.tuples(st.integers(0, 2), st.integers(0, 7), st.integers(0, 9))


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, min_size=3, max_size=14))
def test_random_writes_and_views(steps):
    program = Program(steps)
    try:
        program(torch.randn(2, 4, 6))
    except RuntimeError:  # a view of these strides does not exist
        return
    graph = trace(program, torch.randn(2, 4, 6))
    assert graph.boundaries == []
    model = graph.to_module()
    for seed in (0, 1):
        x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(seed))
        given_x = x.clone()
        for a, b in zip(model(x), Program(steps)(x.clone()), strict=True):
            torch.testing.assert_close(a, b)
        assert torch.equal(x, given_x)
