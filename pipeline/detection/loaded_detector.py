"""A trained detector that predicts on images in Python, without files or stores."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.coco.model import CocoCategory, CocoImage
from pipeline.compute.settings import ComputeSettings, Device
from pipeline.detection.prediction_labels import LabelLimits, labels_of_image
from pipeline.detection.published import read_published
from pipeline.errors import ArrayError, ImageError
from pipeline.labels.array_view import Instances, as_rgb
from pipeline.labels.drawing import RgbImage
from pipeline.labels.rows import ImageLabels


class LoadedDetector:
    """A trained detector, on a device, ready to predict."""

    def __init__(self, folder: Path, device: Device = "auto") -> None:
        """Load the detector of a published folder. Raise StageError if there is none."""
        import pipeline.detection.registered  # noqa: F401  before any other import of MMDetection, which it silences
        from pipeline.compute.devices import usable_device
        from pipeline.detection.predictor import Predictor

        compute, used = ComputeSettings(device=device), str(usable_device(device))
        self.folder = folder
        self._batch_images = compute.batch_images
        self._predictor = Predictor(read_published(folder), used, compute.precision, compute.batch_images)

    @property
    def categories(self) -> tuple[CocoCategory, ...]:
        """Return the categories that the detector knows."""
        return self._predictor.categories

    def predict(
        self, images: Iterable[Any], *, score: float = 0.5, mask_score: float = 0.0, max_instances: int = 100
    ) -> list[Instances]:
        """Return what the detector finds on images, the best first, for each image.

        images: paths of files, or arrays as for `pipeline.labels.array_view.as_rgb`. A file that cannot be used gives
        no instances, and `problem` says why. score, mask_score: leave out instances with a lower class score or mask
        score.
        """
        if isinstance(images, str | Path | np.ndarray):
            raise ArrayError("predict takes several images: put the one image into a list")
        limits = LabelLimits(score, max_instances, mask_score)
        found: list[Instances] = []
        remaining = iter(images)
        while batch := list(islice(remaining, self._batch_images)):
            found += self._predicted(batch, len(found), limits)
        return found

    def _predicted(self, batch: list[Any], first: int, limits: LabelLimits) -> list[Instances]:
        read = [_read(image) for image in batch]
        usable = [pixels for pixels in read if not isinstance(pixels, str)]
        predictions = iter(self._predictor.predict(usable, limits.score_threshold))
        names = {category.id: category.name for category in self.categories}
        results: list[Instances] = []
        for number, (image, pixels) in enumerate(zip(batch, read, strict=True), start=first + 1):
            name = str(image) if isinstance(image, str | Path) else f"image {number}"
            if isinstance(pixels, str):
                labels, pixels = ImageLabels.of_failure(number, name, pixels), np.zeros((0, 0, 3), np.uint8)
            else:
                known = CocoImage(number, name, pixels.shape[1], pixels.shape[0])
                labels = labels_of_image(known, next(predictions), self.categories, limits)
            results.append(Instances(pixels, labels, names))
        return results


def _read(image: Any) -> RgbImage | str:
    """Return an image's pixels, or the reason why its file cannot be used."""
    try:
        return as_rgb(image)
    except ImageError as error:
        return str(error)
