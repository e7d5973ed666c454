"""Make training batches: scenes with a few of their objects, and prompts for these objects."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from pipeline.masks.windows import nonzero_window
from pipeline.sam.tiny.model import REFERENCE_SIDE
from pipeline.sam.tiny.scenes import MIN_VISIBLE_PX, make_scene
from pipeline.sam.tiny.textures import smooth_noise

Mask = NDArray[np.bool_]
Logits = NDArray[np.float32]
Label = TypeVar("Label", np.int32, np.bool_)

SMALL_SIDES_UNTIL = 2000
SMALL_SIDES: tuple[tuple[int, int, float], ...] = ((64, 12, 0.76), (96, 6, 0.12), (128, 4, 0.12))
SIDES: tuple[tuple[int, int, float], ...] = (
    (64, 12, 0.08),
    (96, 7, 0.1),
    (128, 5, 0.4),
    (160, 3, 0.06),
    (192, 2, 0.06),
    (256, 2, 0.3),
)
"""Input side, images in a batch and share of the batches.

What a prompt means is learned first on small images, which show more objects for the same cost. Images smaller
than `REFERENCE_SIDE` are windows anywhere in an image of `LARGEST_SIDE`, so that all positions are learned.
"""

OBJECTS_PER_IMAGE = 4
PADDED_SHARE = 0.12
ENLARGED_SHARE = 0.6
"""The share of the batches above `REFERENCE_SIDE` that show scenes of half their side, twice as large."""
LARGEST_SIDE = 256
NEGATIVE_POINT_SHARE = 0.15


@dataclass(frozen=True)
class Batch:
    """Images and the objects to segment; object p is in image `image_index[p]`.

    images: (B, 3, S, S) float32 in 0..255. content_hw: pixels beyond it are padding.
    labels: (B, S, S), 0 background. masks: (P, S, S) bool.
    """

    images: Tensor
    labels: NDArray[np.int32]
    content_hw: tuple[int, int]
    masks: NDArray[np.bool_]
    image_index: Tensor

    @property
    def side(self) -> int:
        """Return the input side in pixels."""
        return int(self.images.shape[-1])


@dataclass(frozen=True)
class PromptLayout:
    """The parts of a group of prompts: one group is one tensor, so its prompts have the same parts."""

    points: int
    box: bool
    mask: bool


@dataclass(frozen=True)
class PromptGroup:
    """Prompts of one layout. `rows`: their objects in the batch.

    points_xy: (G, K, 2) float32 and labels (G, K) float32, or None. boxes_xyxy: (G, 4), or None.
    mask_logits_lowres: (G, 1, S/2, S/2), or None. Coordinates are pixels of the input.
    """

    rows: Tensor
    points_xy: Tensor | None
    point_labels: Tensor | None
    boxes_xyxy: Tensor | None
    mask_logits_lowres: Tensor | None


def enlarge(
    image_rgb: NDArray[np.uint8], labels: NDArray[Label], factor: int
) -> tuple[NDArray[np.uint8], NDArray[Label]]:
    """Return an image (H, W, 3) and its labels or masks (..., H, W) that many times as wide and high."""
    height, width = image_rgb.shape[:2]
    size_wh = (factor * width, factor * height)
    enlarged_rgb = cv2.resize(image_rgb, size_wh, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    return enlarged_rgb, labels.repeat(factor, axis=-2).repeat(factor, axis=-1)


def _scene(
    seed: int, side: int, content_hw: tuple[int, int], enlarged: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Make a scene with objects inside the content; try the next seeds where padding hides all objects."""
    while True:
        scene = make_scene(seed, side // 2 if enlarged else side)
        image_rgb, labels = scene.image_rgb, scene.labels.copy()
        if enlarged:
            image_rgb, labels = enlarge(image_rgb, labels, 2)
        labels[content_hw[0] :] = 0
        labels[:, content_hw[1] :] = 0
        if np.bincount(labels.ravel())[1:].max(initial=0) >= MIN_VISIBLE_PX:
            return image_rgb, labels
        seed += 1 << 40


def make_batch(rng: Generator, first_seed: int, side: int, images: int, padded: bool, enlarged: bool = False) -> Batch:
    """Make `images` scenes from `first_seed` on and choose `OBJECTS_PER_IMAGE` objects of each.

    Enlarged ones are scenes of half the side, as a model sees small images that it is given twice as large.
    """
    content_hw = (side, side)
    if padded:
        short = int(rng.uniform(0.5, 1.0) * side)
        content_hw = (short, side) if rng.random() < 0.5 else (side, short)
    scenes: list[NDArray[np.uint8]] = []
    label_maps: list[NDArray[np.int32]] = []
    masks: list[Mask] = []
    for index in range(images):
        image_rgb, labels = _scene(first_seed + index, side, content_hw, enlarged)
        scenes.append(image_rgb)
        label_maps.append(labels)
        area_px = np.bincount(labels.ravel())
        area_px[0] = 0
        usable = np.flatnonzero(area_px >= MIN_VISIBLE_PX)
        # Large objects are rare among many small ones: prefer them.
        weight = area_px[usable] ** 0.3
        replace = len(usable) < OBJECTS_PER_IMAGE
        chosen = rng.choice(usable, OBJECTS_PER_IMAGE, replace=replace, p=weight / weight.sum())
        masks.extend(labels == label for label in chosen)
    return Batch(
        images=torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).float(),
        labels=np.stack(label_maps),
        content_hw=content_hw,
        masks=np.stack(masks),
        image_index=torch.arange(images).repeat_interleave(OBJECTS_PER_IMAGE),
    )


