"""The guard: new weights are used only where held-out masks gain, and no quality of teacher loses."""

from __future__ import annotations

import pytest

from pipeline.adaptation.adapting import pooled
from pipeline.adaptation.guard import QualityResult, WhoseWeights, choose_weights, pooled_gain, verdict
from pipeline.adaptation.measuring import Marks

SHIPPED = 0.9


def results(*gains: tuple[float, float], instances: int = 10) -> list[QualityResult]:
    """For each quality of teacher the gains of the half-way and the adapted weights."""
    return [
        QualityResult(
            instances, 0.8, {"shipped": SHIPPED, "half-way": SHIPPED + half_way, "adapted": SHIPPED + adapted}
        )
        for half_way, adapted in gains
    ]


@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ([(0.02, 0.04), (0.01, 0.02), (0.0, 0.0)], WhoseWeights.ADAPTED),
        ([(0.02, 0.04), (0.01, 0.02), (0.0, -0.002)], WhoseWeights.ADAPTED),  # a loss that is accepted
        ([(0.01, 0.003), (0.008, 0.006)], WhoseWeights.HALF_WAY),  # both are safe
        ([(0.01, 0.01)], WhoseWeights.ADAPTED),
        ([(0.02, 0.04), (0.01, 0.02), (0.0, -0.004)], WhoseWeights.HALF_WAY),  # the very good teacher would lose
        ([(0.02, 0.04), (0.01, 0.02), (-0.004, -0.01)], WhoseWeights.SHIPPED),
        ([(0.001, -0.001), (0.0, -0.001)], WhoseWeights.HALF_WAY),
        ([(0.0, 0.0), (0.0, 0.0)], WhoseWeights.SHIPPED),  # no gain is none
        ([], WhoseWeights.SHIPPED),
    ],
)
def test_the_choice(gains, chosen):
    assert choose_weights(results(*gains)) is chosen


def test_qualities_count_by_their_instances():
    uneven = [*results((0.0, 0.01), instances=30), *results((0.0, -0.02), instances=10)]
    assert pooled_gain(uneven, WhoseWeights.ADAPTED) == pytest.approx(0.0025)
    assert pooled_gain([], WhoseWeights.ADAPTED) == 0


def test_the_verdict_is_told_in_points():
    told = verdict(results((0.0, 0.031), (0.0, -0.004)), WhoseWeights.ADAPTED)
    assert told == "adapted: +1.4 points of mask IoU (+3.1, −0.4 by teacher): not safe"
    assert verdict(results((0.0, 0.031)), WhoseWeights.ADAPTED).endswith(": safe")


def test_the_marks_of_all_folds_are_pooled_by_instance():
    def fold(qualities, teacher, **refined):
        names = {"shipped": "shipped", "half_way": "half-way", "adapted": "adapted"}
        return {names[name]: Marks(qualities, teacher, values) for name, values in refined.items()}

    first = fold((0, 2), (0.5, 0.9), shipped=(0.6, 0.9), half_way=(0.7, 0.9), adapted=(0.8, 0.8))
    second = fold((0,), (0.7,), shipped=(0.8,), half_way=(0.9,), adapted=(1.0,))
    coarse, very_good = pooled([first, second])  # no instance of the second quality
    assert (coarse.instances, coarse.teacher) == (2, 0.6)
    assert coarse.refined == {"shipped": 0.7, "half-way": 0.8, "adapted": 0.9}
    assert very_good.refined == {"shipped": 0.9, "half-way": 0.9, "adapted": 0.8}
