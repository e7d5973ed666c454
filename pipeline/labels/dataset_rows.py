"""Turns the annotations of a COCO dataset into rows of labels.

The one rule for crowds: a crowd is not an instance. It never prompts SAM, is never pasted, trained on or measured as
an instance. In rows of labels it is a dropped instance: a region that training, measuring and pasting ignore. Code
that works on annotations uses `CocoDataset.instances`, which leaves crowds out, or keeps their `iscrowd` where it
measures. The one exception is `review.corrected`: some annotation tools write every mask as a crowd.

A mask without a pixel is not an instance either, and is left out of its row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from pipeline.coco.model import CocoDataset, CocoImage
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, label_from_rle
from pipeline.masks.run_lengths import CompressedRle


@dataclass(frozen=True, slots=True)
class Scores:
    """Class score and mask score of an annotation, 0 to 1. Without a class score, as people's own are, it is 1."""

    score: float = 1.0
    mask_score: float | None = None


_UNSCORED: Final = Scores()
_NO_SCORES: Final[Mapping[int, Scores]] = MappingProxyType({})


def dataset_rows(dataset: CocoDataset, scores: Mapping[int, Scores] = _NO_SCORES) -> Iterator[ImageLabels]:
    """Yield the labels of every image of a dataset, with the teacher's decision; crowds are dropped instances.

    scores: by annotation id, of the annotations that have some.
    """
    for image in dataset.images:
        labels = (
            label_from_annotation(
                dataset.rle(each), each.category_id, scores.get(each.id, _UNSCORED), is_crowd=bool(each.iscrowd)
            )
            for each in dataset.annotations_by_image[image.id]
        )
        yield row_of_image(image, labels)


def label_from_annotation(rle: CompressedRle, category_id: int, scores: Scores, *, is_crowd: bool) -> InstanceLabel:
    """Return an annotation as a label: a teacher's mask, or a dropped instance for a crowd."""
    label = label_from_rle(rle, category_id, scores.score, Decision.DROPPED if is_crowd else Decision.TEACHER)
    return replace(label, mask_score=scores.mask_score)


def row_of_image(image: CocoImage, labels: Iterable[InstanceLabel]) -> ImageLabels:
    """Return the labels of an image that have a pixel, in their order."""
    seen = tuple(label for label in labels if label.area > 0)
    return ImageLabels.of_instances(image.id, image.file_name, image.width, image.height, seen)


def without_ignored(row: ImageLabels) -> ImageLabels:
    """Return the row without its dropped instances, crowds among them."""
    kept = tuple(label for label in row.instances if label.decision is not Decision.DROPPED)
    return ImageLabels.of_instances(row.image_id, row.file_name, row.width, row.height, kept)
