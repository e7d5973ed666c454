"""Checks the classes of labels by labelled instances whose features are similar.

The features of an instance are the detector's own, averaged over its mask, on each level of its feature maps. The mean
of all labelled instances is subtracted. The similarity of two instances is the cosine of their features, the mean over
the levels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoAnnotation, CocoDataset
from pipeline.detection.predictor import build_predictor
from pipeline.detection.published import DetectorChoice
from pipeline.errors import ImageError
from pipeline.files.writing import open_atomically
from pipeline.labels.rows import ImageLabels
from pipeline.masks.run_lengths import CompressedRle, decode_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.detection.predictor import FeatureLevels, Predictor

Features = NDArray[np.float32]

_MOST_OF_A_CLASS: Final = 500
"""Of a class with more labelled instances, this many are used, evenly from all of them."""


@dataclass(frozen=True, eq=False)
class LabelledInstances:
    """Labelled instances: their categories, int64 (N,), their features (N, F), and the channels of each level."""

    category_ids: NDArray[np.int64]
    features: Features
    channels: NDArray[np.int64]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        with np.load(path, allow_pickle=False) as content:
            return cls(content["category_ids"], content["features"], content["channels"])

    def write(self, path: Path) -> None:
        """Write the instances, whole or not at all."""
        content = BytesIO()
        np.savez(content, category_ids=self.category_ids, features=self.features, channels=self.channels)
        with open_atomically(path) as file:
            file.write(content.getvalue())


class Neighbours:
    """Labelled instances that vote on the class of others, `count` of each class."""

    def __init__(self, labelled: LabelledInstances, count: int) -> None:
        self._channels = labelled.channels
        self._mean = labelled.features.mean(axis=0) if len(labelled.features) else np.zeros(0, np.float32)
        self._categories = np.unique(labelled.category_ids)
        directions = self._directions(labelled.features)
        self._by_category = [directions[labelled.category_ids == each] for each in self._categories]
        self._count = min(count, max(map(len, self._by_category), default=0))

    def votes(self, features: Features) -> list[tuple[int, float] | None]:
        """Return for each of some instances the category that wins, and the share of comparisons that it wins.

        features: (M, F). The first comparison is between the most similar labelled instances of each category, the
        second between those that come next, and so on; the most similar one wins. A category with fewer instances
        enters its last one again. None with less than two categories.
        """
        if len(self._categories) < 2:
            return [None] * len(features)
        directions = self._directions(features)
        similar = np.stack([self._nearest(directions @ own.T) for own in self._by_category])
        winners = similar.argmax(axis=0)
        wins = (winners[None] == np.arange(len(similar))[:, None, None]).sum(axis=2)
        # Of categories with as many wins, the more similar one on average.
        best = [
            max(range(len(similar)), key=lambda index: (wins[index, each], similar[index, each].mean()))
            for each in range(len(features))
        ]
        return [
            (int(self._categories[index]), float(np.float32(wins[index, each] / self._count)))
            for each, index in enumerate(best)
        ]

    def voted(self, labels: ImageLabels, features: Features) -> ImageLabels:
        """Return labels with the votes on their classes. features: of the instances, (N, F).

        An instance of a class without labelled instances gets no vote: nothing speaks for its class.
        """
        known = set(self._categories.tolist())
        instances = [
            instance
            if vote is None or instance.category_id not in known
            else replace(instance, class_vote=vote[0], class_agreement=vote[1])
            for instance, vote in zip(labels.instances, self.votes(features), strict=True)
        ]
        return replace(labels, instances=tuple(instances))

    def _nearest(self, similarities: Features) -> Features:
        """Return the highest similarities, (M, count), the highest first; the last one again if there are fewer."""
        highest = -np.sort(-similarities, axis=1)[:, : self._count]
        return np.pad(highest, ((0, 0), (0, self._count - highest.shape[1])), mode="edge")

    def _directions(self, features: Features) -> Features:
        """Return features without their mean, at length 1 on each level, so that products are mean cosines."""
        parts = []
        for level in np.split(features - self._mean, np.cumsum(self._channels)[:-1], axis=1):
            lengths = np.linalg.norm(level, axis=1, keepdims=True)
            parts.append(level / np.maximum(lengths, np.finfo(np.float32).tiny))
        directions: Features = np.concatenate(parts, axis=1) / np.float32(len(parts) ** 0.5)
        return directions


@lru_cache(maxsize=2)
def open_neighbours(path: Path, count: int) -> Neighbours:
    """Return the labelled instances of a file as voters."""
    return Neighbours(LabelledInstances.read(path), count)


def labelled_instances(
    detector: DetectorChoice, dataset: CocoDataset, image_root: Path, say: Callable[[str], None]
) -> LabelledInstances:
    """Return the labelled instances with a detector's features of them. Images that cannot be read are left out."""
    import pipeline.detection.registered  # noqa: F401  before any other import of MMDetection, which it silences

    predictor = build_predictor(detector)
    images = ImageFolder.of(image_root, [image.file_name for image in dataset.images])
    categories: list[int] = []
    found: list[tuple[Features, ...]] = []
    for image_id, instances in _chosen(dataset).items():
        image = dataset.image_by_id[image_id]
        try:
            pixels = images.read(image.file_name, (image.width, image.height))
        except ImageError as error:
            say(f"{image.file_name}: {error}; its instances check no class")
            continue
        categories += [each.category_id for each in instances]
        found += mask_features(predictor, pixels, [dataset.rle(each) for each in instances])
    channels = [len(level) for level in found[0]] if found else [0]
    features = np.array([np.concatenate(levels) for levels in found], np.float32).reshape(-1, sum(channels))
    return LabelledInstances(np.array(categories, np.int64), features, np.array(channels, np.int64))


