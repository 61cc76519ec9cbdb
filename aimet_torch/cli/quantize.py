"""``aimet quantize``: a trained model to a calibrated simulation, its report and its files."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from aimet_torch.cli._codes import NO, OK
from aimet_torch.cli._data import DATA_OPTIONS
from aimet_torch.cli._exports import EXPORT_OPTIONS, Settings
from aimet_torch.cli._options import MODEL_OPTION, Option, add_command, resolve, write_recipe
from aimet_torch.cli._session import RECIPE, SIMULATION, Run, print_json, save_simulation, say

__all__ = ["register"]

_FORMATS = ("encodings", "qdq", "torchscript", "torchscript_encodings", "pt2", "compiled")
_SCHEMES = ("auto", "min_max", "tf_enhanced", "percentile", "mse")

OPTIONS = (
    MODEL_OPTION,
    *DATA_OPTIONS,
    Option("output", "folder of the results", "quantized", metavar="FOLDER"),
    Option(
        "method",
        "repair: all that helps without labels; calibrate: ranges alone, with batch norms folded; "
        "data-free: from the weights alone",
        "repair",
        choices=("repair", "calibrate", "data-free"),
    ),
    Option("param_bits", "bits of weights", 8, int, metavar="N"),
    Option("activation_bits", "bits of activations", 8, int, metavar="N"),
    Option(
        "scheme",
        "how ranges of activations are found; auto: mse for convolutional networks, else min_max",
        "auto",
        choices=_SCHEMES,
    ),
    Option(
        "config",
        "placement rules: an alias such as htp_v73, or a JSON file; default: weights per channel",
        metavar="NAME",
    ),
    Option("equalize", "repair: equalize weights across layers", False, bool),
    Option("round_weights", "repair: choose the rounding of each weight", True, bool),
    Option(
        "alpha",
        "repair: how much of the spread of activations moves into weights, 0 to 1; 0: none",
        0.5,
        float,
        metavar="X",
    ),
    Option("range_iterations", "repair: steps that learn ranges", 0, int, metavar="N"),
    Option("exclude", "layers that stay in floating point, by name", metavar="LAYER", is_list=True),
    Option(
        "formats",
        f"what is exported: {', '.join(_FORMATS)}; nothing of that: simulation",
        ("encodings",),
        choices=("simulation", *_FORMATS),
        metavar="FORMAT",
        is_list=True,
        group="export",
    ),
    *EXPORT_OPTIONS,
    Option(
        "example",
        "example input, if the data has none: a shape such as 1x3x224x224, or "
        "package.module:function",
        metavar="INPUT",
    ),
    Option("device", "where the work is done, such as cuda", "cpu", metavar="DEVICE"),
    Option(
        "min_agreement",
        "exit code 1 below this top-1 agreement with FP32, 0 to 1",
        kind=float,
        metavar="X",
    ),
    Option("min_sqnr", "exit code 1 below this SQNR of the outputs", kind=float, metavar="DB"),
)


def register(commands: Any) -> None:
    """Add the parser of ``quantize``."""
    parser = add_command(
        commands,
        "quantize",
        "quantize a trained model, measure it and export it",
        "Quantize a trained model without labels, measure how well it agrees with FP32, and write "
        "it for a target.\nWrites into the folder: recipe.toml (repeats the run), simulation.pt "
        "(for `aimet export` and\n`aimet verify`), report.html and report.json, and what --formats "
        "names.",
        "aimet quantize my_model:load --data photographs --output quantized",
        OPTIONS,
    )
    parser.set_defaults(run=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = resolve(namespace, "quantize", OPTIONS)
    run = Run("quantize", Path(options.output))
    result: dict[str, Any] = {}
    with run.interruptible():
        result = _quantize(run, options)
    if run.code is not None:
        return run.code
    if options.json:
        print_json({**result, "files": [str(run.folder / name) for name, _ in run.files]})
    else:
        print(result["table"])
        for name, what in run.files:
            print(f"  {run.folder / name}  {what}")
    for problem in result["problems"]:
        say(f"aimet quantize: {problem}")
    return NO if result["problems"] else OK


def _quantize(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    from aimet_torch.cli import _exports, _measure
    from aimet_torch.cli._prepare import prepare
    from aimet_torch.report import Step, describe_quantizers

    job = prepare("quantize", options, needs_data=options.method != "data-free")
    run.folder.mkdir(parents=True, exist_ok=True)
    path = write_recipe(run.folder / RECIPE, "quantize", vars(options), OPTIONS)
    run.finished(path, "repeats this run: aimet quantize --recipe")

    start = time.perf_counter()
    say("measuring FP32")
    reference = _measure.outputs_of(job.model, job.batches.measurement, "FP32")
    steps: list[Step] = [
        _measure.step("FP32", start, reference, reference, job.batches.labels),
    ]
    start = time.perf_counter()
    identity = _identity(job, options)
    kept = _kept(run.folder, identity)
    if kept is None:
        say(f"quantizing: {options.method}, W{options.param_bits}A{options.activation_bits}")
        sim = _simulate(job, options)
        save_simulation(
            run.folder / SIMULATION,
            {"sim": sim, "example": job.example, "identity": identity, "recipe": vars(options)},
        )
    else:
        say("quantizing: finished by an earlier run of the same recipe")
        sim = kept
    run.finished(run.folder / SIMULATION, "for aimet export and aimet verify")
    name = f"W{options.param_bits}A{options.activation_bits}, {options.method}"
    outputs = _measure.outputs_of(sim.model, job.batches.measurement, name)
    steps.append(_measure.step(name, start, reference, outputs, job.batches.labels))

    # First, so that it is there whatever the exporters make of the model.
    report = _report(run, options, job, sim, steps, describe_quantizers(sim))
    for format_name in options.formats:
        if format_name in _exports.FORMATS:
            say(f"exporting: {format_name}")
            files = _exports.write_format(
                format_name, sim, job.example, run.folder, None, Settings.of(options)
            )
            for file in files:
                what = _exports.FORMATS[format_name][1]
                run.finished(file, what if file is files[0] else "its encodings")
    report.files = list(run.files)
    report.write_json(run.folder / "report.json")
    report.write_html(run.folder / "report.html")
    return {
        "steps": [vars(row) for row in steps],
        "table": _table(steps, job.batches.note),
        "note": job.batches.note,
        "problems": _problems(steps[-1], options),
    }


def _identity(job: Any, options: argparse.Namespace) -> str:
    """A digest of all that decides the simulation."""
    from aimet_torch.common.version import __version__
    from aimet_torch.ptq.checkpoint import fingerprint

    names = (
        *("method", "param_bits", "activation_bits", "scheme", "config", "equalize"),
        *("round_weights", "alpha", "range_iterations", "exclude", "device"),
    )
    settings = [__version__, *(getattr(options, name) for name in names)]
    if options.config and Path(options.config).is_file():
        settings.append(Path(options.config).read_text(encoding="utf-8"))
    return fingerprint(job.model, [*job.batches.calibration, job.example], settings)


def _kept(folder: Path, identity: str) -> Any:
    """The simulation of an earlier run of the same job; None if there is none."""
    from aimet_torch.cli._session import load_simulation

    if not (folder / SIMULATION).is_file():
        return None
    try:
        content = load_simulation(folder)
    except ValueError:  # of another version, or of a model that is not there any more
        return None
    return content["sim"] if content.get("identity") == identity else None


def _simulate(job: Any, options: argparse.Namespace) -> Any:
    import copy

    from aimet_torch import ptq
    from aimet_torch.quantsim import QuantizationSimModel

    scheme = options.scheme
    if scheme == "auto":
        scheme = "mse" if job.is_convolutional else "min_max"
    common: dict[str, Any] = {
        "default_param_bw": options.param_bits,
        "default_output_bw": options.activation_bits,
        "config_file": options.config,
    }

    def exclude(sim: Any) -> None:
        if options.exclude:
            sim.exclude_layers_from_quantization(list(options.exclude))

    if options.method == "data-free":
        if options.scheme == "auto":
            scheme = "min_max"
        sim = ptq.data_free_quantization(job.model, job.example, quant_scheme=scheme, **common)
        exclude(sim)
        return sim
    if options.method == "calibrate":
        model = copy.deepcopy(job.model)
        ptq.fold_all_batch_norms(model, None, job.example)
        sim = QuantizationSimModel(model, job.example, scheme, in_place=True, **common)
        exclude(sim)
        sim.compute_encodings(job.batches.calibration)
        return sim
    return ptq.quantize_without_labels(
        job.model,
        job.example,
        job.batches.calibration,
        quant_scheme=scheme,
        equalizes_layers=options.equalize,
        alpha=options.alpha or None,
        rounds_weights=options.round_weights,
        range_iterations=options.range_iterations,
        configure=exclude,
        **common,
    )


def _report(
    run: Run, options: argparse.Namespace, job: Any, sim: Any, steps: list[Any], quantizers: Any
) -> Any:
    from aimet_torch.report import QuantizationReport, layer_sqnr

    batches = job.batches
    layers = []
    if batches.measurement:
        say("comparing layers")
        call = batches.measurement[0]
        layers = layer_sqnr(sim, *call) if isinstance(call, tuple) else []
        if not isinstance(call, (tuple, dict)):
            layers = layer_sqnr(sim, call)
    samples = f"{job.count(batches.calibration)} samples calibrated it"
    if batches.measurement:
        samples += f", {job.count(batches.measurement)} measured it"
    report = QuantizationReport(
        title=f"{options.model}: FP32 to {steps[-1].name}",
        description=f"{options.data or 'No data'}: {samples}. {batches.note}".strip(),
        steps=steps,
        subject=steps[-1].name,
        quantizers=quantizers,
        layers=layers,
        unquantized=[(row.name, "; ".join(row.outputs)) for row in sim.summary().float_ops],
        files=list(run.files),
    )
    run.finished(report.write_html(run.folder / "report.html"), "every layer, every quantizer")
    run.finished(report.write_json(run.folder / "report.json"), "the same for programs")
    return report


def _table(steps: list[Any], note: str) -> str:
    from aimet_torch.report.pages import format_db, format_percent, text_table

    rows = [
        (
            step.name,
            format_percent(step.top1_agreement),
            format_db(step.sqnr_db),
            f"{step.seconds:.1f} s",
            step.detail,
        )
        for step in steps
    ]
    table = text_table(("step", "top-1 as FP32", "SQNR", "time", ""), rows)
    return f"{table}\n({note})" if note else table


def _problems(step: Any, options: argparse.Namespace) -> list[str]:
    found = []
    for name, value, least in (
        ("top-1 agreement", step.top1_agreement, options.min_agreement),
        ("SQNR", step.sqnr_db, options.min_sqnr),
    ):
        if least is not None and value is None:
            found.append(f"{name} was not measured, {least:g} was asked for")
        elif least is not None and not value >= least:
            found.append(f"{name} {value:.4g} is below {least:g}")
    return found
