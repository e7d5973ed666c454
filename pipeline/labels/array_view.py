"""The instances of one image as NumPy arrays, for Python and notebooks."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.coco.paths import resolve_image_path
from pipeline.errors import ArrayError
from pipeline.files.images import read_image
from pipeline.labels.drawing import Panel, RgbImage, category_colours, draw_panels
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status, label_from_mask
from pipeline.masks.soft_masks import make_soft_mask, paint_soft_mask

OBJECT: Final = {1: "object"}
"""The category of masks and boxes that come without one."""
_QUALITY: Final = 85
_NO_IMAGE: Final = np.zeros((240, 320, 3), dtype=np.uint8)


@dataclass(frozen=True, eq=False, repr=False)
class Instances:
    """The instances of one image. Arrays are in the order of `labels.instances`; N is their number.

    image_rgb: uint8 (height, width, 3); empty for a file that could not be read. category_names: by category id.
    """

    image_rgb: RgbImage
    labels: ImageLabels
    category_names: Mapping[int, str] = field(default_factory=lambda: OBJECT)

    @classmethod
    def of_masks(cls, image: Any, masks: Any) -> Self:
        """Return masks as instances of an image, given as for `as_rgb`.

        masks: one bool (height, width), several (N, height, width), or a list of these; probabilities from 0 to 1 in
        the same shapes; or an integer map (height, width) of instances, in which 0 is the background. Masks without a
        pixel are kept as instances with an area of 0.
        """
        image_rgb = as_rgb(image)
        labels = [_label_of(mask) for mask in _separate(masks, image_rgb.shape[:2])]
        return cls(image_rgb, _row(image_rgb, labels))

    @classmethod
    def of_boxes(cls, image: Any, boxes_xyxy: Any) -> Self:
        """Return boxes as instances whose masks fill them, of an image given as for `as_rgb`.

        boxes_xyxy: (N, 4): left, top, right and bottom in pixels, right and bottom exclusive.
        """
        image_rgb = as_rgb(image)
        boxes = np.asarray(boxes_xyxy, dtype=np.float64)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
            raise ArrayError(f"boxes: given {_told(boxes)}; expected numbers of shape (N, 4): left, top, right, bottom")
        height, width = image_rgb.shape[:2]
        labels = []
        for index, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            mask = np.zeros((height, width), dtype=bool)
            mask[max(round(y0), 0) : max(round(y1), 0), max(round(x0), 0) : max(round(x1), 0)] = True
            if not mask.any():
                raise ArrayError(
                    f"box {index} is {[x0, y0, x1, y1]}: no pixel of the {width}x{height} image lies in it; "
                    "expected left, top, right, bottom in pixels"
                )
            labels.append(label_from_mask(mask, *_UNKNOWN))
        return cls(image_rgb, _row(image_rgb, labels))

    @classmethod
    def of_store(cls, store: LabelStore, image_id: int, images: str | Path) -> Self:
        """Return the instances of an image of a label store. images: the folder that file names start from."""
        labels = store.by_id(image_id)
        if labels.status is Status.FAILED:
            return cls(np.zeros((0, 0, 3), np.uint8), labels, store.attributes.names)
        path = resolve_image_path(Path(images), labels.file_name)
        return cls(read_image(path, (labels.width, labels.height)), labels, store.attributes.names)

    def __len__(self) -> int:
        return len(self.labels.instances)

    def __repr__(self) -> str:
        height, width = self.image_rgb.shape[:2]
        what = f"problem: {self.problem}" if self.problem else f"{len(self)} in {width}x{height} pixels"
        return f"Instances({what})"

    @property
    def problem(self) -> str:
        """Return why the image could not be used; empty if it could."""
        return self.labels.message

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Return the masks: bool (N, height, width)."""
        height, width = self.image_rgb.shape[:2]
        masks = [self.labels.mask(each) for each in self.labels.instances]
        return np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool)

    @property
    def soft_masks(self) -> NDArray[np.float32]:
        """Return probabilities, float32 (N, height, width): of instances that have none, the mask as 0 and 1."""
        height, width = self.image_rgb.shape[:2]
        soft = np.zeros((len(self), height, width), dtype=np.float32)
        for target, each in zip(soft, self.labels.instances, strict=True):
            soft_mask = each.soft_mask
            target[:] = self.labels.mask(each) if soft_mask is None else paint_soft_mask(soft_mask, width, height)
        return soft

    @property
    def boxes_xyxy(self) -> NDArray[np.float32]:
        """Return the boxes, float32 (N, 4): left, top, right, bottom, right and bottom exclusive."""
        return np.array([each.box_xyxy for each in self.labels.instances], dtype=np.float32).reshape(-1, 4)

    @property
    def scores(self) -> NDArray[np.float32]:
        """Return the class scores, float32 (N,), 0 to 1."""
        return self._measures(lambda each: each.score)

    @property
    def mask_scores(self) -> NDArray[np.float32]:
        """Return the detector's confidence in its masks, float32 (N,), 0 to 1; NaN where it is not known."""
        return self._measures(lambda each: each.mask_score)

    @property
    def agreements(self) -> NDArray[np.float32]:
        """Return the IoU of SAM's masks with those that SAM was asked about, float32 (N,); NaN if it was not asked."""
        return self._measures(lambda each: each.agreement)

    @property
    def predicted_ious(self) -> NDArray[np.float32]:
        """Return SAM's own estimates of the IoU of its masks, float32 (N,); NaN where it was not asked."""
        return self._measures(lambda each: each.predicted_iou)

    @property
    def category_ids(self) -> NDArray[np.int64]:
        """Return the category ids, int64 (N,)."""
        return np.array([each.category_id for each in self.labels.instances], dtype=np.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the categories, one for each instance."""
        return tuple(self.category_names[each.category_id] for each in self.labels.instances)

    @property
    def decisions(self) -> tuple[str, ...]:
        """Return whose mask each instance has: `sam`, `teacher` (as it was given) or `dropped`."""
        return tuple(str(each.decision) for each in self.labels.instances)

    def _measures(self, measure: Callable[[InstanceLabel], float | None]) -> NDArray[np.float32]:
        values = [measure(each) for each in self.labels.instances]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float32)

    def _repr_jpeg_(self) -> bytes:
        return draw({self.labels.file_name: self})._repr_jpeg_()


@dataclass(frozen=True, eq=False, repr=False)
class Drawing:
    """An image with labels drawn on it, uint8 (height, width, 3). A notebook shows it."""

    image_rgb: RgbImage

    def __repr__(self) -> str:
        height, width = self.image_rgb.shape[:2]
        return f"Drawing({width}x{height} pixels)"

    def save(self, path: str | Path) -> None:
        """Write the drawing to a file, in the format that its name ends in."""
        Image.fromarray(self.image_rgb).save(path)

    def _repr_jpeg_(self) -> bytes:
        file = io.BytesIO()
        Image.fromarray(self.image_rgb).save(file, format="JPEG", quality=_QUALITY)
        return file.getvalue()


def draw(versions: Mapping[str, Instances]) -> Drawing:
    """Draw versions of one image's instances side by side, each below its title."""
    if not versions:
        raise ArrayError("nothing to draw: give instances by their titles")
    first = next(iter(versions.values()))
    names = {key: name for each in versions.values() for key, name in each.category_names.items()}
    panels = [Panel(title, each.labels) for title, each in versions.items()]
    image_rgb = first.image_rgb if first.image_rgb.size else _NO_IMAGE
    return Drawing(draw_panels(image_rgb, panels, names, category_colours(names)))


def as_rgb(image: Any) -> RgbImage:
    """Return an image as uint8 (height, width, 3): from a file's path, or uint8 as RGB or grey (height, width)."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., np.newaxis], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ArrayError(f"image: given {_told(np.asarray(image))}; expected uint8 of shape (height, width, 3), RGB")
    return np.ascontiguousarray(pixels)


_UNKNOWN: Final = (1, 1.0, Decision.TEACHER)
"""Category, score and decision of a mask that comes without."""


def _label_of(mask: NDArray[Any]) -> InstanceLabel:
    if mask.dtype == np.bool_:
        return label_from_mask(mask, *_UNKNOWN)
    label = label_from_mask(mask > 0.5, *_UNKNOWN)
    return replace(label, soft_mask=make_soft_mask(mask, label.box_xyxy)) if label.area else label


def _row(image_rgb: RgbImage, labels: Sequence[InstanceLabel]) -> ImageLabels:
    height, width = image_rgb.shape[:2]
    return ImageLabels.of_instances(1, "image", width, height, tuple(labels))


def _separate(masks: Any, size_hw: tuple[int, ...]) -> list[NDArray[Any]]:
    """Return masks one by one, each bool or float32 (height, width); see `Instances.of_masks`."""
    given = np.asarray(masks)
    expected = f"expected bool or numbers of shape {size_hw} or (N, {size_hw[0]}, {size_hw[1]}), as the image"
    if given.shape[-2:] != size_hw or given.ndim not in (2, 3):
        if given.size == 0 and given.ndim == 1:
            return []
        raise ArrayError(f"masks: given {_told(given)}; {expected}")
    if given.dtype == np.bool_:
        return list(given.reshape(-1, *size_hw))
    if np.issubdtype(given.dtype, np.integer):
        if given.ndim == 2:
            return [given == value for value in np.unique(given) if value]
        if np.isin(given, (0, 1)).all():
            return list(given.astype(bool))
        raise ArrayError(f"masks: several integer masks have values of 0 and 1 alone; given up to {given.max()}")
    if not np.issubdtype(given.dtype, np.floating):
        raise ArrayError(f"masks: given {_told(given)}; {expected}")
    if not ((given >= 0) & (given <= 1)).all():
        raise ArrayError(
            f"masks: numbers must be probabilities from 0 to 1, given {given.min():.3g} to {given.max():.3g}; "
            "of logits take 1 / (1 + exp(-logits)) first"
        )
    return list(given.astype(np.float32).reshape(-1, *size_hw))


def _told(array: NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"