def training_batch(seed: int, step: int) -> Batch:
    """Make the batch of a step: always the same, so that a resumed training continues as if never stopped."""
    rng = np.random.default_rng([seed, step, 1])
    sides = SMALL_SIDES if step < SMALL_SIDES_UNTIL else SIDES
    kind = rng.choice(len(sides), p=[share for _, _, share in sides])
    side, images, _ = sides[kind]
    padded = rng.random() < PADDED_SHARE
    enlarged = side > REFERENCE_SIDE and rng.random() < ENLARGED_SHARE
    return make_batch(rng, (seed << 32) + step * 16, side, images, padded, enlarged)


def window_centre_px(seed: int, step: int, side: int) -> tuple[float, float]:
    """Return where the step's images are, from the centre of an image of `LARGEST_SIDE`; (0, 0) for large images."""
    if side >= REFERENCE_SIDE:
        return (0.0, 0.0)
    reach = (LARGEST_SIDE - side) / 2
    x, y = np.random.default_rng([seed, step, 3]).uniform(-reach, reach, 2)
    return (float(x), float(y))


def draw_layout(rng: Generator) -> PromptLayout:
    """Draw a layout: points, a box, both, or a coarse mask with or without them."""
    kind = rng.random()
    if kind < 0.14:
        return PromptLayout(points=1, box=False, mask=False)
    if kind < 0.44:
        return PromptLayout(points=int(rng.integers(2, 6)), box=False, mask=False)
    if kind < 0.57:
        return PromptLayout(points=0, box=True, mask=False)
    if kind < 0.76:
        return PromptLayout(points=int(rng.integers(1, 5)), box=True, mask=False)
    box = rng.random() < 0.6
    return PromptLayout(points=int(rng.integers(0 if box else 1, 4)), box=box, mask=True)


