"""Pastes the instances of one image into another, without reading files.

The same images, labels, settings and random numbers give the same pixels, whether composites are written once or made
while training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.augment.cutout import Cutout, cut_out, paste, placed, rescaled
from pipeline.augment.settings import AugmentSettings
from pipeline.labels.label_columns import DECISIONS
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, with_mask
from pipeline.masks.run_lengths import CompressedRle, decode_window, encode_window, tight_window
from pipeline.masks.windows import BoolMask, Window, whole_image


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image, uint8 (height, width, 3) RGB, and its labels. is_truth: people made the labels."""

    image_rgb: NDArray[np.uint8]
    labels: ImageLabels
    is_truth: bool = False


def pasteable(
    decisions: NDArray[np.uint8],
    scores: NDArray[np.float32],
    areas: NDArray[np.int32],
    image_pixels: NDArray[np.int64],
    settings: AugmentSettings,
) -> NDArray[np.bool_]:
    """Return which refined instances may be pasted. All arrays are (N,); decisions are indices in `DECISIONS`."""
    wanted = [DECISIONS.index(Decision(decision)) for decision in settings.decisions]
    least = np.maximum(np.maximum(settings.min_area_px, settings.min_area_share * image_pixels), 1)
    # Scores are stored in 32 bits: the threshold is rounded alike.
    qualified: NDArray[np.bool_] = (
        np.isin(decisions, wanted) & (scores >= np.float32(settings.min_score)) & (areas >= least)
    )
    return qualified


def composite(
    base: LabelledImage, donor: LabelledImage | None, settings: AugmentSettings, rng: np.random.Generator
) -> LabelledImage:
    """Return the base with the donor's instances pasted into it, under the base's id and file name.

    Instances of which less than `min_visible_share` stays visible are dropped, or not pasted. Labels: first the base's
    own, in their order, then the pasted ones, the larger first.
    """
    height, width = base.image_rgb.shape[:2]
    covered = np.zeros((height, width), dtype=np.bool_)
    cutouts = _cutouts(donor, whole_image(height, width), settings, rng) if donor else []
    pasted = _visible_cutouts(cutouts, covered, settings)
    canvas_rgb = base.image_rgb.copy()
    for cutout, _ in pasted:
        paste(canvas_rgb, cutout, settings.edge_blend_px)
    kept = [_uncovered(base.labels, label, covered, settings.min_visible_share) for label in base.labels.instances]
    added = [
        with_mask(
            cutout.label,
            encode_window(visible, cutout.window, height, width),
            _uncertain_part(cutout, visible, height, width),
        )
        for cutout, visible in pasted
    ]
    labels = base.labels
    instances = (*(label for label in kept if label is not None), *added)
    row = ImageLabels.of_instances(labels.image_id, labels.file_name, width, height, instances)
    return LabelledImage(canvas_rgb, row)


def _qualified(donor: LabelledImage, settings: AugmentSettings) -> list[InstanceLabel]:
    """Return the donor's instances that may be pasted, the larger first: in front are mostly smaller ones."""
    labels = donor.labels
    if donor.is_truth:
        chosen = [each for each in labels.instances if each.decision is not Decision.DROPPED and each.area]
    else:
        qualified = pasteable(
            np.array([DECISIONS.index(each.decision) for each in labels.instances], dtype=np.uint8),
            np.array([each.score for each in labels.instances], dtype=np.float32),
            np.array([each.area for each in labels.instances], dtype=np.int32),
            np.full(len(labels.instances), labels.width * labels.height, dtype=np.int64),
            settings,
        )
        chosen = [each for each, wanted in zip(labels.instances, qualified, strict=True) if wanted]
    return sorted(chosen, key=lambda each: -each.area)


def _cutouts(donor: LabelledImage, bounds: Window, settings: AugmentSettings, rng: np.random.Generator) -> list[Cutout]:
    """Return the donor's instances at their new positions, cut off at the bounds, in the order of pasting."""
    found: list[Cutout] = []
    for label in _qualified(donor, settings):
        cutout: Cutout | None = cut_out(donor.image_rgb, donor.labels, label, settings.edge_blend_px / 2)
        if cutout is not None and settings.placement == "moved":
            cutout = placed(rescaled(cutout, rng.uniform(*settings.scale)), bounds, settings.min_visible_share, rng)
        if cutout is not None:
            found.append(cutout.within(bounds))
    return found


def _visible_cutouts(
    cutouts: list[Cutout], covered: NDArray[np.bool_], settings: AugmentSettings
) -> list[tuple[Cutout, BoolMask]]:
    """Return the cutouts of which enough is visible, with their visible part, and add that part to `covered`.

    covered: (height, width). The cutouts are processed from front to back: one that is too hidden to be pasted hides
    no other.
    """
    found: list[tuple[Cutout, BoolMask]] = []
    for cutout in reversed(cutouts):
        over = covered[cutout.window.in_image]
        visible = cutout.mask & ~over
        pixels = int(np.count_nonzero(visible))
        if pixels and pixels >= settings.min_visible_share * cutout.area:
            over |= visible
            found.append((cutout, visible))
    return found[::-1]


def _uncertain_part(cutout: Cutout, visible: BoolMask, height: int, width: int) -> CompressedRle | None:
    """Return the uncertain pixels of the visible part of a cutout, in the size of the image; None if unknown."""
    if cutout.uncertain is None:
        return None
    return encode_window(cutout.uncertain & visible, cutout.window, height, width)


def _uncovered(
    labels: ImageLabels, label: InstanceLabel, covered: NDArray[np.bool_], min_visible_share: float
) -> InstanceLabel | None:
    """Return the uncovered part of a base's instance, or None. Ignored regions stay, however small the rest is."""
    rle = labels.rle(label)
    window = tight_window(rle)
    over = covered[window.in_image]
    if not over.any():
        return replace(label, soft_mask=None)
    visible = decode_window(rle, window) & ~over
    pixels = int(np.count_nonzero(visible))
    if pixels == label.area:
        return replace(label, soft_mask=None)
    least = 1 if label.decision is Decision.DROPPED else max(1, min_visible_share * label.area)
    if pixels < least:
        return None
    noted = labels.uncertain_rle(label)
    if noted is not None:  # what is covered is surely not the instance
        around = tight_window(noted)
        clear = decode_window(noted, around) & ~covered[around.in_image]
        noted = encode_window(clear, around, labels.height, labels.width)
    return with_mask(label, encode_window(visible, window, labels.height, labels.width), noted)
