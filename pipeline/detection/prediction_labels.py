"""Turns a detector's predictions on an image into labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.coco.model import CocoCategory, CocoImage
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, label_from_mask
from pipeline.masks.run_lengths import encode_mask
from pipeline.masks.soft_masks import make_soft_mask

if TYPE_CHECKING:
    from pipeline.detection.painted_masks import Prediction


@dataclass(frozen=True)
class LabelLimits:
    """Which predictions become labels, and of which kind.

    score_threshold, mask_threshold: the least class score and mask score.
    measured: detections to measure, with the score that the detector ranks them by, its own boxes, and without mask
    scores and soft masks; else labels to refine, with class score and mask score and the boxes of their masks.
    note_uncertain: note the pixels about which the masks of an image and of its mirror image disagree.
    """

    score_threshold: float
    max_instances: int
    mask_threshold: float = 0.0
    measured: bool = False
    note_uncertain: bool = False

    def allow(self, prediction: Prediction) -> bool:
        """Return whether a prediction is sure enough."""
        return prediction.class_score >= self.score_threshold and prediction.mask_score >= self.mask_threshold

    def score(self, prediction: Prediction) -> float:
        """Return the score of the label."""
        return prediction.ranking_score if self.measured else prediction.class_score


def labels_of_image(
    image: CocoImage, predictions: Sequence[Prediction], categories: Sequence[CocoCategory], limits: LabelLimits
) -> ImageLabels:
    """Return the labels of an image, the best score first; empty masks are left out."""
    instances: list[InstanceLabel] = []
    for prediction in sorted(filter(limits.allow, predictions), key=lambda each: -limits.score(each)):
        if len(instances) == limits.max_instances:
            break
        label = _label(prediction, categories[prediction.label].id, limits)
        if label.area:
            instances.append(label)
    return ImageLabels.of_instances(image.id, image.file_name, image.width, image.height, tuple(instances))


def _label(prediction: Prediction, category_id: int, limits: LabelLimits) -> InstanceLabel:
    painted = prediction.source.paint()
    # Rounding may lift a probability and a mean of probabilities above 1.
    score, mask_score = min(limits.score(prediction), 1.0), min(prediction.mask_score, 1.0)
    label = label_from_mask(painted.mask, category_id, score, Decision.TEACHER)
    if limits.measured:
        return replace(label, box_xyxy=prediction.box_xyxy)
    soft_mask = make_soft_mask(painted.probability, label.box_xyxy, painted.complement)
    label = replace(label, mask_score=mask_score, soft_mask=soft_mask)
    if limits.note_uncertain and painted.uncertain is not None:
        label = replace(label, uncertain_counts=encode_mask(painted.uncertain)["counts"])
    return label
