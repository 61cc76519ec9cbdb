"""What cannot be traced, what the trace fixes, and what the rewritten model refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from aimet_torch.graph import trace
from tests.python.graph.helpers import graph_of, module, types
from tests.python.models import FIXTURES, image, rows


def test_nested_names_and_containers():
    graph = graph_of("Nested")
    names = [op.name for op in graph.ops]
    assert names[:3] == ["stem.conv", "stem.act", "stem1.0.conv"]
    assert "stem1.0.add" in names
    assert (
        "stem1_cat" in names
    )  # not inside the user's Sequential: it would become one of its layers
    model = graph.to_module()
    assert len(model.stem1) == 2
    assert isinstance(model.stem1[0].add, nn.Module)
    assert [o.name for o in graph.outputs] == ["heads.left", "heads.right"]
    assert all(v.is_model_output for v in graph.outputs)


def test_optional_arguments_are_fixed():
    model = graph_of("KeywordInputs").to_module()
    x, y = rows(2, 4), rows(2, 4)
    model(x, y=y)
    model(x, None, y=y, scale=2.0)
    with pytest.raises(ValueError, match=r"`mask` was None .* got a tensor"):
        model(x, x, y=y)
    with pytest.raises(ValueError, match=r"`scale` was 2.0 .* got 3.0"):
        model(x, y=y, scale=3.0)


def test_shape_decisions_are_recorded_and_guarded():
    graph = graph_of("ShapeArithmetic")
    assert any("x.shape[2]" in note and "models.py" in note for note in graph.specializations)
    model = graph.to_module()
    model(image(5))
    with pytest.raises(
        ValueError, match=r"\(\(x.shape\[2\] % 2\) == 0\)` at models.py:\d+ was True,.* it is False"
    ):
        model(image(2, size=7))


def test_loops_over_a_size_are_guarded():
    model = trace(FIXTURES["Recurrent"].build().eval(), rows(2, 5, 4)).to_module()
    with pytest.raises(ValueError, match=r"y?.*shape\[1\].* was 5"):
        model(rows(2, 6, 4))


def test_boundary_tells_reason_and_contents():
    graph = graph_of("DataDependentPart")
    (boundary,) = graph.boundaries
    assert boundary.name == "router"
    assert "`item` makes Python depend on the values of a tensor (models.py:" in boundary.reason
    assert boundary.unquantized_ops == {"relu": 1, "mean": 1, "add": 1}
    assert [(op.name, op.op_type) for op in boundary.ops] == [("router.right", "Conv")]
    assert boundary.ops[0].outputs[0].shape == (2, 4, 8, 8)
    assert types(graph) == ["Conv", "Boundary", "Relu"]
    model = graph.to_module()
    assert type(model.router) is type(FIXTURES["DataDependentPart"].build().router)


def test_root_boundary_keeps_the_model():
    graph = graph_of("DataDependentRoot")
    assert graph.is_one_boundary
    assert types(graph) == ["Boundary"]
    assert [op.name for op in graph.boundaries[0].ops] == ["conv"]
    cls = type(graph.model)
    assert type(graph.to_module()) is cls
    graph.recompile()


def test_errors_of_the_model_are_its_own():
    def forward(self, x):
        raise LookupError("my own problem")

    with pytest.raises(LookupError, match="my own problem"):
        trace(module(lambda self, x: self.part(x), part=module(forward)), image(1))
    with pytest.raises(TypeError, match="missing a required argument"):
        trace(module(lambda self, x, y: x), image(1))


def test_user_code_may_catch_exceptions_but_not_the_tracer():
    def forward(self, x):
        try:
            return x * 2 if x.mean() > 0 else x
        except Exception:
            return x

    graph = trace(module(lambda self, x: self.part(x) + 1, part=module(forward)), image(1))
    assert [b.name for b in graph.boundaries] == ["part"]


def test_data_that_does_not_depend_on_the_input_is_fixed():
    def forward(self, x):
        return x * 2 if torch.linspace(0, 1, 3).sum() > 1 else x

    graph = trace(module(forward), image(1))
    assert graph.boundaries == []
    assert any("`__bool__`" in note for note in graph.specializations)


def test_sizes_that_depend_on_data_are_a_boundary():
    def forward(self, x):
        return x * 2 if x[x > 0].shape[0] > 3 else x

    graph = trace(module(lambda self, x: self.part(x), part=module(forward)), image(1))
    assert [b.name for b in graph.boundaries] == ["part"]


@pytest.mark.parametrize(
    "outside", [lambda x: torch.tensor(x.tolist()), lambda x: torch.from_numpy(x.numpy() * 2)]
)
def test_tensors_that_leave_pytorch_are_a_boundary(outside):
    graph = trace(
        module(lambda self, x: self.part(x) + 1, part=module(lambda self, x: outside(x))), image(1)
    )
    assert [b.name for b in graph.boundaries] == ["part"]


def test_results_of_scripted_functions_are_not_baked_in():
    @torch.jit.script
    def scripted(x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1

    model = module(lambda self, x: self.part(x) + 1, part=module(lambda self, x: scripted(x)))
    graph = trace(model, image(1))
    assert [b.name for b in graph.boundaries] == ["part"]
    x = image(3)
    assert torch.equal(graph.to_module()(x), x * 2 + 1 + 1)


def test_constants_of_the_program_are_constants():
    table = torch.arange(3.0).view(3, 1, 1)
    graph = trace(module(lambda self, x: x * table), image(1))
    assert [v.kind for v in graph.ops[0].inputs] == ["input", "constant"]
    model = graph.to_module()
    assert list(model.state_dict()) == []
    x = image(3)
    assert torch.equal(copy.deepcopy(model)(x), x * table)


def test_replaced_buffers_are_a_boundary():
    class Average(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(1))

        def forward(self, x):
            self.mean = self.mean * 0.9 + x.mean()
            return x - self.mean

    graph = trace(module(lambda self, x: self.part(x) * 2, part=Average()), image(1))
    assert [b.name for b in graph.boundaries] == ["part"]
    assert torch.equal(graph.model.part.mean, torch.zeros(1))


def test_writes_to_buffers_are_repeated():
    model = graph_of("Stateful").to_module()
    model(image(2))
    model(image(2))
    assert model.calls == 2
    assert any("`last`" in note for note in graph_of("Stateful").specializations)


def test_autocast_regions_are_a_boundary():
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.fc(x)

    part = module(forward, fc=nn.Linear(4, 4))
    graph = trace(module(lambda self, x: self.part(x).float(), part=part), rows(2, 4))
    assert [b.name for b in graph.boundaries] == ["part"]


def test_functions_as_arguments_are_a_boundary():
    class Apply(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, function):
            return function(x)

    part = module(lambda self, x: Apply.apply(x, torch.sin))
    graph = trace(module(lambda self, x: self.part(x), part=part), image(1))
    assert [b.name for b in graph.boundaries] == ["part"]


@pytest.mark.parametrize(
    "check",
    [
        "assert x.isfinite().all()",
        "assert bool((x < 100).all()), 'too large'",
        "assert x.dim() == 4 and (x < 100).all()",
        "torch._assert((x < 100).all(), 'too large')",
        "if x.isnan().any(): raise ValueError(f'{x.shape} has NaN')",
    ],
)
def test_checks_of_values_are_left_out(check):
    namespace = {"torch": torch}
    exec(f"def forward(self, x):\n    {check}\n    return self.conv(x)", namespace)
    graph = trace(module(namespace["forward"], conv=nn.Conv2d(3, 3, 1)), image(1))
    assert graph.boundaries == []
    assert any("check of tensor values" in note for note in graph.specializations)


def test_conditions_on_values_are_no_checks():
    def forward(self, x):
        y = x * 2
        if (x < 100).all():
            return y
        return x

    graph = trace(module(lambda self, x: self.part(x), part=module(forward)), image(1))
    assert [b.name for b in graph.boundaries] == ["part"]


def test_containers_of_the_model_are_put_back():
    def forward(self, x):
        self.log.append(x.shape[0])
        self.table[x.shape[0]] = x
        self.seen = {"new": 1}
        return x * 2

    model = module(forward)
    model.log, model.table, model.seen = [], {}, {"old": 0}
    seen = model.seen
    trace(model, image(1))
    assert (model.log, model.table, model.seen) == ([], {}, {"old": 0})
    assert model.seen is seen


def test_regions_without_gradients_are_noted():
    def forward(self, x):
        with torch.no_grad():
            return x * 2

    graph = trace(module(forward), image(1))
    assert types(graph) == ["Mul"]
    assert any("without gradients" in note for note in graph.specializations)


def test_guards_work_with_symbolic_sizes():
    fixture = FIXTURES["ShapeArithmetic"]
    model = trace(fixture.build().eval(), fixture.inputs(2)).to_module()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", dynamic=True, fullgraph=True)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (image(2),), dynamic_shapes={"x": {0: batch}}).module()
    with torch.no_grad():
        for run in (compiled, exported):
            torch.testing.assert_close(run(image(5)), model(image(5)))
