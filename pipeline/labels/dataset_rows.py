"""From the annotations of a COCO dataset to rows of labels.

The one rule for crowds: a crowd is no instance. It is never asked SAM about, never pasted, never trained or measured
as an instance. Where regions that do not count are known (in training, in measuring, under pasted instances) it is
one of them: in rows of labels it is a dropped instance. Code that works on annotations themselves takes
`CocoDataset.instances`, which leaves crowds out, or keeps their `iscrowd` where it measures. The one exception is
`review.corrected`: some annotation tools write every mask as a crowd.

A mask without a pixel is no instance either, and is left out of its row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from pipeline.coco.model import CocoDataset, CocoImage
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, label_from_rle
from pipeline.masks.run_lengths import CompressedRle

_NO_SCORES: Final[Mapping[int, float]] = MappingProxyType({})


def dataset_rows(dataset: CocoDataset, scores: Mapping[int, float] = _NO_SCORES) -> Iterator[ImageLabels]:
    """Yield the labels of every image of a dataset, as a teacher's; crowds are dropped instances.

    scores: by annotation id; 1 where there is none.
    """
    for image in dataset.images:
        yield row_of_image(
            image,
            (
                label_from_annotation(
                    dataset.rle(each), each.category_id, scores.get(each.id, 1.0), is_crowd=bool(each.iscrowd)
                )
                for each in dataset.annotations_by_image[image.id]
            ),
        )


def label_from_annotation(rle: CompressedRle, category_id: int, score: float, *, is_crowd: bool) -> InstanceLabel:
    """Return an annotation as a label: the teacher's mask, or a region to be ignored."""
    return label_from_rle(rle, category_id, score, Decision.DROPPED if is_crowd else Decision.TEACHER)


def row_of_image(image: CocoImage, labels: Iterable[InstanceLabel]) -> ImageLabels:
    """Return the labels of an image that have a pixel, in their order."""
    seen = tuple(label for label in labels if label.area > 0)
    return ImageLabels.of_instances(image.id, image.file_name, image.width, image.height, seen)


def without_ignored(row: ImageLabels) -> ImageLabels:
    """Return the row without its dropped instances, which crowds are among."""
    kept = tuple(label for label in row.instances if label.decision is not Decision.DROPPED)
    return ImageLabels.of_instances(row.image_id, row.file_name, row.width, row.height, kept)
