"""Fitting the gate on labelled instances that the teacher did not train on.

Five to fifty instances are what a user can spare, so little is fitted: at most two thresholds out of a short
list, each at a quantile. A rule with more thresholds is taken only if, on instances left out of its fit, it
beats the simpler one by more than the standard error of the difference. The simplest rules of all, always
SAM's mask and always the teacher's, are candidates of every fit: on the given instances the fitted gate is
never worse than the better of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StageError
from pipeline.refinement.gate import MEASURES, Gate, IouLine, Measures, Thresholds

THRESHOLD_SETS: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((0,), (1,), (2,), (3,)),
    ((0, 1), (0, 2), (0, 3)),
)
"""Which measures get a threshold: indices into `MEASURES`; the simplest rules first, one tuple a level."""

QUANTILES = 9
FOLDS = 10
MIN_INSTANCES = 8
"""With fewer instances no threshold is fitted."""
RIDGE = 0.05
"""Pulls the lines of expected IoU towards flat ones; as much as a few instances weigh."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GateSample(Measures):
    """One labelled instance: the measures of SAM's mask, and both masks' IoU with the truth; 0..1."""

    teacher_iou: float
    sam_iou: float


@dataclass(frozen=True)
class CalibratedGate:
    """A fitted gate and what is known of it. IoUs are means over the given instances.

    expected_gain: mean IoU gained over the better of always-SAM and always-teacher, on instances left out of
    the whole fit; gain_error: its standard error.
    """

    gate: Gate
    instances: int
    teacher_iou: float
    sam_iou: float
    gated_iou: float
    expected_gain: float
    gain_error: float

    @property
    def summary(self) -> str:
        """The rule, the means and the expected gain, in words."""
        return (
            f"{describe_thresholds(self.gate.thresholds)}; mean IoU on {self.instances} labelled instances: "
            f"teacher {self.teacher_iou:.3f}, SAM {self.sam_iou:.3f}, gated {self.gated_iou:.3f}; "
            f"expected gain on others {self.expected_gain:+.3f} ± {self.gain_error:.3f}"
        )


def calibrate(samples: Sequence[GateSample], start: Gate) -> CalibratedGate:
    """Fit the gate; the order of the samples plays no part.

    start: the gate by fixed thresholds. Its thresholds stay where no other rule does better, and instances that
    it drops get neither mask whatever the fit says, so they are left out of it.
    """
    rows = _rows(sample for sample in samples if sample.agreement >= start.drop_below_agreement)
    if not len(rows):
        raise StageError(
            "the gate cannot be calibrated: no labelled instance that the teacher did not train on was found by "
            "it and refined; give more labelled images, or set refine.gate to 'fixed'"
        )
    fixed_rules = np.array([_rule(start.thresholds), _SAM_ALWAYS, _TEACHER_ALWAYS])
    fit = partial(_fit, fixed_rules=fixed_rules)
    rule = fit(rows)
    constant = _best([_SAM_ALWAYS, _TEACHER_ALWAYS], rows)
    gains = _held_out(rows, fit) - _outcome(constant, rows)
    return CalibratedGate(
        gate=Gate(
            thresholds=Thresholds(*rule.tolist()) if np.isfinite(rule).all() else None,
            drop_below_agreement=start.drop_below_agreement,
            expected_sam=_line(rows[:, 0] * rows[:, 1], rows[:, _SAM]),
            expected_teacher=_line(rows[:, 0], rows[:, _TEACHER]),
        ),
        instances=len(rows),
        teacher_iou=float(rows[:, _TEACHER].mean()),
        sam_iou=float(rows[:, _SAM].mean()),
        gated_iou=float(_outcome(rule, rows).mean()),
        expected_gain=float(gains.mean()),
        gain_error=_standard_error(gains),
    )


def describe_thresholds(thresholds: Thresholds | None) -> str:
    """When SAM's mask is taken, in words."""
    if thresholds is None:
        return "always the teacher's mask"
    asked = [
        f"{measure} >= {minimum:.3f}"
        for measure, minimum in zip(MEASURES, astuple(thresholds), strict=True)
        if minimum > 0
    ]
    return f"SAM's mask where {' and '.join(asked)}, else the teacher's" if asked else "always SAM's mask"


# A rule is an array of thresholds in the order of `MEASURES`.
_SAM_ALWAYS = np.zeros(len(MEASURES))
_TEACHER_ALWAYS = np.array([np.inf, *np.zeros(len(MEASURES) - 1)])

