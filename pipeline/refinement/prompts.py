"""Prompts for SAM about one instance: points, box and mask, each from the teacher's soft mask alone."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.distances import distances_px
from pipeline.masks.windows import Window, nonzero_window
from pipeline.refinement.geometry import LowresFrame
from pipeline.refinement.settings import RefineSettings
from pipeline.refinement.soft import SoftView
from pipeline.sam.prompt import Prompt

ELASTIC_PROBABILITY = 0.2
"""An elastic box grows over lines that hold a cell at least this probable."""

MASK_LOGIT_LIMIT = 10.0
"""Largest size of a logit in mask prompts; most of SAM's own logits are smaller."""

MASK_LOGIT_GAIN = 2.0
"""Factor from a teacher's logits, which are flatter, to the scale of SAM's."""

MIN_BACKGROUND_CELLS = 2.0
"""A background point closer than this to the mask may lie on the object, since the teacher's mask is not exact."""

_HIGHEST_PROBABILITY = 1 - 0.5 / 255
"""The highest probability that a mask prompt tells apart, so that logits stay finite."""

_NO_POINTS = np.zeros((0, 2), dtype=np.float32)


def instance_rng(seed: int, image_id: int, instance_index: int) -> np.random.Generator:
    """Return the random numbers of one instance, which do not depend on order, batch or process."""
    # Two words hold any id, also a negative one or one of more than 32 bits.
    low, high = image_id & 0xFFFFFFFF, image_id >> 32 & 0xFFFFFFFF
    return np.random.default_rng(np.random.SeedSequence([seed, low, high, instance_index]))


def logits_of(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return log odds, finite for every probability from 0 to 1."""
    clipped = np.clip(probability, 1 - _HIGHEST_PROBABILITY, _HIGHEST_PROBABILITY)
    logits: NDArray[np.float32] = np.log(clipped / (1 - clipped))
    return logits


def sampled_points(view: SoftView, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw up to `count` different cells inside the mask by the softmax of their logits: (P, 2), pixels."""
    rows, columns = np.nonzero(view.inside())
    count = min(count, rows.size)
    if not count:
        return _NO_POINTS
    weights = np.exp(view.logits[rows, columns].astype(np.float64))
    drawn = rng.choice(rows.size, size=count, replace=False, p=weights / weights.sum())
    return view.points_xy(rows[drawn], columns[drawn])


def center_point(view: SoftView) -> NDArray[np.float32]:
    """Return the point inside the mask that is farthest from its outside and the crop's border: (1, 2), pixels."""
    inside = view.inside()
    if not inside.any():
        return _NO_POINTS
    depth = distances_px(np.pad(inside, 1))[1:-1, 1:-1]
    rows, columns = np.unravel_index([int(depth.argmax())], depth.shape)
    return view.points_xy(rows, columns)


def background_point(view: SoftView) -> NDArray[np.float32]:
    """Return the point in the mask's box that is farthest from the mask: (1, 2), pixels; (0, 2) if it is too near."""
    inside = view.inside()
    box = nonzero_window(inside)
    if box.is_empty:
        return _NO_POINTS
    distance = distances_px(~inside)[box.in_image]
    if distance.max() < MIN_BACKGROUND_CELLS:
        return _NO_POINTS
    rows, columns = np.unravel_index([int(distance.argmax())], distance.shape)
    return view.points_xy(rows + box.y0, columns + box.x0)


def tight_box(view: SoftView) -> NDArray[np.float32] | None:
    """Return the mask's own box, (4,) xyxy in pixels; None for a mask without a cell."""
    box = nonzero_window(view.inside())
    return None if box.is_empty else view.box_xyxy(box)


def elastic_box(view: SoftView, margin: float) -> NDArray[np.float32] | None:
    """Return the mask's box, enlarged on every side where the teacher is unsure.

    A side moves out line by line while the next line has a cell of at least `ELASTIC_PROBABILITY`, at most by `margin`
    of the box's extent in that direction.
    """
    box = nonzero_window(view.inside())
    if box.is_empty:
        return None
    plausible: NDArray[np.bool_] = view.probability >= ELASTIC_PROBABILITY
    columns = np.asarray(plausible[box.y0 : box.y1].any(axis=0))
    rows = np.asarray(plausible[:, box.x0 : box.x1].any(axis=1))
    most_x, most_y = ceil(margin * box.width), ceil(margin * box.height)
    grown = Window(
        box.x0 - _run_length(columns[: box.x0][::-1], most_x),
        box.y0 - _run_length(rows[: box.y0][::-1], most_y),
        box.x1 + _run_length(columns[box.x1 :], most_x),
        box.y1 + _run_length(rows[box.y1 :], most_y),
    )
    return view.box_xyxy(grown)


def mask_logits(probability_lowres: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a soft mask in SAM's low-resolution frame as a mask prompt: logits on the scale of SAM's own."""
    logits = MASK_LOGIT_GAIN * logits_of(probability_lowres)
    return np.clip(logits, -MASK_LOGIT_LIMIT, MASK_LOGIT_LIMIT)


def build_prompt(
    view: SoftView,
    probability_lowres: NDArray[np.float32],
    frame: LowresFrame,
    settings: RefineSettings,
    rng: np.random.Generator,
) -> Prompt:
    """Return the prompt by the settings, from a soft mask as a view and in SAM's low-resolution frame.

    Points and boxes are clipped to the image or crop; the soft mask may reach beyond it.
    """
    far_corner = np.array([frame.width, frame.height], dtype=np.float32)
    positive = [sampled_points(view, settings.points, rng)]
    if settings.center_point:
        positive.append(center_point(view))
    negative = background_point(view) if settings.background_point else _NO_POINTS
    points_xy = np.concatenate([*positive, negative])
    labels = np.ones(len(points_xy), dtype=np.int64)
    labels[len(points_xy) - len(negative) :] = 0
    box_xyxy = _box(view, settings)
    return Prompt(
        # SAM's coordinates of a pixel's centre are whole numbers.
        points_xy_full=np.clip(points_xy - np.float32(0.5), 0, far_corner - 1),
        point_labels=labels,
        box_xyxy_full=None if box_xyxy is None else np.clip(box_xyxy, 0, np.tile(far_corner, 2)),
        mask_logits_lowres=mask_logits(probability_lowres) if settings.mask_prompt else None,
    )


def _box(view: SoftView, settings: RefineSettings) -> NDArray[np.float32] | None:
    if settings.box == "none":
        return None
    return tight_box(view) if settings.box == "tight" else elastic_box(view, settings.box_margin)


def _run_length(values: NDArray[np.bool_], most: int) -> int:
    """Count the true values at the beginning, at most `most`."""
    considered = values[:most]
    return considered.size if considered.all() else int(considered.argmin())
