"""Predicting on a shard of images: what a worker is given, and what it does with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.coco.model import CocoCategory, CocoDataset, CocoImage
from pipeline.coco.paths import resolve_image_path
from pipeline.coco.reading import read_coco
from pipeline.compute.ahead import read_ahead
from pipeline.compute.shards import Shard, ShardReport
from pipeline.detection.detector_choice import DetectorChoice
from pipeline.errors import ImageError
from pipeline.files.images import read_image
from pipeline.labels.label_writing import write_label_shard
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status, label_from_mask
from pipeline.masks.soft_masks import make_soft_mask

if TYPE_CHECKING:
    from pipeline.detection.painted_masks import Prediction
    from pipeline.detection.predictor import Predictor


@dataclass(frozen=True)
class PredictWork:
    """A detector's labels for images, shard by shard (see `pipeline.compute.shards.ShardWork`).

    measured: detections to measure, with the detector's own boxes and without soft masks; else labels to refine,
    with the boxes of their masks.
    """

    annotations: Path
    image_root: Path
    shards_folder: Path
    detector: DetectorChoice
    score_threshold: float
    max_instances: int
    measured: bool = False

    def compute(self, shard: Shard) -> list[ImageLabels]:
        """The labels of a shard's images. Images are read while others are predicted on."""
        import pipeline.detection.registered  # noqa: F401  ahead of all else of MMDetection, which it keeps quiet
        from pipeline.detection.predictor import build_predictor

        dataset = _read_dataset(self.annotations)
        predictor = build_predictor(self.detector)
        rows: list[ImageLabels] = []
        images = [dataset.image_by_id[image_id] for image_id in shard.image_ids]
        for batch in read_ahead(images, self.detector.batch_images, self._with_pixels):
            rows += self._predicted(batch, predictor)
        return rows

    def publish(self, shard: Shard, rows: Sequence[ImageLabels]) -> ShardReport:
        """Write the shard."""
        write_label_shard(self.shards_folder, shard.index, rows)
        failures = {row.file_name: row.message for row in rows if row.status is Status.FAILED}
        return ShardReport(len(rows), {"instances": sum(len(row.instances) for row in rows)}, failures)

    def given_up(self, image_id: int, reason: str) -> ImageLabels:
        """The row of an image that kills its workers."""
        return _failure(_read_dataset(self.annotations).image_by_id[image_id], reason)

    def _with_pixels(self, image: CocoImage) -> tuple[CocoImage, NDArray[np.uint8] | str]:
        """An image as RGB, or why it cannot be read."""
        try:
            path = resolve_image_path(self.image_root, image.file_name)
            return image, read_image(path, (image.width, image.height))
        except ImageError as error:
            return image, str(error)

    def _predicted(
        self, batch: Sequence[tuple[CocoImage, NDArray[np.uint8] | str]], predictor: Predictor
    ) -> list[ImageLabels]:
        """The rows of a batch, in its order."""
        images = [pixels for _, pixels in batch if not isinstance(pixels, str)]
        # A mirror image's share may lift or lower a score: nothing is left out before.
        found = iter(
            predictor.predict_twice(images) if self.detector.flip else predictor.predict(images, self.score_threshold)
        )
        return [
            _failure(image, pixels) if isinstance(pixels, str) else self._row(image, next(found), predictor.categories)
            for image, pixels in batch
        ]

    def _row(
        self, image: CocoImage, predictions: Sequence[Prediction], categories: Sequence[CocoCategory]
    ) -> ImageLabels:
        """The best predictions of an image as labels, the best first; those without a pixel are passed over."""
        instances: list[InstanceLabel] = []
        for prediction in sorted(predictions, key=lambda each: -each.score):
            if prediction.score < self.score_threshold or len(instances) == self.max_instances:
                break
            label = self._label(prediction, categories[prediction.label].id)
            if label.area:
                instances.append(label)
        return ImageLabels.of_instances(image.id, image.file_name, image.width, image.height, tuple(instances))

    def _label(self, prediction: Prediction, category_id: int) -> InstanceLabel:
        painted = prediction.source.paint()
        score = min(prediction.score, 1.0)  # a mean of probabilities may be rounded to a little above
        label = label_from_mask(painted.mask, category_id, score, Decision.TEACHER)
        if self.measured:
            return replace(label, box_xyxy=prediction.box_xyxy)
        return replace(label, soft_mask=make_soft_mask(painted.probability, label.box_xyxy))


def _failure(image: CocoImage, reason: str) -> ImageLabels:
    return ImageLabels.of_failure(image.id, image.file_name, reason, image.width, image.height)


@lru_cache(maxsize=1)
def _read_dataset(path: Path) -> CocoDataset:
    return read_coco(path, annotations_required=False)
