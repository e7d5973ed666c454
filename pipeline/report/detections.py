"""Makes the gallery of a model's detections on validation images, with misses and false finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.coco.model import CocoDataset
from pipeline.coco.paths import resolve_image_path
from pipeline.evaluation.image_sides import ImageTruths
from pipeline.evaluation.judging import FOUND_FROM_IOU, JudgedImage, judge
from pipeline.evaluation.results import ModelResult
from pipeline.files.images import read_image
from pipeline.labels.drawing import Rgb, paint, rescaled
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import ImageLabels, Status
from pipeline.presentation import words
from pipeline.report.gallery import AFTER, FILL_SHARE, WHOLE_IMAGE_PX, Card, Gallery, made_cards
from pipeline.report.inline_images import WHOLE_IMAGE_BYTES, inline

CONFUSED: Final[Rgb] = (150, 110, 245)
FALSE: Final[Rgb] = (235, 70, 55)
MISSED: Final[Rgb] = (255, 255, 255)

_LEGEND: Final = (
    ("after", "right"),
    ("tone-1", "found with another class"),
    ("false", "false find"),
    ("truth", "missed, dashed"),
)


@dataclass(frozen=True)
class ValidationImages:
    """The validation images with a model's detections of them."""

    truth: CocoDataset
    image_root: Path
    detections: LabelStore


def detections(model: ModelResult, images: ValidationImages, limit: int) -> Gallery:
    """Show images, evenly spread from the one with the most errors to the one with the fewest."""
    judged = list(_judged(images, model.confusion.min_score))
    ranked = sorted(judged, key=lambda each: (-each[1].errors, each[0]))
    chosen = np.unique(np.linspace(0, len(ranked) - 1, min(limit, len(ranked))).round().astype(int)).tolist()
    cards, unreadable = made_cards(
        [ranked[index] for index in chosen], limit, lambda each: _card(images, each[0], each[1])
    )
    explanation = (
        f"The {model.role} on validation images, from the image with the most errors to the one with the fewest. "
        f"Detections with a score of at least {model.confusion.min_score:.2f} are shown; a truth is found from a mask "
        f"IoU of {FOUND_FROM_IOU:g}."
    )
    return Gallery("detections", f"Detections of the {model.role}", explanation, cards, unreadable, _LEGEND)


def _judged(images: ValidationImages, min_score: float) -> Iterator[tuple[int, JudgedImage]]:
    for labels in images.detections:
        if labels.status is not Status.FAILED and labels.image_id in images.truth.image_by_id:
            yield labels.image_id, judge(labels, ImageTruths.of_image(images.truth, labels.image_id), min_score)


def _card(images: ValidationImages, image_id: int, judged: JudgedImage) -> Card:
    labels = images.detections.by_id(image_id)
    path = resolve_image_path(images.image_root, labels.file_name)
    canvas = rescaled(read_image(path, (labels.width, labels.height)), WHOLE_IMAGE_PX)
    truths = images.truth.annotations_by_image[image_id]
    for index in judged.missed:
        paint(canvas, images.truth.mask(truths[index]), MISSED, dashed=True)
    for colour, found in (
        (AFTER, [index for index, _ in judged.right]),
        (CONFUSED, [index for index, _ in judged.confused]),
        (FALSE, list(judged.false)),
    ):
        for index in found:
            paint(canvas, labels.mask(labels.instances[index]), colour, dashed=False, fill_share=FILL_SHARE)
    names = {category.id: category.name for category in images.truth.categories}
    facts = [
        f"{len(found)} {what}"
        for what, found in (("right", judged.right), ("false", judged.false), ("missed", judged.missed))
        if found or what == "right"
    ]
    facts += _confusions(labels, images.truth, image_id, judged, names)
    picture = inline(canvas, f"{labels.file_name}: {', '.join(facts)}", WHOLE_IMAGE_BYTES)
    return Card((("", picture),), words.count(judged.errors, "error"), tuple(facts), labels.file_name)


def _confusions(
    labels: ImageLabels, truth: CocoDataset, image_id: int, judged: JudgedImage, names: dict[int, str]
) -> list[str]:
    truths = truth.annotations_by_image[image_id]
    return [
        f"{names[truths[found].category_id]} found as {names[labels.instances[index].category_id]}"
        for index, found in judged.confused
    ]
