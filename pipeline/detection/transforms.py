"""What happens to a sample besides the detector's own geometry: colours, and instances that stay usable."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from numpy.typing import NDArray

from pipeline.detection.registry import TRANSFORMS
from pipeline.detection.window_masks import WindowMasks, dense_masks

# Ranges of the strong augmentation that semi-supervised detectors share.
_STRENGTH = 0.4
_HUE_TURNS = 0.1
_BLUR_SIGMA_PX = (0.1, 2.0)

# Ranges of SSD's distortion; the hue of OpenCV's 8-bit images has 180 steps.
_LEVELS = np.arange(256.0)
_SSD_BRIGHTNESS = 32.0
_SSD_FACTORS = (0.5, 1.5)
_SSD_HUE_STEPS = 18
_HUES = 180

_GREY_OF_BGR = np.array([0.114, 0.587, 0.299])
_YIQ_OF_BGR = np.array([_GREY_OF_BGR, [-0.321, -0.275, 0.596], [0.311, -0.523, 0.212]])
_BGR_OF_YIQ = np.linalg.inv(_YIQ_OF_BGR)

NUMBERED_KEYS = ("label_by_number", "weight_by_number")
"""Arrays with a value for each instance the image had at first. While transforms work, `gt_bboxes_labels` are the
numbers of instances: every transform that drops instances drops their labels, but knows no key of ours."""


@TRANSFORMS.register_module()
class SettleInstances(BaseTransform):  # type: ignore[misc]
    """Behind the geometry: boxes are made of the masks again, what nearly vanished goes, numbers become labels.

    Adds `gt_weights`, float32 (N,), and, where they are known, `gt_uncertain`: the uncertain pixels of each mask, uint8
    (N, height, width).
    """

    def __init__(self, min_side_px: float = 2.0, min_area_px: float = 4.0) -> None:
        self.min_side_px, self.min_area_px = min_side_px, min_area_px

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Give the instances their final form."""
        masks = results["gt_masks"]
        boxes = masks.get_bboxes("hbox")
        sides_px = np.minimum(boxes.widths.numpy(), boxes.heights.numpy())
        kept = np.flatnonzero((sides_px >= self.min_side_px) & (masks.areas >= self.min_area_px))
        masks = masks[kept]
        uncertain = masks.uncertain() if isinstance(masks, WindowMasks) else None
        if uncertain is not None:
            results["gt_uncertain"] = dense_masks(uncertain, masks.height, masks.width)
        label_by_number, weight_by_number = (results.pop(key) for key in NUMBERED_KEYS)
        numbers = results["gt_bboxes_labels"][kept]
        return results | {
            "gt_bboxes": boxes[kept],
            "gt_masks": masks.bitmaps() if isinstance(masks, WindowMasks) else masks,
            "gt_ignore_flags": results["gt_ignore_flags"][kept],
            "gt_bboxes_labels": label_by_number[numbers],
            "gt_weights": weight_by_number[numbers],
        }


@TRANSFORMS.register_module()
class DrawAnchors(BaseTransform):  # type: ignore[misc]
    """Behind the geometry: draw `count` of the image's structural anchors among those that the input shows.

    Where it shows fewer, the rest are NaN, which the loss leaves out. Samples without targets are not changed.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace the anchors, their windows and maps by `count` of them."""
        if "structure_maps" not in results:
            return results
        anchors_xy = results["structure_anchors_xy"]
        homography = np.asarray(results.get("homography_matrix", np.eye(3)), dtype=np.float64)
        mapped = np.column_stack([anchors_xy, np.ones(len(anchors_xy))]) @ homography.T
        height, width = results["img_shape"][:2]
        # Not divided by the scale, so that nothing is seen where a projective transform makes it negative.
        seen = ((mapped[:, :2] >= 0) & (mapped[:, :2] <= mapped[:, 2:] * (width, height))).all(axis=1)
        drawn = np.random.permutation(np.flatnonzero(seen))[: self.count]
        for key, empty in (("anchors_xy", np.nan), ("windows_xyxy", 0), ("maps", 0)):
            values = results[f"structure_{key}"]
            results[f"structure_{key}"] = np.full((self.count, *values.shape[1:]), empty, dtype=values.dtype)
            results[f"structure_{key}"][: len(drawn)] = values[drawn]
        return results


