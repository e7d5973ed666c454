"""Draw what SAM is shown in training: a part of a labelled image, and prompts of an imitated teacher about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.adaptation.gross_errors import with_gross_errors
from pipeline.adaptation.imitated_teacher import SMALLEST_PX, imitated_label
from pipeline.masks.run_lengths import CompressedRle, decode_window
from pipeline.masks.windows import BoolMask, Window, nonzero_window, whole_image
from pipeline.refinement.asking import Asked, Question
from pipeline.refinement.settings import RefineSettings
from pipeline.refinement.zoom import plan_views
from pipeline.sam.frame import InputFrame

Drawn = TypeVar("Drawn")

LEAST_CROP: Final = 0.6
"""Least share of an image's sides that a crop keeps."""

WHOLE_SHARE: Final = 0.25
"""Share of the draws that show the whole image."""

MOST_CANDIDATES: Final = 64
"""Instances of an image among which those of a view are drawn."""

GAIN, SHIFT = 0.2, 12.0
"""Largest change of the contrast of a colour channel, as a share, and of its brightness, in 0..255."""


@dataclass(frozen=True)
class TrainingView:
    """A part of an image as SAM sees it: uint8 (height, width, 3), and true masks in its own pixels."""

    image_rgb: NDArray[np.uint8]
    masks: tuple[BoolMask, ...]


@dataclass(frozen=True)
class Lesson:
    """Prompts about a view, each with the true mask: bool (height, width) of the view."""

    asked: tuple[Asked, ...]
    truths: tuple[BoolMask, ...]


def draw_view(
    image_rgb: NDArray[np.uint8],
    masks: Sequence[CompressedRle],
    frame: InputFrame,
    zoom_below_px: int,
    most_instances: int,
    rng: np.random.Generator,
) -> TrainingView:
    """Draw a crop of an image, then a view of it as refinement plans them, mirrored or not, with other colours."""
    crop, visible = _crop(image_rgb.shape[0], image_rgb.shape[1], _some(masks, MOST_CANDIDATES, rng), rng)
    boxes = [nonzero_window(mask) for mask in visible]
    planned = plan_views(
        [(box.x0, box.y0, box.x1, box.y1) for box in boxes], crop.height, crop.width, frame, zoom_below_px
    )
    sizes = np.array([len(view.instances) for view in planned], dtype=np.float64)
    view = planned[int(rng.choice(len(planned), p=sizes / sizes.sum()))]
    shown = [visible[index][view.window.in_image] for index in _some(view.instances, most_instances, rng)]
    pixels = _recoloured(image_rgb[crop.in_image][view.window.in_image], rng)
    if rng.random() < 0.5:
        pixels, shown = pixels[:, ::-1], [mask[:, ::-1] for mask in shown]
    return TrainingView(np.ascontiguousarray(pixels), tuple(np.ascontiguousarray(mask) for mask in shown))


def draw_lesson(
    view: TrainingView,
    frame: InputFrame,
    most_noise: float,
    settings: RefineSettings,
    lesson: int,
    rng: np.random.Generator,
) -> Lesson:
    """Imitate a teacher's masks, each as good or bad as the draw, and make of them the prompts that refinement makes.

    lesson: a number that seeds the random points of the prompts.
    """
    asked, truths = [], []
    window = whole_image(*view.image_rgb.shape[:2])
    for number, mask in enumerate(view.masks):
        noise = rng.uniform(0, most_noise)
        label = imitated_label(with_gross_errors(mask, view.masks, noise, rng), 0, noise, rng)
        if label is not None and label.soft_mask is not None:
            asked.append(Asked.of(Question(lesson, number, 0, window, label.soft_mask), frame, settings))
            truths.append(mask)
    return Lesson(tuple(asked), tuple(truths))


def _crop(
    height: int, width: int, masks: Sequence[CompressedRle], rng: np.random.Generator
) -> tuple[Window, list[BoolMask]]:
    """Return a window that shows enough of an instance, and the masks in it."""
    whole = whole_image(height, width)
    window = whole
    if rng.random() >= WHOLE_SHARE:
        shares = rng.uniform(LEAST_CROP, 1, 2)
        rows, columns = max(1, round(height * shares[0])), max(1, round(width * shares[1]))
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        window = Window(left, top, left + columns, top + rows)
    for tried in (window, whole):
        visible = [decode_window(rle, tried) for rle in masks]
        large = [mask for mask in visible if np.count_nonzero(mask) >= SMALLEST_PX]
        if large:
            return tried, large
    raise AssertionError("every image that is used has an instance that is large enough")


def _recoloured(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change contrast and brightness of all channels, and a little of each."""
    together, each = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, (2, 3)) / 4
    gain, shift = 1 + GAIN * (together[0] + each[0]), SHIFT * (together[1] + each[1])
    mean = pixels.mean()
    return np.asarray(np.clip((pixels - mean) * gain + mean + shift, 0, 255).round(), np.uint8)


def _some(values: Sequence[Drawn], most: int, rng: np.random.Generator) -> list[Drawn]:
    """Draw at most so many of the values, in their order."""
    return [values[index] for index in sorted(rng.permutation(len(values))[:most].tolist())]
