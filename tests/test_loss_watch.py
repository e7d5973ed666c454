"""Which losses stop a training."""

from __future__ import annotations

import pytest

from pipeline.detection.loss_watch import FACTOR, WINDOW, LossWatch


def problems(values: list[float]) -> list[str]:
    watch = LossWatch()
    return [watch.problem({"loss": value, "loss_mask": value / 2}) for value in values]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_told_with_all_losses(bad):
    assert problems([1.0, 1.0])[-1] == ""
    assert LossWatch().problem({"loss": bad, "loss_mask": 0.5}) == (
        f"the loss is not a finite number (loss {bad:.4g}, loss_mask 0.5)"
    )


def test_a_single_high_loss_is_no_divergence():
    assert not any(problems([1.0] * WINDOW + [200.0] + [1.0] * WINDOW))


def test_a_loss_that_stays_high_is():
    found = problems([1.0] * WINDOW + [2 * FACTOR] * WINDOW)
    assert found[0] == ""
    assert found[-1].startswith("the loss diverges: ")


def test_a_falling_loss_is_fine():
    assert not any(problems([100.0 * 0.9**number for number in range(3 * WINDOW)]))