def coarse_mask(rng: Generator, mask: Mask) -> Logits:
    """Return logits S/2 x S/2 as a weak detector might predict `mask`: blurred, shifted, too large or small."""
    side = mask.shape[0] // 2
    soft = np.asarray(cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA), np.float32)
    size = np.sqrt(soft.sum())
    blurred = cv2.GaussianBlur(soft, (0, 0), max(0.4, size * rng.uniform(0.03, 0.2)))
    reach = 0.15 * size * rng.random()
    shift = np.round(rng.uniform(-reach, reach, 2)).astype(int)
    blurred = np.roll(blurred, shift, axis=(0, 1))
    bumps = smooth_noise(rng, (side, side), int(np.clip(3 * side / max(size, 1), 3, side // 2)))
    level = 0.5 + rng.uniform(-0.2, 0.2)
    confidence = rng.uniform(4, 24)
    logits: NDArray[np.floating] = confidence * (blurred - level + rng.uniform(0, 0.5) * (bumps - 0.5))
    if not (logits > 0).any():
        logits = confidence * (soft - 0.5)
    return np.clip(logits, -16, 16).astype(np.float32)


def points_in(rng: Generator, mask: Mask, count: int) -> NDArray[np.float32]:
    """Draw pixels (count, 2) evenly from a mask."""
    rows, columns = np.nonzero(mask)
    picked = rng.integers(len(rows), size=count)
    return np.stack([columns[picked], rows[picked]], axis=1).astype(np.float32)


def points_by_confidence(rng: Generator, logits_lowres: Logits, count: int) -> NDArray[np.float32]:
    """Draw pixels (count, 2) inside a coarse mask, in proportion to its probability."""
    flat = logits_lowres.ravel()
    inside = np.flatnonzero(flat > 0) if (flat > 0).any() else np.array([int(flat.argmax())])
    weight = 1 / (1 + np.exp(-flat[inside].astype(np.float64)))
    picked = rng.choice(inside, count, p=weight / weight.sum())
    rows, columns = np.divmod(picked, logits_lowres.shape[1])
    offset = rng.integers(0, 2, (count, 2))
    return (2 * np.stack([columns, rows], axis=1) + offset).astype(np.float32)


def box_of(mask: Mask) -> NDArray[np.float32]:
    """Return x0, y0, x1, y1 of a mask's outer pixel edges, (4,)."""
    return np.array(astuple(nonzero_window(mask)), dtype=np.float32)


def jitter_box(rng: Generator, box_xyxy: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Move each edge by up to about a tenth of the box's size, inside the image."""
    size = np.tile(box_xyxy[2:] - box_xyxy[:2], 2)
    moved = box_xyxy + rng.normal(0, 1, 4) * np.minimum(size * rng.uniform(0, 0.1), side / 12)
    moved[2:] = np.maximum(moved[2:], moved[:2] + 2)
    jittered: NDArray[np.float32] = np.clip(moved, 0, side).astype(np.float32)
    return jittered


def _points(rng: Generator, mask: Mask, coarse: Logits | None, count: int) -> tuple[NDArray[np.float32], Logits]:
    """Draw positive points, sometimes with a negative one, just outside the object or anywhere."""
    points = points_in(rng, mask, count) if coarse is None else points_by_confidence(rng, coarse, count)
    labels = np.ones(count, dtype=np.float32)
    if count > 1 and rng.random() < NEGATIVE_POINT_SHARE and not mask.all():
        near = cv2.dilate(mask.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool) & ~mask
        outside = near if rng.random() < 0.6 and near.any() else ~mask
        points[-1] = points_in(rng, outside, 1)[0]
        labels[-1] = 0
    return points, labels


def make_prompts(rng: Generator, batch: Batch, rows: NDArray[np.int64], layout: PromptLayout) -> PromptGroup:
    """Make first prompts for the objects `rows`, from the true masks or from what a weak detector would predict."""
    points, labels, boxes, masks = [], [], [], []
    for row in rows:
        mask = batch.masks[row]
        coarse = coarse_mask(rng, mask) if layout.mask or rng.random() < 0.5 else None
        if layout.points:
            xy, signs = _points(rng, mask, coarse, layout.points)
            points.append(xy)
            labels.append(signs)
        if layout.box:
            box = box_of(mask)
            if coarse is not None and (coarse > 0).any() and rng.random() < 0.5:
                box = 2 * box_of(coarse > 0)
            boxes.append(jitter_box(rng, box, batch.side))
        if layout.mask:
            assert coarse is not None
            masks.append(coarse[None])
    stacked = (torch.from_numpy(np.stack(part)) if part else None for part in (points, labels, boxes, masks))
    return PromptGroup(torch.from_numpy(rows), *stacked)


def correct(
    group: PromptGroup, logits_lowres: Tensor, truth_lowres: Tensor, add_point: bool, generator: torch.Generator
) -> PromptGroup:
    """Make the next round: the answer (G, S/2, S/2) as mask prompt and, if asked for, a point where it was wrong."""
    points, labels = group.points_xy, group.point_labels
    if add_point:
        wrong = ((logits_lowres > 0) != truth_lowres).flatten(1).float()
        weight = torch.where(wrong.any(1, keepdim=True), wrong, truth_lowres.flatten(1).float())
        weight += 1e-9  # an object too thin for the low resolution, perfectly answered: anywhere
        index = torch.multinomial(weight, 1, generator=generator)
        width = logits_lowres.shape[-1]
        point = torch.stack([index % width, index // width], dim=-1) * 2.0 + 0.5
        label = truth_lowres.flatten(1).gather(1, index).float()
        points = point if points is None else torch.cat([points, point], dim=1)
        labels = label if labels is None else torch.cat([labels, label], dim=1)
    return replace(group, points_xy=points, point_labels=labels, mask_logits_lowres=logits_lowres[:, None])
