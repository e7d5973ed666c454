"""Refines the labels of a batch of images: SAM gives a mask for every instance, and the gate decides.

The result for an instance depends on its image, that image's labels and the settings, never on the rest of its batch.
At most one mask is dense at a time, within the part of the image that it covers; finished masks are run lengths.
Instances that are already dropped, such as crowds, are not sent to SAM and stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageError
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, with_mask
from pipeline.masks.crop_mask import CropMask, disagreement, without_overlap
from pipeline.masks.overlap import area_match, rle_iou
from pipeline.masks.run_lengths import union
from pipeline.masks.soft_masks import soften
from pipeline.masks.windows import whole_image
from pipeline.refinement.asking import Answer, Question, ask
from pipeline.refinement.gate import Gate, Measures
from pipeline.refinement.settings import RefineSettings
from pipeline.refinement.zoom import View, plan_views
from pipeline.sam.encoded import EncodedImage, ImageForSam
from pipeline.sam.interface import Engine
from pipeline.settings import ScoreKind


@dataclass(frozen=True)
class RefineInput:
    """An image and the teacher's labels of it.

    image_rgb: uint8 (height, width, 3); None if `encoded` is given and nothing is refined in crops.
    encoded: SAM's kept embedding of the whole image. Crops depend on the labels and are always encoded again.
    """

    image_rgb: NDArray[np.uint8] | None
    labels: ImageLabels
    encoded: EncodedImage | None = None


@dataclass(frozen=True)
class RefinedImage:
    """An image's refined labels, instances in the order of the teacher's.

    Class and scores of an instance are the teacher's; mask, box and area are those of the mask decided on; SAM's
    measures are given for every decision. encoded_views: how often SAM's encoder ran for the image.
    """

    labels: ImageLabels
    encoded_views: int = 0


def refine_images(
    inputs: Sequence[RefineInput],
    engine: Engine,
    settings: RefineSettings,
    gate: Gate,
    *,
    note_uncertain: bool = False,
) -> list[RefinedImage]:
    """Refine every instance of every image. note_uncertain: note the pixels about which SAM and teacher disagree.

    Raise ImageError for an image that does not fit its labels, or for labels with values that are not numbers.
    """
    for each in inputs:
        _require_usable(each)
    views = [(index, view) for index, each in enumerate(inputs) for view in _views(each, engine, settings)]
    answers: list[dict[int, Answer]] = [{} for _ in inputs]
    encoded_views: Counter[int] = Counter()
    # Crops add views to those of the batch: embed no more views at once than the batch has images.
    for first in range(0, len(views), max(1, len(inputs))):
        batch = views[first : first + len(inputs)]
        shown = [_shown(inputs[index], view) for index, view in batch]
        encoded_views.update(
            index for (index, _), image in zip(batch, shown, strict=True) if not isinstance(image, EncodedImage)
        )
        asked = [(index, instance) for index, view in batch for instance in view.instances]
        questions = [
            _question(inputs[index].labels, instance, view_index, view)
            for view_index, (index, view) in enumerate(batch)
            for instance in view.instances
        ]
        for (index, instance), answer in zip(asked, ask(shown, questions, engine, settings), strict=True):
            answers[index][instance] = answer
    return [
        RefinedImage(
            _refined(each.labels, answers[index], settings, gate, note_uncertain=note_uncertain), encoded_views[index]
        )
        for index, each in enumerate(inputs)
    ]


def _require_usable(each: RefineInput) -> None:
    labels, image = each.labels, each.image_rgb
    if image is not None and (image.dtype != np.uint8 or image.shape != (labels.height, labels.width, 3)):
        raise ImageError(
            f"image {labels.image_id} has pixels of shape {image.shape} and type {image.dtype}, its labels are for "
            f"uint8 {(labels.height, labels.width, 3)}"
        )
    for index, instance in enumerate(labels.instances):
        if not all(isfinite(value) for value in (instance.score, *instance.box_xyxy)):
            raise ImageError(f"image {labels.image_id}: instance {index} has a score or a box that is not a number")


def _views(each: RefineInput, engine: Engine, settings: RefineSettings) -> list[View]:
    """Plan the views of one image, without its dropped instances and those without a pixel."""
    labels = each.labels
    refinable = [
        index
        for index, instance in enumerate(labels.instances)
        if instance.area > 0 and instance.decision is not Decision.DROPPED
    ]
    boxes_xyxy = [labels.instances[index].box_xyxy for index in refinable]
    planned = plan_views(boxes_xyxy, labels.height, labels.width, engine.frame, settings.zoom_below_px)
    return [replace(view, instances=tuple(refinable[index] for index in view.instances)) for view in planned]


def _shown(each: RefineInput, view: View) -> ImageForSam:
    window = view.window
    if each.encoded is not None and window == whole_image(each.labels.height, each.labels.width):
        return each.encoded
    assert each.image_rgb is not None
    return each.image_rgb[window.in_image]


def _question(labels: ImageLabels, instance: int, index: int, view: View) -> Question:
    label = labels.instances[instance]
    soft_mask = label.soft_mask
    if soft_mask is None or not soft_mask.codes.any():
        soft_mask = soften(labels.rle(label))
    return Question(labels.image_id, instance, index, view.window, soft_mask)


def _refined(
    labels: ImageLabels, answers: Mapping[int, Answer], settings: RefineSettings, gate: Gate, *, note_uncertain: bool
) -> ImageLabels:
    refined = [
        _decided(labels, instance, answers[index], gate) if index in answers else _unasked(instance)
        for index, instance in enumerate(labels.instances)
    ]
    if settings.separate:
        refined = _separated(labels, answers, refined, settings.separate_by)
    if note_uncertain:
        refined = [
            _with_uncertain(labels, labels.instances[index], each, answers[index]) if index in answers else each
            for index, each in enumerate(refined)
        ]
    return replace(labels, instances=tuple(refined))


def _with_uncertain(
    labels: ImageLabels, teacher: InstanceLabel, refined: InstanceLabel, answer: Answer
) -> InstanceLabel:
    """Note the pixels about which the masks of SAM and the teacher, or the teacher's own two, disagree."""
    uncertain = disagreement(labels.rle(teacher), answer.mask.to_rle(labels.height, labels.width))
    mirrored = labels.uncertain_rle(teacher)
    return replace(
        refined, uncertain_counts=(uncertain if mirrored is None else union([uncertain, mirrored]))["counts"]
    )


