"""One instance cut out of its image: rescaled, placed in another image, pasted. Never more than its own crop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.labels.rows import ImageLabels, InstanceLabel
from pipeline.masks.crop_mask import CropMask
from pipeline.masks.distances import signed_distances_px
from pipeline.masks.windows import Window, whole_image

PLACES_TRIED = 10


@dataclass(frozen=True, eq=False)
class Cutout:
    """An instance with the pixels that show it.

    window: where it lies, in pixels of the image that it is pasted into; it may reach beyond that image.
    image_rgb: uint8 (height, width, 3) of the window. mask: bool (height, width) of the window.
    """

    label: InstanceLabel
    window: Window
    image_rgb: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    area: int

    def within(self, bounds: Window) -> Cutout:
        """Return what of it lies within bounds; its area stays that of the whole."""
        part = self.window & bounds
        inside = self.window.slices(part)
        return replace(self, window=part, image_rgb=self.image_rgb[inside], mask=self.mask[inside])


def cut_out(image_rgb: NDArray[np.uint8], labels: ImageLabels, label: InstanceLabel, margin_px: float) -> Cutout:
    """Cut an instance out where it is in its own image, with a margin around it as far as the image goes."""
    height, width = image_rgb.shape[:2]
    image = whole_image(height, width)
    crop = CropMask.of_rle(labels.rle(label))
    tight = crop.window
    window = tight.grown(ceil(margin_px)) & image
    mask = np.zeros((window.height, window.width), dtype=np.bool_)
    mask[window.slices(tight)] = crop.array()
    return Cutout(label, window, image_rgb[window.in_image], mask, label.area)


def rescaled(cutout: Cutout, scale: float) -> Cutout:
    """Return the same instance larger or smaller, in a window of the same upper left corner."""
    old = cutout.window
    size = (max(1, round(old.width * scale)), max(1, round(old.height * scale)))
    if size == (old.width, old.height):
        return cutout
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    share = cutout.mask.astype(np.float32)
    own = cv2.resize(cutout.image_rgb * share[..., np.newaxis], size, interpolation=interpolation)
    background = cv2.resize(cutout.image_rgb * (1 - share)[..., np.newaxis], size, interpolation=interpolation)
    share = np.asarray(cv2.resize(share, size, interpolation=interpolation), np.float32)
    mask: NDArray[np.bool_] = share >= 0.5
    # Each side is an average of its own pixels alone: the old background leaves no rim on the instance.
    image_rgb = np.where(mask[..., np.newaxis], own, background)
    image_rgb /= np.where(mask, share, 1 - share)[..., np.newaxis]
    return Cutout(
        cutout.label,
        Window(old.x0, old.y0, old.x0 + size[0], old.y0 + size[1]),
        np.rint(image_rgb).astype(np.uint8),
        mask,
        int(np.count_nonzero(mask)),
    )


def placed(cutout: Cutout, bounds: Window, min_visible_share: float, rng: np.random.Generator) -> Cutout | None:
    """Move the instance anywhere within bounds, its middle inside, so much visible; None where it fits nowhere."""
    for _ in range(PLACES_TRIED):
        middle_x, middle_y = int(rng.integers(bounds.width)), int(rng.integers(bounds.height))
        dx = middle_x - cutout.window.width // 2 - cutout.window.x0
        dy = middle_y - cutout.window.height // 2 - cutout.window.y0
        moved = replace(cutout, window=cutout.window.moved(dx, dy))
        visible = int(np.count_nonzero(moved.within(bounds).mask))
        if visible and visible >= min_visible_share * cutout.area:
            return moved
    return None


def paste(canvas_rgb: NDArray[np.uint8], cutout: Cutout, edge_blend_px: float) -> None:
    """Draw it onto the canvas, in place. The window must lie within the canvas.

    A soft edge has its middle on the outline: inside the mask the instance always has the greater weight.
    """
    under = canvas_rgb[cutout.window.in_image]
    if edge_blend_px == 0:
        np.copyto(under, cutout.image_rgb, where=cutout.mask[..., np.newaxis])
        return
    weight = np.clip(0.5 + signed_distances_px(cutout.mask) / edge_blend_px, 0, 1)[..., np.newaxis]
    under[:] = np.rint(under * (1 - weight) + cutout.image_rgb * weight)
