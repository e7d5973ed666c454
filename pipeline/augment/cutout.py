"""Cuts an instance out of its image, rescales it, moves it and pastes it, within the crop of the instance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.labels.rows import ImageLabels, InstanceLabel
from pipeline.masks.distances import signed_distances_px
from pipeline.masks.run_lengths import decode_window, tight_window
from pipeline.masks.windows import Window, whole_image

POSITIONS_TRIED = 10


@dataclass(frozen=True, eq=False)
class Cutout:
    """An instance with its pixels.

    window: in pixels of the image that it is pasted into; it may reach beyond that image.
    image_rgb: uint8 (height, width, 3) of the window. mask: bool (height, width) of the window.
    uncertain: the uncertain pixels of the mask, bool (height, width) of the window; None if they are not known.
    """

    label: InstanceLabel
    window: Window
    image_rgb: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    area: int
    uncertain: NDArray[np.bool_] | None = None

    def within(self, bounds: Window) -> Cutout:
        """Return the part within bounds; `area` stays that of the whole instance."""
        part = self.window & bounds
        inside = self.window.slices(part)
        uncertain = None if self.uncertain is None else self.uncertain[inside]
        return replace(self, window=part, image_rgb=self.image_rgb[inside], mask=self.mask[inside], uncertain=uncertain)


def cut_out(image_rgb: NDArray[np.uint8], labels: ImageLabels, label: InstanceLabel, margin_px: float) -> Cutout:
    """Cut an instance out at its position in its own image, with a margin, limited by the image."""
    height, width = image_rgb.shape[:2]
    image = whole_image(height, width)
    rle = labels.rle(label)
    window = tight_window(rle).grown(ceil(margin_px)) & image
    mask = decode_window(rle, window)
    noted = labels.uncertain_rle(label)
    uncertain = None if noted is None else decode_window(noted, window) & mask
    return Cutout(label, window, image_rgb[window.in_image], mask, label.area, uncertain)


def rescaled(cutout: Cutout, scale: float) -> Cutout:
    """Return the instance rescaled, in a window with the same upper left corner."""
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
    # Instance and background are averaged apart, so that the old background leaves no rim on the instance.
    image_rgb = np.where(mask[..., np.newaxis], own, background)
    image_rgb /= np.where(mask, share, 1 - share)[..., np.newaxis]
    return Cutout(
        cutout.label,
        Window(old.x0, old.y0, old.x0 + size[0], old.y0 + size[1]),
        np.rint(image_rgb).astype(np.uint8),
        mask,
        int(np.count_nonzero(mask)),
        None if cutout.uncertain is None else _resized(cutout.uncertain, size) & mask,
    )


def _resized(mask: NDArray[np.bool_], size_wh: tuple[int, int]) -> NDArray[np.bool_]:
    resized = cv2.resize(mask.view(np.uint8), size_wh, interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, np.uint8).view(np.bool_)


def placed(cutout: Cutout, bounds: Window, min_visible_share: float, rng: np.random.Generator) -> Cutout | None:
    """Move the instance to a random position with its middle inside bounds and enough visible; None without one."""
    for _ in range(POSITIONS_TRIED):
        middle_x, middle_y = int(rng.integers(bounds.width)), int(rng.integers(bounds.height))
        dx = middle_x - cutout.window.width // 2 - cutout.window.x0
        dy = middle_y - cutout.window.height // 2 - cutout.window.y0
        moved = replace(cutout, window=cutout.window.moved(dx, dy))
        visible = int(np.count_nonzero(moved.within(bounds).mask))
        if visible and visible >= min_visible_share * cutout.area:
            return moved
    return None


def paste(canvas_rgb: NDArray[np.uint8], cutout: Cutout, edge_blend_px: float) -> None:
    """Draw a cutout onto the canvas, in place. Its window must lie within the canvas.

    The middle of a soft edge is the outline: inside the mask the instance has the greater weight.
    """
    under = canvas_rgb[cutout.window.in_image]
    if edge_blend_px == 0:
        np.copyto(under, cutout.image_rgb, where=cutout.mask[..., np.newaxis])
        return
    weight = np.clip(0.5 + signed_distances_px(cutout.mask) / edge_blend_px, 0, 1)[..., np.newaxis]
    under[:] = np.rint(under * (1 - weight) + cutout.image_rgb * weight)
