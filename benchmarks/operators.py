"""Cases on single operators."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from benchmarks import agreement
from benchmarks.harness import Case, aimet, bound, pytorch
from benchmarks.subjects import QMAX, QMIN, affine_inputs, sample, training_subject
from benchmarks.timing import Subject

SMALL, LARGE = (32, 1024), (16, 1024, 1024)
#: Largest scale that `affine_inputs` draws.
STEP = 3 / QMAX * 1.1


def clone(**arguments: Any) -> Subject:
    """Copy the same bytes."""
    x = affine_inputs(**arguments).x
    return Subject(x.clone)


def torch_fake_quantize(**arguments: Any) -> Subject:
    """PyTorch's fake-quantize operator, per tensor or per channel, without gradients."""
    given = affine_inputs(**arguments)
    axis = arguments.get("axis")
    with torch.no_grad():
        if axis is None:
            scale = float(given.scale)
            return Subject(
                lambda: torch.fake_quantize_per_tensor_affine(given.x, scale, 0, QMIN, QMAX)
            )
        scales = given.scale.flatten()
        zero_points = torch.zeros(len(scales), dtype=torch.int32)
        return Subject(
            lambda: torch.fake_quantize_per_channel_affine(
                given.x, scales, zero_points, axis, QMIN, QMAX
            )
        )


def torch_training(*, learned: bool, only_backward: bool, **arguments: Any) -> Subject:
    """PyTorch's fake-quantize operators with gradients."""
    given = affine_inputs(**arguments)
    x = given.x.requires_grad_()
    if not learned:
        scale = float(given.scale)
        return training_subject(
            lambda: torch.fake_quantize_per_tensor_affine(x, scale, 0, QMIN, QMAX),
            [x],
            given.gradient,
            only_backward,
        )
    learned_scale = given.scale.reshape(1).requires_grad_()
    zero_point = torch.zeros(1, requires_grad=True)

    def forward() -> torch.Tensor:
        return torch._fake_quantize_learnable_per_tensor_affine(
            x, learned_scale, zero_point, QMIN, QMAX, 1.0
        )

    return training_subject(forward, [x, learned_scale, zero_point], given.gradient, only_backward)


def add_into(*, learned: bool, only_backward: bool, **arguments: Any) -> Subject:
    """Read two tensors and write one: the traffic of a backward; before it, that of a forward."""
    given = affine_inputs(**arguments)
    out = torch.empty_like(given.x)
    if only_backward:
        return Subject(lambda: torch.add(given.x, given.gradient, out=out), compute=tuple)

    def run() -> None:
        given.x.clone()
        torch.add(given.x, given.gradient, out=out)

    return Subject(run, compute=tuple)


def add_new(**arguments: Any) -> Subject:
    """Compute as `add_into` does, into fresh memory, as every operator that returns a tensor."""
    given = affine_inputs(arguments["shape"])
    return Subject(lambda: given.x + given.gradient, compute=tuple)


def per_tensor(**arguments: Any) -> Subject:
    """Run our own operator with one scale for the whole tensor."""
    from benchmarks.subjects import fake_quantize

    return fake_quantize(shape=arguments["shape"])


def forward_and_limits(*, shape: tuple[int, ...]) -> Subject:
    """Run forward and `min_max` one after the other."""
    from aimet_torch import ops

    given = affine_inputs(shape)

    def run() -> tuple[torch.Tensor, ...]:
        output = ops.quantize_dequantize(given.x, given.scale, given.offset, QMIN, QMAX)
        return output, *ops.min_max(given.x, ())

    return Subject(run)


def aminmax(*, shape: tuple[int, ...]) -> Subject:
    """Run `torch.aminmax`."""
    x = sample(shape)
    return Subject(lambda: torch.aminmax(x))


def histc(*, shape: tuple[int, ...], **_: Any) -> Subject:
    """Run `torch.histc` with 2,048 bins over the whole tensor; it does not search."""
    x = sample(shape)
    return Subject(lambda: torch.histc(x, 2048), compute=tuple)


def fake_quantize_case(label: str, title: str, against: tuple[Any, ...], **arguments: Any) -> Case:
    """Make a case of the forward."""
    name = f"quantize_dequantize/{label}"
    return Case(name, f"quantize-dequantize, {title}", "fake_quantize", arguments, against)


def training_case(
    label: str, title: str, limit: float | None, learned: bool, only_backward: bool, shape: Any
) -> Case:
    """Make a case with a backward."""
    arguments = {"learned": learned, "only_backward": only_backward, "shape": shape}
    name = "torch.add(x, g, out=y)" if only_backward else "clone + torch.add"
    # What memory costs that the system has to hand out first is seen beside the target's rival.
    fresh = (bound("x + g", add_new),) if only_backward else ()
    rivals = (
        bound(name, add_into, limit),
        *fresh,
        # PyTorch's zero point is the negative of our offset: its gradient is not compared.
        pytorch("PyTorch fake_quantize", torch_training, agreement.gradients(2)),
        aimet(agreement.gradients()),
    )
    return Case(
        f"quantize_dequantize/{label}",
        f"quantize-dequantize, {title}",
        "fake_quantize_training",
        arguments,
        rivals,
    )


def _codes() -> agreement.Rule:
    return agreement.within_one_step(STEP)


