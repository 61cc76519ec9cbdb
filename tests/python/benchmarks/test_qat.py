"""The benchmark of training, on data of noise: rows, resuming, the README's table."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import fashion_mnist, qat, qat_choice, qat_subjects, render_qat
from benchmarks.render import README


@pytest.fixture
def noise(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(300, 1, 28, 28, generator=generator), torch.arange(300) % 10
    monkeypatch.setattr(fashion_mnist, "load", lambda part: data)
    monkeypatch.setattr(fashion_mnist, "trained", lambda name: fashion_mnist.NETWORKS[name][0]())
    monkeypatch.setattr(qat, "mobilenet_v2_step", dict)


def test_bits_are_where_they_should_be(noise):
    recipe = qat_subjects.RECIPES["W2A2 LSQ"]
    model = qat_subjects.simulation(fashion_mnist.residual(), recipe, seed=0)
    bits = {
        name: module.bitwidth
        for name, module in model.named_modules()
        if hasattr(module, "bitwidth")
    }
    outer = {name for name, width in bits.items() if width == 8}
    assert set(bits.values()) == {2, 8}
    assert outer == {
        "0.input_quantizers.0",
        "0.param_quantizers.weight",
        "6.output_quantizers.0",  # what the last layer reads
        "8.param_quantizers.weight",
        "8.output_quantizers.0",
    }
    learned = {
        name.rpartition(".")[2] for name, _ in model.named_parameters() if "quantizers" in name
    }
    assert learned == {"scale"}


def test_every_parameter_is_in_one_group(noise):
    training = qat_subjects.Training("separable", "W4A4")
    groups = training._optimizer.param_groups
    assert len(groups) == 3
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in training.model.parameters())
    names = {id(p): name for name, p in training.model.named_parameters()}
    for group, part in zip(groups[1:], (".param_quantizers.", "put_quantizers."), strict=True):
        assert all(part in names[id(p)] for p in group["params"])


def test_a_run_goes_on_where_it_was(noise, tmp_path, monkeypatch):
    monkeypatch.setattr(qat, "EPOCHS", 1)
    output = tmp_path / "qat.json"
    qat.run(["separable"], 1, 0, None, output)
    report = json.loads(output.read_text())
    settings = ["W2A2 LSQ", "W2A2", "W4A4", "W8A8", "FP32"]
    assert [(row["network"], row["setting"]) for row in report["rows"]] == [
        ("separable", setting) for setting in settings
    ]
    assert all(row["ours"]["step_ms"] > 0 for row in report["rows"])
    rows = report["rows"][:2]
    output.write_text(json.dumps(report | {"rows": rows}))
    qat.run(["separable"], 1, 0, None, output)
    again = json.loads(output.read_text())["rows"]
    assert again[:2] == rows
    assert len(again) == 5
    table = render_qat.markdown(json.loads(output.read_text()))
    assert "| separable, W2A2 |" in table


def test_the_readme_has_the_committed_results():
    blocks = render_qat.TABLE.findall(README.read_text())
    results = render_qat.RESULTS
    wanted = [render_qat.markdown(json.loads(results.read_text()))] if results.exists() else []
    assert blocks == wanted


def test_recipes_are_chosen_without_test_images(noise, tmp_path, monkeypatch):
    images, labels = fashion_mnist.load("train")

    def load(part):
        assert part == "train", "a test image was read"
        return images, labels

    monkeypatch.setattr(fashion_mnist, "load", load)
    monkeypatch.setattr(qat_choice, "EPOCHS", 1)
    monkeypatch.setattr(qat_choice, "HELD_OUT", 100)
    monkeypatch.setattr(qat_choice, "RATES", {"W4A4": (1e-3, 2e-3)})
    training = qat_subjects.Training("separable", "W4A4", held_out=100)
    assert len(training._labels) == 200
    assert training._measured[1].tolist() == labels[-100:].tolist()
    output = tmp_path / "choice.json"
    qat_choice.run(["separable"], 128, output)
    rows = json.loads(output.read_text())["rows"]
    assert [(row["lr"], row["setting"]) for row in rows] == [(1e-3, "W4A4"), (2e-3, "W4A4")]
    qat_choice.run(["separable"], 128, output)
    assert json.loads(output.read_text())["rows"] == rows


def test_recipes_are_those_that_were_best_on_held_out_images():
    found = {}
    for row in json.loads(qat_choice.RESULTS.read_text())["rows"]:
        found.setdefault((row["setting"], row["lr"]), []).append(row["percent"])
    for setting in qat_choice.RATES:
        means = {lr: sum(v) / len(v) for (s, lr), v in found.items() if s == setting}
        chosen = qat_subjects.RECIPES[setting].lr
        assert means[chosen] > max(means.values()) - 0.1, (setting, means)
