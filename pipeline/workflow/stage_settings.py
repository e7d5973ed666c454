"""The values of an experiment that change results: what of each section enters fingerprints, by dotted key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.adaptation.settings import AdaptSettings
from pipeline.detection.settings import PredictSettings, StudentSettings
from pipeline.refinement.settings import AFTER_SAM, RefineSettings
from pipeline.sam.files import kind_of
from pipeline.sam.settings import SamSettings
from pipeline.settings import Settings, marker_of


def section_settings(
    name: str, section: Settings, *, without: tuple[str, ...] = (), only: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """Return a section's values by dotted key. Paths are left out: their content is an input."""
    fields = type(section).model_fields
    values = section.model_dump(mode="json", include=None if only is None else set(only), exclude=set(without))
    return {f"{name}.{key}": value for key, value in values.items() if marker_of(fields[key]) is None}


def sam_settings(sam: SamSettings) -> dict[str, Any]:
    """Return the values that say which SAM is used, by dotted key."""
    return {"sam.model": kind_of(sam.model), "sam.input_side": sam.input_side}


def prediction_settings(predict: PredictSettings) -> dict[str, Any]:
    """Return the values that change which predictions become labels, by dotted key."""
    fixed = predict.threshold == "fixed"
    unused = ("threshold", "lowest_threshold", "highest_threshold") if fixed else ("score_threshold",)
    return section_settings("predict", predict, without=unused)


def refinement_settings(refine: RefineSettings, sam: SamSettings) -> dict[str, Any]:
    """Return the values that change refined masks, by dotted key."""
    # A preset is a shorthand: the values that it sets count under their own keys.
    return section_settings("refine", refine, without=("preset",)) | sam_settings(sam)


def adaptation_settings(adapt: AdaptSettings, refine: RefineSettings, sam: SamSettings) -> dict[str, Any]:
    """Return the values that change a SAM that is fitted to labels, by dotted key: prompts are among them."""
    how = section_settings("adapt", adapt, without=("enabled", "for_distillation"))
    return how | section_settings("refine", refine, without=("preset", "seed", *AFTER_SAM)) | sam_settings(sam)


def student_settings(student: StudentSettings) -> dict[str, Any]:
    """Return the values that change what a student learns; parts of its training that are off have none."""
    return section_settings("student", student, without=("rounds", *_unused(student)))


def uncertain_settings(student: StudentSettings) -> dict[str, Any]:
    """Return what makes labels note uncertain pixels; how much these weigh is the student's matter."""
    return {"student.uncertain_pixel_weight": "below 1"} if student.notes_uncertain else {}


def _unused(student: StudentSettings) -> Iterator[str]:
    """Yield the keys of parts of a student's training that are off."""
    if not student.finetune_iterations:
        yield from ("finetune_iterations", "finetune_rate")
    yield "class_neighbours"  # known by the labels
    if not student.notes_uncertain:
        yield "uncertain_pixel_weight"
    if student.class_check in ("off", "flag"):
        yield from ("class_check", "class_agreement")
