"""Tiny COCO data for tests: a few images with drawn shapes, their exact masks, and all three forms of a mask.

`tiny_coco(tmp_path)` writes images and annotations; `tiny_dict()` gives the annotations alone, as a plain
dict to change before `write_json` writes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

FORMS = ("polygon", "compressed", "uncompressed")


@dataclass(frozen=True)
class TinyCoco:
    """Where the files lie, and the mask, bool (height, width), that every annotation id stands for."""

    annotations: Path
    image_root: Path
    masks: dict[int, NDArray[np.bool_]]
    content: dict[str, Any]


@dataclass(frozen=True)
class _Shape:
    image_id: int
    category_id: int
    mask: NDArray[np.bool_]
    polygon_xy: list[float]


def tiny_coco(
    folder: Path,
    *,
    images: int = 4,
    instances: int = 3,
    size: tuple[int, int] = (64, 48),
    category_ids: tuple[int, ...] = (3, 7),
    seed: int = 0,
) -> TinyCoco:
    """Write `images` PNGs of (width, height) with `instances` rectangles each, and annotations.json.

    Categories differ by colour. Segmentations take turns as polygon, compressed and uncompressed RLE. Image
    and annotation ids begin at 1.
    """
    rng = np.random.default_rng(seed)
    shapes = _shapes(rng, images, instances, size, category_ids)
    content = _content(shapes, images, size, category_ids)
    image_root = folder / "images"
    image_root.mkdir(parents=True)
    for image in content["images"]:
        own = [shape for shape in shapes if shape.image_id == image["id"]]
        Image.fromarray(_drawn(rng, own, size, category_ids)).save(image_root / image["file_name"])
    masks = {number: shape.mask for number, shape in enumerate(shapes, start=1)}
    return TinyCoco(write_json(folder / "annotations.json", content), image_root, masks, content)


def tiny_dict(*, images: int = 4, instances: int = 3, category_ids: tuple[int, ...] = (3, 7)) -> dict[str, Any]:
    """The content of a valid annotation file; of 64 x 48 pixels, as `tiny_coco` has it."""
    size = (64, 48)
    return _content(
        _shapes(np.random.default_rng(0), images, instances, size, category_ids), images, size, category_ids
    )


def write_json(path: Path, content: Any) -> Path:
    """Write as Python does by default: with bare NaN and Infinity where they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Uncompressed COCO RLE of a mask: lengths of the runs of 0, 1, 0, … down the columns."""
    pixels = np.concatenate(([0], mask.reshape(-1, order="F"), [2]))
    changes = np.flatnonzero(np.diff(pixels)).tolist()
    return np.diff([0, *changes]).tolist()


def _shapes(
    rng: np.random.Generator,
    images: int,
    instances: int,
    size: tuple[int, int],
    category_ids: tuple[int, ...],
) -> list[_Shape]:
    """Rectangles on whole pixels, at least a sixth of the image long, for which outline and pixels agree."""
    width, height = size
    shapes = []
    for number in range(images * instances):
        box_width, box_height = (int(rng.integers(side // 6, side // 2)) for side in size)
        left, top = int(rng.integers(0, width - box_width)), int(rng.integers(0, height - box_height))
        right, bottom = left + box_width, top + box_height
        mask = np.zeros((height, width), dtype=np.bool_)
        mask[top:bottom, left:right] = True
        polygon_xy = [left, top, right, top, right, bottom, left, bottom]
        category_id = category_ids[number % len(category_ids)]
        shapes.append(_Shape(1 + number // instances, category_id, mask, [float(value) for value in polygon_xy]))
    return shapes


def _content(shapes: list[_Shape], images: int, size: tuple[int, int], category_ids: tuple[int, ...]) -> dict[str, Any]:
    width, height = size
    return {
        "images": [
            {"id": number, "file_name": f"{number:04}.png", "width": width, "height": height}
            for number in range(1, images + 1)
        ],
        "categories": [{"id": each, "name": f"category {each}"} for each in category_ids],
        "annotations": [
            {
                "id": number,
                "image_id": shape.image_id,
                "category_id": shape.category_id,
                "bbox": coco_mask.toBbox(_rle(shape.mask)).tolist(),
                "area": float(shape.mask.sum()),
                "iscrowd": 0,
                "segmentation": _segmentation(shape, FORMS[number % len(FORMS)]),
            }
            for number, shape in enumerate(shapes, start=1)
        ],
    }


def _rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def _segmentation(shape: _Shape, form: str) -> Any:
    size = list(shape.mask.shape)
    if form == "polygon":
        return [shape.polygon_xy]
    if form == "compressed":
        return {"size": size, "counts": _rle(shape.mask)["counts"].decode()}
    return {"size": size, "counts": run_lengths(shape.mask)}


def _drawn(
    rng: np.random.Generator, shapes: list[_Shape], size: tuple[int, int], category_ids: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Noise, and each shape in the colour of its category, later ones on top."""
    width, height = size
    pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    for shape in shapes:
        hue = category_ids.index(shape.category_id) / len(category_ids)
        pixels[shape.mask] = [round(255 - 200 * hue), round(100 + 155 * hue), 128]
    return pixels