@TRANSFORMS.register_module()
class Photometric(BaseTransform):  # type: ignore[misc]
    """Other colours and a blur, each with a probability of its own.

    jitter: of other brightness, contrast, saturation and hue. They, and greyscale, are linear in the colour, so
    that all of them are one pass over the pixels, rounded once. Hue turns in YIQ.
    """

    def __init__(self, jitter: float, grey: float, blur: float) -> None:
        self.jitter, self.grey, self.blur = jitter, grey, blur

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change `img`, uint8 BGR."""
        image = results["img"]
        # All numbers are drawn, used or not: whether there is a blur does not depend on what came before it.
        jittered, greyed, blurred = np.random.uniform(size=3) < (self.jitter, self.grey, self.blur)
        brightness, contrast, saturation = np.random.uniform(1 - _STRENGTH, 1 + _STRENGTH, 3)
        hue_turns, sigma_px = np.random.uniform(-_HUE_TURNS, _HUE_TURNS), np.random.uniform(*_BLUR_SIGMA_PX)
        colours = np.eye(3)
        shift = 0.0
        if jittered:
            colours = brightness * contrast * _saturated(saturation) @ _turned(hue_turns)
            shift = (1 - contrast) * brightness * float(_GREY_OF_BGR @ np.asarray(cv2.mean(image))[:3])
        if greyed:
            colours = _saturated(0.0) @ colours
        if jittered or greyed:
            image = cv2.transform(image, np.column_stack([colours, np.full(3, shift)]))
        if blurred:
            image = cv2.GaussianBlur(image, (0, 0), sigma_px)
        results["img"] = image
        return results


@TRANSFORMS.register_module()
class DistortColours(BaseTransform):  # type: ignore[misc]
    """SSD's distortion with a probability: brightness, contrast, saturation and hue, each changed with probability 0.5.

    Brightness comes first, then contrast, saturation, hue or saturation, hue, contrast, both equally often. After
    each step values are rounded and clipped to 8 bits. MMDetection's PhotoMetricDistortion does neither, and turns
    the hue by degrees, half as far.
    """

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change `img`, uint8 BGR."""
        # All numbers are drawn, used or not: what comes later does not depend on what is chosen here.
        chosen = np.random.uniform() < self.probability
        brighter, contrasted, saturated, turned, contrast_last = np.random.uniform(size=5) < 0.5
        shift = np.random.uniform(-_SSD_BRIGHTNESS, _SSD_BRIGHTNESS)
        contrast, saturation = np.random.uniform(*_SSD_FACTORS, size=2)
        hue_steps = np.random.randint(-_SSD_HUE_STEPS, _SSD_HUE_STEPS + 1)
        if chosen:
            results["img"] = distorted(
                results["img"],
                shift=shift if brighter else 0.0,
                contrast=contrast if contrasted else 1.0,
                saturation=saturation if saturated else 1.0,
                hue_steps=int(hue_steps) if turned else 0,
                contrast_last=bool(contrast_last),
            )
        return results


def distorted(
    image: NDArray[np.uint8], *, shift: float, contrast: float, saturation: float, hue_steps: int, contrast_last: bool
) -> NDArray[np.uint8]:
    """Return an image, uint8 BGR, with its values shifted, then contrast, saturation and hue multiplied or turned."""
    image = _mapped(image, _LEVELS + shift)
    if not contrast_last:
        image = _mapped(image, _LEVELS * contrast)
    if saturation != 1 or hue_steps:  # the way to HSV and back rounds
        tables = np.stack([(_LEVELS + hue_steps) % _HUES, _LEVELS * saturation, _LEVELS], axis=-1)
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(np.uint8, copy=False)
        image = cv2.cvtColor(_mapped(hsv, tables[None]), cv2.COLOR_HSV2BGR).astype(np.uint8, copy=False)
    return _mapped(image, _LEVELS * contrast) if contrast_last else image


def _mapped(image: NDArray[np.uint8], value_by_level: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return an image with each of the 256 levels replaced by its value, rounded and clipped to 8 bits."""
    mapped: Any = cv2.LUT(image, np.clip(np.rint(value_by_level), 0, 255).astype(np.uint8))
    return np.asarray(mapped, dtype=np.uint8)


def _saturated(factor: float) -> NDArray[np.float64]:
    """BGR to BGR, (3, 3): from grey at 0 to unchanged at 1 and beyond."""
    matrix: NDArray[np.float64] = factor * np.eye(3) + (1 - factor) * np.tile(_GREY_OF_BGR, (3, 1))
    return matrix


def _turned(turns: float) -> NDArray[np.float64]:
    """BGR to BGR, (3, 3): another hue; greys stay."""
    cosine, sine = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    matrix: NDArray[np.float64] = (
        _BGR_OF_YIQ @ np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ _YIQ_OF_BGR
    )
    return matrix
