"""``aimet analyze``: which layers quantization hurts, why, and what to do."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from aimet_torch.cli._codes import OK
from aimet_torch.cli._data import DATA_OPTIONS
from aimet_torch.cli._options import Option, add_command, resolve, write_recipe
from aimet_torch.cli._session import RECIPE, SIMULATION, Run, load_simulation, print_json, say

__all__ = ["register"]

OPTIONS = (
    Option(
        "model",
        "a folder of `aimet quantize` (its simulation is analyzed), package.module:function of a "
        "function that returns a trained model, or the path of a .pt2 or TorchScript file",
        metavar="MODEL",
        is_positional=True,
        is_required=True,
    ),
    *(
        dataclasses.replace(option, default=64, help="how many samples are looked at")
        if option.name == "samples"
        else option
        for option in DATA_OPTIONS
        if option.name != "measure_samples"
    ),
    Option("output", "folder of the results", "analysis", metavar="FOLDER"),
    Option("param_bits", "of a trained model: bits of weights", 8, int, metavar="N"),
    Option("activation_bits", "of a trained model: bits of activations", 8, int, metavar="N"),
    Option(
        "scheme",
        "of a trained model: how ranges of activations are found",
        "min_max",
        choices=("min_max", "tf_enhanced", "percentile", "mse"),
    ),
    Option("config", "of a trained model: placement rules, such as htp_v73", metavar="NAME"),
    Option(
        "bitwidths", "that sensitivity is estimated for", (4, 8, 16), int, metavar="N", is_list=True
    ),
    Option(
        "loss",
        "what an error of the outputs is; cross_entropy: for classifiers",
        "squared_error",
        choices=("squared_error", "cross_entropy"),
    ),
    Option(
        "evaluate",
        "package.module:function of a function from a model to a score, higher is better: the "
        "whole model is evaluated, too",
        metavar="FUNCTION",
    ),
    Option("per_layer", "with --evaluate: evaluate every layer by itself", False, bool),
    Option(
        "example",
        "example input instead of one sample of the data: a shape such as 1x3x224x224, or "
        "package.module:function",
        metavar="INPUT",
    ),
    Option("device", "where the work is done, such as cuda", "cpu", metavar="DEVICE"),
)


def register(commands: Any) -> None:
    """Add the parser of ``analyze``."""
    parser = add_command(
        commands,
        "analyze",
        "tell which layers quantization hurts, why, and what to do",
        "Find out which tensors cost the accuracy, and name the calls that mend it. Writes into "
        "the folder:\nrecipe.toml (repeats the run), analysis.html (one page with pictures) and "
        "analysis.json.",
        "aimet analyze my_model:load --data photographs --output analysis",
        OPTIONS,
    )
    parser.set_defaults(run=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = resolve(namespace, "analyze", OPTIONS)
    if options.per_layer and options.evaluate is None:
        raise ValueError("analyze: --per-layer needs --evaluate")
    run = Run("analyze", Path(options.output))
    found: Any = None
    with run.interruptible():
        found = _analyze(run, options)
        run.finished(found.write_html(run.folder / "analysis.html"), "findings, with pictures")
        run.finished(found.write_json(run.folder / "analysis.json"), "the same for programs")
    if run.code is not None:
        return run.code
    if options.json:
        print_json(found.to_dict())
    else:
        print(found)
        for name, what in run.files:
            print(f"  {run.folder / name}  {what}")
    return OK


def _analyze(run: Run, options: argparse.Namespace) -> Any:
    from aimet_torch.analysis import analyze
    from aimet_torch.cli._models import object_named

    score = None if options.evaluate is None else object_named(options.evaluate, "--evaluate")
    model, example, batches = _inputs(options)
    run.folder.mkdir(parents=True, exist_ok=True)
    path = write_recipe(run.folder / RECIPE, "analyze", vars(options), OPTIONS)
    run.finished(path, "repeats this run: aimet analyze --recipe")
    say("analyzing")
    return analyze(
        model,
        example,
        batches,
        score,
        bitwidths=list(options.bitwidths),
        loss=options.loss,
        per_layer=options.per_layer,
        title=options.model,
        default_param_bw=options.param_bits,
        default_output_bw=options.activation_bits,
        quant_scheme=options.scheme,
        config_file=options.config,
    )


def _inputs(options: argparse.Namespace) -> tuple[Any, Any, list[Any]]:
    """A simulation or a model, the example input, and the batches."""
    from aimet_torch.cli._measure import to_device
    from aimet_torch.cli._prepare import prepare, recipe_batches

    # No sample is set apart: nothing is fitted here.
    options = argparse.Namespace(**{**vars(options), "measure_samples": 0})
    folder = Path(options.model)
    if not (folder / SIMULATION).is_file() and folder.name != SIMULATION:
        if folder.is_dir():
            load_simulation(folder)  # says what is missing
        job = prepare("analyze", options, needs_data=True)
        return job.model, job.example, job.batches.calibration
    content = load_simulation(folder)
    sim = content["sim"]
    sim.model.to(options.device)
    names = [option.name for option in DATA_OPTIONS if option.name in vars(options)]
    given = {name: getattr(options, name) for name in names} if options.data else {}
    batches = recipe_batches(
        content, {**given, "samples": options.samples, "measure_samples": 0}, "analyze"
    )
    example = to_device(content["example"], options.device)
    return sim, example, to_device(batches.calibration, options.device)
