"""``aimet compress``: a smaller model, and how well it agrees with the original."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from aimet_torch.cli._codes import NO, OK
from aimet_torch.cli._data import DATA_OPTIONS
from aimet_torch.cli._options import MODEL_OPTION, Option, add_command, resolve, write_recipe
from aimet_torch.cli._session import RECIPE, Run, print_json, say

__all__ = ["register"]

_SCHEMES = ("auto", "spatial", "weight", "prune")

OPTIONS = (
    MODEL_OPTION,
    *DATA_OPTIONS,
    Option("output", "folder of the results", "compressed", metavar="FOLDER"),
    Option(
        "ratio",
        "cost after over cost before, above 0 to 1: of the model; with --choose same, of each "
        "layer",
        0.5,
        float,
        metavar="X",
    ),
    Option(
        "scheme",
        "spatial: two one-dimensional kernels; weight: 1 x 1 and the kernel; auto: for each layer "
        "what loses least; prune: fewer channels",
        "auto",
        choices=_SCHEMES,
    ),
    Option(
        "choose",
        "ratios of the layers; exact: by their effect on the outputs; greedy: by many evaluations, "
        "as AIMET; same: --ratio for each (prune: what the model needs); auto: exact with data, "
        "otherwise same",
        "auto",
        choices=("auto", "exact", "greedy", "same"),
    ),
    Option(
        "evaluate",
        "exact, greedy: package.module:function of a function from a model to a score, higher is "
        "better; default: how much of the outputs is kept on the samples that measure",
        metavar="FUNCTION",
    ),
    Option("metric", "what the ratio compares", "mac", choices=("mac", "memory")),
    Option("multiplicity", "ranks are rounded up to multiples of this", 1, int, metavar="N"),
    Option("keep", "layers that keep their shape, by name", metavar="LAYER", is_list=True),
    Option("refit", "with data: fit the weights of all other layers, too", True, bool),
    Option(
        "example",
        "example input, if there is no data: a shape such as 1x3x224x224, or "
        "package.module:function",
        metavar="INPUT",
    ),
    Option("device", "where the work is done, such as cuda", "cpu", metavar="DEVICE"),
    Option(
        "min_agreement",
        "exit code 1 below this top-1 agreement with the original, 0 to 1",
        kind=float,
        metavar="X",
    ),
)


def register(commands: Any) -> None:
    """Add the parser of ``compress``."""
    parser = add_command(
        commands,
        "compress",
        "make a model smaller by low-rank factors or fewer channels",
        "Replace layers by two smaller ones each, or take channels out, fitted to data if there is "
        "any, and\nmeasure how well the result agrees with the original. Writes into the folder: "
        "recipe.toml (repeats the\nrun), model.pt2 (a torch.export program, also for `aimet "
        "quantize`), model.pt (a pickled module, for\ntraining), compression.json and, where "
        "ratios were chosen, compression.html.",
        "aimet compress my_model:load --data photographs --ratio 0.6",
        OPTIONS,
    )
    parser.set_defaults(run=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = resolve(namespace, "compress", OPTIONS)
    run = Run("compress", Path(options.output))
    outcome: Any = None
    with run.interruptible():
        outcome = _compress(run, options)
    if run.code is not None:
        return run.code
    result, step = outcome
    measured = step is not None and step.top1_agreement is not None
    if options.json:
        files = [str(run.folder / name) for name, _ in run.files]
        agreement = vars(step) if step is not None else None
        print_json({**result.to_dict(), "agreement": agreement, "files": files})
    else:
        from aimet_torch.report.pages import format_db, format_percent

        print(getattr(result, "summary", result))  # candidates are in the files
        if step is not None:
            print(
                f"\nagreement with the original: top-1 {format_percent(step.top1_agreement)}, SQNR "
                f"{format_db(step.sqnr_db)} {step.detail}"
            )
        for name, what in run.files:
            print(f"  {run.folder / name}  {what}")
    if options.min_agreement is None:
        return OK
    is_enough = measured and step.top1_agreement >= options.min_agreement
    if not is_enough:
        say(f"aimet compress: top-1 agreement is below {options.min_agreement:g}, or not measured")
    return OK if is_enough else NO


def _compress(run: Run, options: argparse.Namespace) -> Any:
    import torch

    from aimet_torch.cli import _measure
    from aimet_torch.cli._prepare import prepare

    job = prepare("compress", options, needs_data=False)
    unknown = [n for n in options.keep or () if n not in dict(job.model.named_modules())]
    if unknown:
        raise ValueError(f"compress: --keep names {unknown[0]!r}, which is no layer of the model")
    run.folder.mkdir(parents=True, exist_ok=True)
    path = write_recipe(run.folder / RECIPE, "compress", vars(options), OPTIONS)
    run.finished(path, "repeats this run: aimet compress --recipe")
    start = time.perf_counter()
    say(f"compressing to {options.ratio:g} of the {options.metric}s")
    model, result = _smaller(run, job, options)
    run.finished(result.write_json(run.folder / "compression.json"), "what became of each layer")
    _save(run, model, job.example, torch)
    if not job.batches.measurement:
        return result, None
    say("measuring")
    reference, outputs = (
        _measure.outputs_of(model, job.batches.measurement, name)
        for model, name in ((job.model, "original"), (model, "compressed"))
    )
    labels = job.batches.labels
    return result, _measure.step("compressed", start, reference, outputs, labels)


def _smaller(run: Run, job: Any, options: argparse.Namespace) -> tuple[Any, Any]:
    """The compressed model, and what became of its layers."""
    from aimet_torch.common.defs import CostMetric
    from aimet_torch.compression import factorize, prune

    if _how_to_choose(job, options) != "same":
        page = run.folder / "compression.html"
        found = _chosen(job, options, page)
        run.finished(page, "ratios, scores and costs, with pictures")
        return found
    common: dict[str, Any] = {
        "metric": CostMetric[options.metric],
        "multiplicity": options.multiplicity,
        "modules_to_ignore": [job.model.get_submodule(name) for name in options.keep or ()],
        "data": job.batches.calibration or None,
    }
    if options.scheme == "prune":
        result: Any = prune(job.model, job.example, options.ratio, **common)
    else:
        result = factorize(
            job.model,
            job.example,
            options.ratio,
            scheme=options.scheme,
            refit=options.refit,
            **common,
        )
    return result.model, result


def _how_to_choose(job: Any, options: argparse.Namespace) -> str:
    if options.choose != "auto":
        return str(options.choose)
    can_score = options.evaluate is not None or job.batches.measurement
    return "exact" if job.batches.calibration and can_score else "same"


def _chosen(job: Any, options: argparse.Namespace, page: Path) -> tuple[Any, Any]:
    """As :func:`_smaller`, with a ratio for each layer of its own."""
    from aimet_torch.common.defs import CompressionScheme, CostMetric
    from aimet_torch.compression import ModelCompressor, defs

    data = job.batches.calibration or None
    choose = _how_to_choose(job, options)
    if choose == "exact" and data is None:
        raise ValueError("compress: --choose exact needs --data")
    selection: Any = (
        defs.ExactSelectionParameters(options.ratio, data_loader=data)
        if choose == "exact"
        else defs.GreedySelectionParameters(options.ratio)
    )
    kept = [job.model.get_submodule(name) for name in options.keep or ()]
    auto = defs.Mode.auto
    if options.scheme == "prune":
        scheme = CompressionScheme.channel_pruning
        mode = defs.AutoModeParams(selection, kept)
        parameters: Any = defs.ChannelPruningParameters(
            data,
            options.samples,
            False,
            auto,
            mode,
            options.multiplicity,
            "magnitude" if data is None else "gram",
        )
    elif options.scheme == "weight":
        scheme = CompressionScheme.weight_svd
        mode = defs.WeightSvdAutoModeParams(defs.RankSelectScheme.greedy, selection, kept)
        parameters = defs.WeightSvdParameters(auto, mode, options.multiplicity, data)
    else:
        is_auto = options.scheme == "auto"
        scheme = CompressionScheme.low_rank if is_auto else CompressionScheme.spatial_svd
        kind = defs.LowRankParameters if is_auto else defs.SpatialSvdParameters
        mode = defs.AutoModeParams(selection, kept)
        parameters = kind(auto, mode, options.multiplicity, data)
    return ModelCompressor.compress_model(
        job.model,
        _evaluation(job, options),
        None,
        job.example,
        scheme,
        CostMetric[options.metric],
        parameters,
        visualization_url=page,
    )


def _evaluation(job: Any, options: argparse.Namespace) -> Any:
    """A score of models: the user's, or the share of the outputs' power that is kept."""
    from aimet_torch.cli import _measure
    from aimet_torch.cli._models import object_named

    if options.evaluate is not None:
        function = object_named(options.evaluate, "--evaluate")
        return lambda model, *_: float(function(model))
    batches = job.batches.measurement
    if not batches:
        raise ValueError(f"compress: --choose {options.choose} needs --data, or --evaluate")
    reference = _measure.outputs_of(job.model, batches, "original")
    power = sum(o.square().sum().item() for o in reference)

    def score(model: Any, *_: Any) -> float:
        outputs = _measure.outputs_of(model, batches, "evaluating")
        noise = sum((o - r).square().sum().item() for o, r in zip(outputs, reference, strict=True))
        return 1.0 - noise / power if power else 0.0

    return score


def _save(run: Run, model: Any, example: Any, torch: Any) -> None:
    from aimet_torch.graph import bind_inputs

    pickled = run.folder / "model.pt"
    temporary = pickled.with_name("model.pt.part")
    try:
        torch.save(model, temporary)
        temporary.replace(pickled)
        run.finished(pickled, "the module, for torch.load(..., weights_only=False)")
    except Exception as error:  # classes made on the fly have no pickle
        temporary.unlink(missing_ok=True)
        say(f"model.pt is left out: the model cannot be pickled: {error}")
    program = _program(model, *bind_inputs(model, example))
    path = run.folder / "model.pt2"
    temporary = run.folder / ".model.part.pt2"  # torch wants this suffix
    torch.export.save(program, temporary)
    temporary.replace(path)
    run.finished(path, "a torch.export program, also for aimet quantize")


def _program(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The model as a program, for any number of samples where it allows that."""
    import inspect

    import torch

    from aimet_torch.export.dynamic_sizes import widen_open_sizes
    from aimet_torch.export.program import open_first_size

    opened = [open_first_size(value) for value in (*args, *kwargs.values())]
    wide, wide_kwargs = widen_open_sizes(model, args, kwargs, {"dynamic_shapes": opened})
    bound = inspect.signature(model.forward).bind(*wide, **wide_kwargs)
    shapes = {name: open_first_size(value) for name, value in bound.arguments.items()}
    try:
        return torch.export.export(model, wide, wide_kwargs, dynamic_shapes=shapes)
    except Exception as error:
        say(f"model.pt2 takes batches of the example's size only: {str(error).splitlines()[0]}")
        return torch.export.export(model, args, kwargs)