def _unasked(instance: InstanceLabel) -> InstanceLabel:
    """Return an instance that was not sent to SAM: a dropped one as it is, one without a pixel dropped."""
    if instance.decision is Decision.DROPPED:
        return replace(instance, soft_mask=None)
    return replace(instance, decision=Decision.DROPPED, gate_confidence=0.0, soft_mask=None)


def _decided(labels: ImageLabels, teacher: InstanceLabel, answer: Answer, gate: Gate) -> InstanceLabel:
    rle = answer.mask.to_rle(labels.height, labels.width)
    sam = with_mask(replace(teacher, decision=Decision.SAM), rle)
    measures = Measures(
        agreement=rle_iou(rle, labels.rle(teacher)),
        predicted_iou=answer.predicted_iou,
        stability=answer.stability,
        area_match=area_match(sam.area, teacher.area),
    )
    # Never use a mask of SAM's without a pixel.
    decision, confidence = (gate if sam.area else replace(gate, thresholds=None)).judge(measures)
    chosen = sam if decision is Decision.SAM else replace(teacher, decision=decision)
    return replace(
        chosen,
        predicted_iou=measures.predicted_iou,
        stability=measures.stability,
        agreement=measures.agreement,
        candidate=answer.candidate,
        gate_confidence=confidence,
        soft_mask=None,
    )


def _separated(
    labels: ImageLabels, answers: Mapping[int, Answer], refined: Sequence[InstanceLabel], separate_by: ScoreKind
) -> list[InstanceLabel]:
    """Return the instances with masks that do not overlap; drop one that loses all its pixels, with its old mask."""
    kept = [index for index, each in enumerate(refined) if each.decision is not Decision.DROPPED]
    masks = [
        answers[index].mask if refined[index].decision is Decision.SAM else CropMask.of_rle(labels.rle(refined[index]))
        for index in kept
    ]
    separate = without_overlap(masks, [refined[index].score_of(separate_by) for index in kept])
    result = list(refined)
    for index, before, after in zip(kept, masks, separate, strict=True):
        label = refined[index]
        if after.is_empty:
            result[index] = replace(label, decision=Decision.DROPPED, gate_confidence=0.0)
        elif after != before:
            result[index] = with_mask(label, after.to_rle(labels.height, labels.width))
    return result
