"""Blocks of the README and of docs say what the committed results say."""

from __future__ import annotations

import json

import pytest

from benchmarks.render import BLOCKS


@pytest.mark.parametrize(
    ("results", "page", "block", "text"),
    [pytest.param(*each, id=f"{each[0].stem} in {each[1].name}") for each in BLOCKS],
)
def test_a_block_is_current(results, page, block, text):
    (found,) = block.findall(page.read_text())
    assert found == text(json.loads(results.read_text())), "run python -m benchmarks.render"