# Columns of the samples as rows: the measures, then these.
_TEACHER, _SAM = len(MEASURES), len(MEASURES) + 1


def _rule(thresholds: Thresholds | None) -> Floats:
    return _TEACHER_ALWAYS if thresholds is None else np.array(astuple(thresholds))


def _rows(samples: Iterable[GateSample]) -> Floats:
    """Samples as sorted rows: folds are dealt out by place, so that the order must not matter."""
    ordered = sorted(astuple(sample) for sample in samples)
    rows = np.array(ordered, dtype=np.float64).reshape(-1, len(fields(GateSample)))
    if not ((rows >= 0) & (rows <= 1)).all():
        raise StageError("the gate cannot be calibrated: a measure or an IoU is not a number from 0 to 1")
    return rows


def _outcome(rules: Floats, rows: Floats) -> Floats:
    """IoU with the truth of the masks that rules (..., measures) take, for every row: (..., rows)."""
    takes_sam = (rows[:, : len(MEASURES)] >= rules[..., np.newaxis, :]).all(axis=-1)
    return np.where(takes_sam, rows[:, _SAM], rows[:, _TEACHER])


def _best(rules: Sequence[Floats] | Floats, rows: Floats) -> Floats:
    """The rule with the highest mean; of equals the first."""
    stacked = np.asarray(rules)
    best: Floats = stacked[int(_outcome(stacked, rows).mean(axis=-1).argmax())]
    return best


def _grid(values: Floats) -> Floats:
    """At most `QUANTILES` thresholds, each halfway between two neighbouring values."""
    distinct = np.unique(values)
    halfway: Floats = (distinct[:-1] + distinct[1:]) / 2
    if halfway.size <= QUANTILES:
        return halfway
    places = np.linspace(0, halfway.size - 1, QUANTILES + 2)[1:-1].round().astype(int)
    spread: Floats = halfway[places]
    return spread


def _fit_thresholds(rows: Floats, measures: tuple[int, ...], fixed_rules: Floats) -> Floats:
    """The best of the fixed rules and of those with thresholds on these measures; of equals the first."""
    grids = np.meshgrid(*(_grid(rows[:, measure]) for measure in measures), indexing="ij")
    fitted = np.zeros((grids[0].size if grids else 0, len(MEASURES)))
    for measure, grid in zip(measures, grids, strict=True):
        fitted[:, measure] = grid.ravel()
    return _best(np.concatenate([fixed_rules, fitted]), rows)


def _fit(rows: Floats, fixed_rules: Floats) -> Floats:
    """The rule with as many thresholds as held-out instances speak for."""

    def held_out(measures: tuple[int, ...]) -> Floats:
        return _held_out(rows, partial(_fit_thresholds, measures=measures, fixed_rules=fixed_rules))

    chosen: tuple[int, ...] = ()
    if len(rows) >= MIN_INSTANCES:
        outcome = held_out(chosen)
        for level in THRESHOLD_SETS:
            rivals = [held_out(measures) for measures in level]
            place = int(np.mean(rivals, axis=1).argmax())
            gain = rivals[place] - outcome
            if gain.mean() > _standard_error(gain):
                chosen, outcome = level[place], rivals[place]
    return _fit_thresholds(rows, chosen, fixed_rules)


def _held_out(rows: Floats, fit: Callable[[Floats], Floats]) -> Floats:
    """For every row the outcome of a rule that was fitted without its fold."""
    fold = np.arange(len(rows)) % FOLDS
    outcome = np.empty(len(rows))
    for held in np.unique(fold):
        rest = rows[fold != held]
        rule = fit(rest) if len(rest) else _SAM_ALWAYS
        outcome[fold == held] = _outcome(rule, rows[fold == held])
    return outcome


def _standard_error(values: Floats) -> float:
    return float(values.std(ddof=1) / sqrt(len(values))) if len(values) > 1 else 0.0


def _line(measure: Floats, iou: Floats) -> IouLine:
    """Least squares with a pull towards flat; never falling."""
    centred = measure - measure.mean()
    slope = max(0.0, float(centred @ (iou - iou.mean())) / (float(centred @ centred) + RIDGE))
    return IouLine(intercept=float(iou.mean() - slope * measure.mean()), slope=slope)
