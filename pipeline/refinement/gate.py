"""The gate: SAM's mask, the teacher's, or neither."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from pipeline.errors import StageError
from pipeline.labels.rows import Decision
from pipeline.refinement.settings import RefineSettings


@dataclass(frozen=True)
class Measures:
    """What is known of SAM's mask of one instance; all in 0..1.

    agreement: IoU with the teacher's mask. predicted_iou: SAM's own estimate. stability: IoU under a shift of
    SAM's threshold. area_match: the smaller of the two masks' areas over the larger.
    """

    agreement: float
    predicted_iou: float
    stability: float
    area_match: float


MEASURES: Final = tuple(field.name for field in fields(Measures))
"""Names of the measures; `Thresholds` has a `min_` of each, in this order."""


@dataclass(frozen=True)
class Thresholds:
    """SAM's mask is taken where every measure reaches its threshold; 0 asks nothing."""

    min_agreement: float = 0.0
    min_predicted_iou: float = 0.0
    min_stability: float = 0.0
    min_area_match: float = 0.0

    def met_by(self, measures: Measures) -> bool:
        """Return whether every measure reaches its threshold."""
        return all(getattr(measures, name) >= getattr(self, f"min_{name}") for name in MEASURES)


@dataclass(frozen=True)
class IouLine:
    """An expected IoU as a linear function of one measure, cut to 0..1."""

    intercept: float = 0.0
    slope: float = 1.0

    def at(self, measure: float) -> float:
        """The value for a measure."""
        return min(1.0, max(0.0, self.intercept + self.slope * measure))


_SURE = IouLine(intercept=1.0, slope=0.0)
"""Of a gate that asks nothing: every mask counts in full."""


@dataclass(frozen=True)
class Verdict:
    """Whose mask is taken, and how sure the gate is of it, 0..1: the IoU with the truth that it expects."""

    decision: Decision
    confidence: float


@dataclass(frozen=True)
class Gate:
    """Decides from SAM's measures whose mask an instance gets.

    thresholds: what SAM's mask must reach; None takes the teacher's always.
    drop_below_agreement: below it neither mask is believed.
    expected_sam: IoU expected of SAM's mask, by its predicted IoU times its agreement.
    expected_teacher: IoU expected of the teacher's mask, by its agreement with SAM's. Both lines are only a
        ranking, no estimate, until `calibrate` fits them.
    """

    thresholds: Thresholds | None = Thresholds()
    drop_below_agreement: float = 0.0
    expected_sam: IouLine = IouLine()
    expected_teacher: IouLine = IouLine()

    def judge(self, measures: Measures) -> Verdict:
        """Decide about one instance that has both masks."""
        if measures.agreement < self.drop_below_agreement:
            return Verdict(Decision.DROPPED, 0.0)
        if self.thresholds is not None and self.thresholds.met_by(measures):
            merit = measures.predicted_iou * measures.agreement
            return Verdict(Decision.SAM, self.expected_sam.at(merit))
        return Verdict(Decision.TEACHER, self.expected_teacher.at(measures.agreement))


def fixed_gate(settings: RefineSettings) -> Gate:
    """The gate by the thresholds of the settings."""
    return Gate(
        thresholds=Thresholds(
            min_agreement=settings.min_agreement,
            min_predicted_iou=settings.min_predicted_iou,
            min_stability=settings.min_stability,
            min_area_match=1 / settings.max_area_change,
        ),
        drop_below_agreement=settings.drop_below_agreement,
    )


def make_gate(settings: RefineSettings, calibrated: Gate | None = None) -> Gate:
    """The gate that the settings ask for; `calibrated` is the fitted one that `gate: calibrated` needs."""
    if settings.gate == "none":
        return Gate(expected_sam=_SURE, expected_teacher=_SURE)
    if settings.gate == "fixed":
        return fixed_gate(settings)
    if settings.gate == "teacher":
        raise StageError(
            "refine.gate is 'teacher': every mask would stay as it is, and SAM has nothing to do; set refine.gate to "
            "'none' or 'fixed'"
        )
    if calibrated is None:
        raise StageError(
            "refine.gate is 'calibrated', but the gate was not fitted: that takes labelled instances that the "
            "teacher did not train on; give some, or set refine.gate to 'fixed'"
        )
    return calibrated
