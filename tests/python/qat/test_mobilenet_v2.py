"""One step of training on a real network; needs the files that `examples/assets.py` fetches."""

from __future__ import annotations

import pytest

from benchmarks.qat import mobilenet_v2_step


@pytest.mark.slow
def test_a_step_on_photographs_lowers_the_distillation_loss():
    try:
        # Of fewer photographs single values that flip make more of the loss than the step does.
        row = mobilenet_v2_step(batch_size=16)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert row["photographs"] == 16
    assert 0 < row["loss_after"] < row["loss_before"]