def forward_cases() -> list[Case]:
    """Return the cases of the forward."""
    cases = []
    for label, shape in (("32K", SMALL), ("16M", LARGE)):
        rivals = (
            bound("clone", clone, 1.25),
            pytorch("PyTorch fake_quantize", torch_fake_quantize, _codes(), 1 / 20),
            aimet(_codes(), 1 / 10),
        )
        cases.append(fake_quantize_case(label, f"{label} float32", rivals, shape=shape))
    for axis, place in ((0, "0"), (1, "1"), (2, "last")):
        rivals = (
            bound("per tensor", per_tensor, 1.3, agreement.nothing_to_compare("other scales")),
            pytorch("PyTorch fake_quantize", torch_fake_quantize, _codes()),
            aimet(_codes()),
        )
        title = f"16M float32, channels on axis {place}"
        cases.append(
            fake_quantize_case(f"axis_{place}", title, rivals, shape=(64, 512, 512), axis=axis)
        )
    rivals = (
        bound("per tensor", per_tensor, 1.3, agreement.nothing_to_compare("other scales")),
        aimet(_codes()),
    )
    cases.append(
        fake_quantize_case(
            "blocks_32", "16M float32, blocks of 32", rivals, shape=(4096, 4096), block=32
        )
    )
    for dtype in ("float16", "bfloat16"):
        rivals = (
            bound("clone", clone, 2.0),
            pytorch("PyTorch fake_quantize", torch_fake_quantize, agreement.equal()),
            aimet(agreement.equal()),
        )
        cases.append(fake_quantize_case(dtype, f"16M {dtype}", rivals, shape=LARGE, dtype=dtype))
    return cases


def small_cases() -> list[Case]:
    """Return the cases where the way to the kernel is all that counts."""
    shape = (16,)
    forward = (
        pytorch("PyTorch fake_quantize", torch_fake_quantize, _codes(), 2.0),
        aimet(_codes()),
    )
    both = {"learned": True, "only_backward": False, "shape": shape}
    training = (
        pytorch("PyTorch fake_quantize", torch_training, agreement.gradients(2), 2.0),
        aimet(agreement.gradients()),
    )
    return [
        fake_quantize_case("16_elements", "one call on 16 elements", forward, shape=shape),
        Case(
            "quantize_dequantize/16_elements_training",
            "the same, forward and backward, learned range",
            "fake_quantize_training",
            both,
            training,
        ),
    ]


def statistics_cases() -> list[Case]:
    """Return the cases of calibration."""
    cases = [
        Case(
            "min_max/16M",
            "min and max, 16M float32",
            "min_max",
            {"shape": LARGE},
            (bound("torch.aminmax", aminmax, 1.1, agreement.equal()),),
        )
    ]
    fused = (
        bound("forward", per_tensor, 1.1, agreement.nothing_to_compare("computes less")),
        bound("forward, then min_max", forward_and_limits, None, agreement.equal()),
    )
    cases.append(
        Case(
            "quantize_dequantize/with_limits_16M",
            "quantize-dequantize with min and max of the input, 16M float32",
            "quantize_and_observe",
            {"shape": LARGE},
            fused,
        )
    )
    return [*cases, *search_cases()]


def search_cases() -> list[Case]:
    """Return the cases of histograms and range searches."""
    # aimet-torch searches neither by squared error alone nor by entropy. Candidates of SQNR are 1 %
    # of the widest range apart; percentiles are edges of bins.
    searches = (
        ("sqnr", "SQNR", "SqnrEncodingAnalyzer", (aimet(agreement.candidates(0.0102, 0.02)),)),
        ("percentile", "percentile", "PercentileEncodingAnalyzer", (aimet(agreement.close(2e-3)),)),
        ("mse", "MSE", "MseEncodingAnalyzer", ()),
        ("entropy", "entropy", "EntropyEncodingAnalyzer", ()),
    )
    shapes: tuple[tuple[str, str, tuple[int, ...], bool], ...] = (
        ("tensor", "per tensor, 1M", (1024, 1024), False),
        ("512_channels", "512 channels, 2.4M", (512, 512, 3, 3), True),
    )
    cases = []
    for key, title, analyzer, theirs in searches:
        for place, where, shape, channels in shapes:
            arguments = {"shape": shape, "channels": channels, "analyzer": analyzer}
            faster = tuple(dataclasses.replace(rival, target=1 / 20) for rival in theirs)
            cases.append(
                Case(
                    f"histogram/{key}_{place}",
                    f"histogram and {title} search, {where} elements",
                    "observe",
                    arguments,
                    (bound("torch.histc", histc), *faster),
                )
            )
        cases.append(
            Case(
                f"histogram/{key}_search",
                f"{title} search alone, per tensor, 2,048 bins",
                "observe",
                {"shape": (1024, 1024), "channels": False, "analyzer": analyzer, "part": "search"},
                theirs,
                limit=1e-3,
            )
        )
    return cases


def cases() -> list[Case]:
    """Return all cases of this file."""
    training = [
        training_case("backward_16M", "16M, backward, learned range", 1.3, True, True, LARGE),
        training_case(
            "training_16M", "16M, forward and backward, learned range", None, True, False, LARGE
        ),
        training_case(
            "static_16M", "16M, forward and backward, static range", None, False, False, LARGE
        ),
    ]
    return [*forward_cases(), *training, *small_cases(), *statistics_cases()]
