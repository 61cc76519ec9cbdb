"""AutoQuant: the order of attempts, when it stops, what it keeps, what it shows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from aimet_torch import QuantizationSimModel
from aimet_torch.auto_quant import AutoQuant
from aimet_torch.common.defs import QuantScheme
from aimet_torch.ptq.adaround import AdaroundParameters
from aimet_torch.ptq.auto_quant import QuantSchemePair

PAIRS = [
    QuantSchemePair(QuantScheme.min_max, QuantScheme.min_max),
    QuantSchemePair(QuantScheme.post_training_mse, QuantScheme.post_training_mse),
    QuantSchemePair(QuantScheme.min_max, QuantScheme.post_training_percentile, 99.0),
]


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5, bias=False),
    )  # fmt: skip
    with torch.no_grad():
        model[0].weight.mul_(torch.logspace(-1.5, 1.5, 8).reshape(-1, 1, 1, 1))
        model.train()(torch.cat(data()))
    return model.eval()


def data():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, 9, 9, generator=generator) for _ in range(3)]


class Accuracy:
    """Agreement with FP32 in decibels, and a list of what was asked."""

    def __init__(self, fails_at=None, result=None):
        self.reference = network()(torch.cat(data())).detach()
        self.calls, self.fails_at, self.result = 0, fails_at, result

    def __call__(self, model):
        self.calls += 1
        if self.fails_at == self.calls:
            if self.result is None:
                raise OSError("the test set is gone")
            return self.result
        error = (model(torch.cat(data())).detach() - self.reference).square().sum()
        power = self.reference.square().sum()
        return min(60.0, 10 * math.log10(power / (error + 1e-12)))


def make(folder, evaluate, **options):
    auto = AutoQuant(
        network(), data()[0], data(), evaluate, param_bw=4, results_dir=folder,
        config_file="default_per_tensor", **options
    )  # fmt: skip
    auto.set_quant_scheme_candidates(PAIRS)
    return auto


def test_everything_is_tried_in_order_and_the_best_is_returned(tmp_path):
    evaluate = Accuracy()
    auto = make(tmp_path, evaluate)
    model, accuracy, path = auto.optimize()
    names = [attempt.name for attempt in auto.attempts]
    assert len(names) == evaluate.calls - 1 == 8  # and FP32
    assert names[:2] == ["weights min-max, activations min-max", "weights MSE, activations MSE"]
    assert names[3].startswith("folding; ")
    assert names[4].startswith("equalization; ")
    assert " + activation equalization; " in names[5]
    assert " + bias correction; " in names[6]
    assert " + AdaRound; " in names[7]
    assert accuracy == max(attempt.accuracy for attempt in auto.attempts)
    # The result is the model that was measured: calibrated anew from its files it is as good.
    best = max(auto.attempts, key=lambda a: a.accuracy)
    sim = QuantizationSimModel(
        model, data()[0], default_param_bw=4, config_file="default_per_tensor"
    )
    sim.load_encodings(path, partial=False)
    assert Accuracy()(sim.model) == pytest.approx(best.accuracy, abs=0.5)  # biases on their grids
    assert (tmp_path / "auto_quant.onnx").exists()


def test_it_stops_at_the_first_attempt_that_is_good_enough(tmp_path):
    evaluate = Accuracy()
    auto = make(tmp_path, evaluate)
    _, accuracy, _ = auto.optimize(allowed_accuracy_drop=100.0)
    assert evaluate.calls == 2
    assert auto.attempts[0].is_good_enough
    assert accuracy == auto.attempts[0].accuracy


def test_a_second_job_takes_what_is_there_and_gives_the_same(tmp_path):
    first = make(tmp_path, Accuracy())
    _, accuracy, path = first.optimize()
    encodings = json.loads(Path(path).read_text())
    evaluate = Accuracy()
    second = make(tmp_path, evaluate)
    model, again, path = second.optimize()
    assert evaluate.calls == 0
    assert again == accuracy
    assert all(attempt.is_from_cache for attempt in second.attempts)
    assert json.loads(Path(path).read_text()) == encodings
    assert model(data()[0]).isfinite().all()


@pytest.mark.parametrize("change", ["weights", "data", "bits"])
def test_another_job_takes_nothing(tmp_path, change):
    make(tmp_path, Accuracy()).optimize(100.0)
    evaluate = Accuracy()
    other = make(tmp_path, evaluate)
    if change == "weights":
        other.model[9].weight.data[0, 0] += 1e-3
    elif change == "data":
        other.data_loader = [x + 1e-3 for x in data()]
    else:
        other.param_bw = 5
    other.optimize(100.0)
    assert evaluate.calls == 2


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, RuntimeError, "`eval_callback` raised OSError for .*: the test set is gone"),
        (math.nan, ValueError, "`eval_callback` returned NaN for "),
    ],
)
def test_a_failing_evaluation_keeps_what_is_finished(tmp_path, result, error, message):
    auto = make(tmp_path, Accuracy(fails_at=4, result=result))
    with pytest.raises(error, match=message):
        auto.optimize()
    page = (tmp_path / "auto_quant.html").read_text()
    assert "The job failed" in page
    assert "weights MSE, activations MSE" in page
    evaluate = Accuracy()
    auto = make(tmp_path, evaluate)
    auto.optimize()
    assert [attempt.is_from_cache for attempt in auto.attempts] == [True, True] + [False] * 6
    assert evaluate.calls == 6


def test_the_page_shows_every_attempt_and_needs_no_network(tmp_path):
    auto = make(tmp_path, Accuracy())
    _, accuracy, _ = auto.optimize()
    page = (tmp_path / "auto_quant.html").read_text()
    assert "http" not in page
    for attempt in auto.attempts:
        assert attempt.name in page
    document = json.loads((tmp_path / "auto_quant.json").read_text())
    assert document["target_accuracy"] == document["fp32_accuracy"] == 60.0
    assert {a["name"]: a["accuracy"] for a in document["attempts"]}[document["best"]] == accuracy


def test_inference_folds_and_quantizes(tmp_path):
    auto = make(tmp_path, Accuracy(), quant_scheme=QuantScheme.min_max)
    sim, accuracy = auto.run_inference()
    assert isinstance(sim, QuantizationSimModel)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in sim.model.modules())
    assert Accuracy()(sim.model) == pytest.approx(accuracy)


def test_a_failing_technique_is_noted_or_ends_the_job(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise ValueError("cannot equalize this")

    monkeypatch.setattr("aimet_torch.ptq.auto_quant.equalize_model", fails)
    with pytest.raises(RuntimeError, match=r"cannot equalize this.*strict_validation=False"):
        make(tmp_path, Accuracy()).optimize()
    auto = make(tmp_path, Accuracy(), strict_validation=False)
    auto.optimize()
    problems = [attempt.problem for attempt in auto.attempts if attempt.problem]
    assert problems == ["ValueError: cannot equalize this"]
    assert len(auto.attempts) == 8


def test_settings_of_adaround_are_used_and_decide_what_is_kept(tmp_path):
    make(tmp_path, Accuracy()).optimize()
    evaluate = Accuracy()
    auto = make(tmp_path, evaluate)
    auto.set_adaround_params(AdaroundParameters(data(), 1, method="relaxation"))
    auto.optimize()
    assert evaluate.calls == 9


def test_errors(tmp_path):
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got int"):
        AutoQuant(3, None, [], len)
    with pytest.raises(TypeError, match="`eval_callback` must be callable, got float"):
        AutoQuant(network(), None, [], 0.5)
    with pytest.raises(ValueError, match="`rounding_mode` must be 'nearest'"):
        AutoQuant(network(), None, [], len, rounding_mode="stochastic")
    with pytest.raises(ValueError, match="`allowed_accuracy_drop` must not be negative"):
        make(tmp_path, Accuracy()).optimize(-1)
    with pytest.raises(ValueError, match="`candidates` is empty"):
        make(tmp_path, Accuracy()).set_quant_scheme_candidates([])
