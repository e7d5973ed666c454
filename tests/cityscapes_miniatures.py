"""Random miniatures of Cityscapes' labels with detections, and the figures that cityscapesscripts gives for them.

`make bench-cityscapes` compares again with cityscapesscripts where that is installed, and can record the figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.datasets.cityscapes import CLASSES
from pipeline.evaluation.cityscapes_ap import CityscapesDetection, CityscapesPrecision
from pipeline.masks.crop_mask import CropMask
from pipeline.masks.windows import whole_image

Figures = dict[str, list[float | None]]
"""The AP at each IoU of every class, by its name; None for a class without truths."""

WIDTH, HEIGHT = 120, 72
RECORDED = Path(__file__).with_name("cityscapes_reference.json")
MINIATURES = 24
"""Number of seeds whose figures are recorded."""


@dataclass(frozen=True)
class Miniature:
    """An image: its label image, and detections as class, score and mask (height, width)."""

    labels: np.ndarray
    detections: tuple[tuple[int, float, np.ndarray], ...]


def miniatures(seed: int) -> list[Miniature]:
    """Return the images of one evaluation."""
    rng = np.random.default_rng(seed)
    return [_miniature(rng) for _ in range(int(rng.integers(1, 6)))]


def _miniature(rng: np.random.Generator) -> Miniature:
    """Draw stuff and void, instances over it, groups, classes that are never scored; then what finds some of them."""
    labels = np.full((HEIGHT, WIDTH), 7, np.uint16)
    for value in rng.choice([0, 1, 3, 9, 11, 18, 21, 23], 6):
        _draw(labels, int(value), rng, (6, 60))
    classes = rng.choice(list(CLASSES), 4, replace=False).tolist()
    for number in range(int(rng.integers(0, 9))):
        class_id = int(rng.choice(classes))
        group = rng.uniform() < 0.2
        _draw(labels, class_id if group else 1000 * class_id + number, rng, (5, 40))
    for value in (29, 29_000, 30_001):
        if rng.uniform() < 0.3:
            _draw(labels, value, rng, (5, 25))
    detections = [_detection(labels, rng, classes) for _ in range(int(rng.integers(0, 14)))]
    return Miniature(labels, tuple(detections))


def _draw(labels: np.ndarray, value: int, rng: np.random.Generator, sides: tuple[int, int]) -> None:
    height, width = rng.integers(*sides, 2)
    top, left = rng.integers(-4, HEIGHT - 5), rng.integers(-4, WIDTH - 5)
    labels[max(0, top) : top + height, max(0, left) : left + width] = value


def _detection(labels: np.ndarray, rng: np.random.Generator, classes: Sequence[int]) -> tuple[int, float, np.ndarray]:
    """Find an instance or a group nearly, or draw a box anywhere; scores are often equal."""
    score = float(rng.integers(1, 9) / 8)
    shown = [int(value) for value in np.unique(labels) if value >= 24]
    if shown and rng.uniform() < 0.75:
        value = int(rng.choice(shown))
        mask = np.roll(labels == value, tuple(rng.integers(-2, 3, 2)), axis=(0, 1))
        class_id = value if value < 1000 else value // 1000
        if class_id in CLASSES and rng.uniform() < 0.9:
            return class_id, score, mask
        return int(rng.choice(classes)), score, mask
    mask = np.zeros((HEIGHT, WIDTH), bool)
    _draw(mask, True, rng, (0, 40))
    return int(rng.choice(classes)), score, mask


def own_figures(images: Sequence[Miniature]) -> Figures:
    """Return the figures that this project gives."""
    sums = CityscapesPrecision()
    for image in images:
        window = whole_image(HEIGHT, WIDTH)
        detections = [
            CityscapesDetection(class_id, score, CropMask.of_array(mask, window))
            for class_id, score, mask in image.detections
        ]
        sums.add(image.labels, detections)
    return {CLASSES[class_id]: with_nulls(ap) for class_id, ap in sums.by_class().items()}


def recorded_figures() -> dict[int, Figures]:
    """Return the recorded figures by seed."""
    content = json.loads(RECORDED.read_text(encoding="utf-8"))
    return dict(zip(content["seeds"], content["ap"], strict=True))


def largest_difference(first: Figures, second: Figures) -> float:
    """Return the largest difference of two sets of figures; infinite where only one has a figure."""
    differences = [0.0]
    for name in first:
        for one, other in zip(first[name], second[name], strict=True):
            if (one is None) != (other is None):
                return math.inf
            differences.append(0.0 if one is None or other is None else abs(one - other))
    return max(differences)


def with_nulls(values: np.ndarray) -> list[float | None]:
    """Return values with None in place of NaN."""
    return [None if math.isnan(value) else value for value in values.tolist()]
