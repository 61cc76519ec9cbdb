"""Examples that are more than a block of the README: they run, and show what they claim."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import onnxruntime
import pytest
from nbclient import NotebookClient

from benchmarks import fashion_mnist
from tests.integration.commands import ROOT, run


@pytest.mark.slow
def test_training_example(tmp_path: Path) -> None:
    try:
        fashion_mnist.fetch()
    except RuntimeError as error:
        pytest.skip(str(error))
    example = ROOT / "examples" / "qat.py"
    assert len(example.read_text().splitlines()) < 60
    environment = {"PYTHONPATH": str(ROOT)}
    output = run([sys.executable, str(example), "--images", "4096"], tmp_path, environment)
    accuracies = [float(value) for value in re.findall(r": ([\d.]+) %", output)]
    fp32, calibrated, trained = accuracies
    assert trained > calibrated
    assert fp32 > 50
    session = onnxruntime.InferenceSession(tmp_path / "fashion_mnist_w4a4.onnx")
    (name,) = (i.name for i in session.get_inputs())
    assert session.run(None, {name: np.zeros((1, 1, 28, 28), np.float32)})[0].shape == (1, 10)


@pytest.mark.slow
def test_compression_example(tmp_path: Path) -> None:
    try:
        fashion_mnist.fetch()
    except RuntimeError as error:
        pytest.skip(str(error))
    example = ROOT / "examples" / "compress.py"
    assert len(example.read_text().splitlines()) < 80
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    output = run([sys.executable, str(example), "--images", "1024"], tmp_path, environment)
    rows = re.findall(r"(\S+) +([\d.]+) %, ([\d,]+) MACs, ([\d,]+) bytes, ([\d.]+) ms", output)
    steps = ["FP32", "spatial_svd", "channel_pruning", "fine-tuned", "W8A8"]
    assert [row[0] for row in rows] == steps
    accuracies = [float(row[1]) for row in rows]
    macs, sizes = ([int(row[i].replace(",", "")) for row in rows] for i in (2, 3))
    assert accuracies[3] > 55
    assert macs[1] <= 0.85 * macs[0]
    assert 0.47 * macs[0] < macs[2] <= 0.5 * macs[0]
    assert sizes[4] < sizes[3] / 3
    assert all("<polyline" in p.read_text() for p in tmp_path.glob("*/compression.html"))


def test_the_demonstration_finds_what_it_imports(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}"}
    output = run([sys.executable, "-c", "import demo; print(demo.main)"], tmp_path, environment)
    assert "function main" in output


@pytest.mark.slow
def test_the_quickstart_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        fashion_mnist.fetch()
    except RuntimeError as error:
        pytest.skip(str(error))
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    printed = "".join(o.text for o in cells[-1].outputs if o.output_type == "stream")
    rows = dict(re.findall(r"^(.*): ([\d.]+) %$", printed, re.MULTILINE))
    values = {name: float(value) for name, value in rows.items()}
    assert values["FP32"] > 60
    assert values["W4A8, mended"] > max(values["W4A8"], values["FP32"] - 5)
    assert abs(values["compressed, W8A8"] - values["compressed"]) < 3
    whole, compressed = (
        int(count.replace(",", "")) for count in re.findall(r"([\d,]+) multiply", printed)
    )
    assert compressed < 0.6 * whole
    assert "<svg" in (tmp_path / "analysis.html").read_text()