def mask_features(
    predictor: Predictor, image_rgb: NDArray[np.uint8], masks: Sequence[CompressedRle]
) -> list[tuple[Features, ...]]:
    """Return the features of an image, uint8 (height, width, 3), averaged over each mask: an array for each level."""
    if not masks:
        return []
    levels = predictor.feature_levels(image_rgb)
    return [_pooled(levels, decode_mask(mask)) for mask in masks]


@torch.inference_mode()
def _pooled(levels: FeatureLevels, mask: NDArray[np.bool_]) -> tuple[Features, ...]:
    """Return the mean of each level's features, weighted by the share of each cell that a mask fills."""
    height, width = mask.shape
    # As large as the maps, which cover padding too.
    below, right = round(height / levels.shown_hw[0]) - height, round(width / levels.shown_hw[1]) - width
    share = F.pad(torch.from_numpy(np.ascontiguousarray(mask)).float(), (0, max(right, 0), 0, max(below, 0)))[
        None, None
    ]
    pooled = []
    for features in levels.maps:
        share = F.interpolate(share, features.shape[-2:], mode="area")
        weights = share[0, 0].to(features.device)
        mean = (features[0] * weights).sum((1, 2)) / weights.sum().clamp(min=1e-12)
        pooled.append(mean.cpu().numpy())
    return tuple(pooled)


def _chosen(dataset: CocoDataset) -> dict[int, list[CocoAnnotation]]:
    """Return the instances to use by image, at most `_MOST_OF_A_CLASS` of a class."""
    of_class: dict[int, list[CocoAnnotation]] = defaultdict(list)
    for image in dataset.images:
        for annotation in dataset.instances(image.id):
            of_class[annotation.category_id].append(annotation)
    chosen: dict[int, list[CocoAnnotation]] = {image.id: [] for image in dataset.images}
    for found in of_class.values():
        count = min(len(found), _MOST_OF_A_CLASS)
        for index in np.linspace(0, len(found) - 1, count).round().astype(int).tolist():
            chosen[found[index].image_id].append(found[index])
    return {image_id: instances for image_id, instances in chosen.items() if instances}
