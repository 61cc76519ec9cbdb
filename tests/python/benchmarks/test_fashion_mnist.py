"""The networks of the benchmarks; their data are fetched by ``python -m benchmarks.fashion_mnist``
only."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch

from benchmarks import fashion_mnist


def test_networks_classify_images_of_their_size():
    networks = {**fashion_mnist.NETWORKS, **fashion_mnist.LARGER_NETWORKS}
    for make, _ in networks.values():
        assert make().eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_an_idx_file_is_read_behind_its_sizes(tmp_path):
    pixels = np.arange(2 * 3 * 4, dtype=np.uint8)
    header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in (2, 3, 4))
    (tmp_path / "images.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
    assert fashion_mnist._read_idx(tmp_path / "images.gz").tolist() == pixels.tolist()


def test_another_recipe_trains_anew(monkeypatch):
    digest = fashion_mnist._recipe_digest("cnn")
    assert digest == fashion_mnist._recipe_digest("cnn") != fashion_mnist._recipe_digest("residual")
    monkeypatch.setitem(fashion_mnist.NETWORKS, "cnn", (fashion_mnist.cnn, 3))
    assert fashion_mnist._recipe_digest("cnn") != digest


def test_an_unknown_network_is_refused():
    message = "`name` must be one of cnn, residual, separable, resnet, got 'x'"
    with pytest.raises(ValueError, match=message):
        fashion_mnist.trained("x")


@pytest.mark.skipif(not fashion_mnist.DATA.exists(), reason="python -m benchmarks.fashion_mnist")
def test_calibration_batches_are_training_images_and_repeat():
    first, again = (fashion_mnist.calibration_batches(10, batch_size=4) for _ in range(2))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert len(fashion_mnist.load("train")[0]) == 60_000
