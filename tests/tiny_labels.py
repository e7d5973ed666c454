"""Tiny labels for tests: rows of every kind, with exact masks and with names that are hard on a store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.coco.model import CocoCategory, CocoImage
from pipeline.labels.label_columns import LABEL_FORMAT
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import seal_labels, write_label_shard, write_label_store
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, label_from_mask
from pipeline.masks.run_lengths import encode_mask
from pipeline.masks.soft_masks import make_soft_mask
from pipeline.tables.shard_files import completed_shards, divide
from pipeline.tables.verifying import verify

WIDTH, HEIGHT = 50, 40
CATEGORIES = (CocoCategory(3, "cat"), CocoCategory(7, "Hündin", "animal"))
HARD_NAMES = (
    "plain.jpg",
    "日本/写真 🐈.png",
    "new\nline\tand\x00nul.jpg",
    "../../etc/passwd",
    "quote'\"\\ {0} %s.jpg",
    "not-utf-8-\udcff.jpg",
    "x" * 3000,
    " ",
    "a\u0301.jpg",  # the same to a reader as the next, not the same name
    "\u00e1.jpg",
)


def tiny_row(image_id: int, *, soft_masks: bool = True) -> ImageLabels:
    """The labels of one image; every tenth failed, every tenth is empty. The same for the same id."""
    name = HARD_NAMES[image_id] if image_id < len(HARD_NAMES) else f"folder/{image_id}.jpg"
    if image_id % 10 == 4:
        return ImageLabels.of_failure(image_id, name, f"{name}: cut off in the middle")
    rng = np.random.default_rng(image_id)
    count = 0 if image_id % 10 == 5 else int(rng.integers(1, 6))
    instances = tuple(tiny_instance(rng, soft_mask=soft_masks) for _ in range(count))
    return ImageLabels.of_instances(image_id, name, WIDTH, HEIGHT, instances)


def tiny_instance(rng: np.random.Generator, *, soft_mask: bool = True) -> InstanceLabel:
    """An instance with every measure or with none; numbers are those that 32 bits hold."""
    mask = random_mask(rng)
    category_id = int(rng.choice([3, 7]))
    decision = Decision(rng.choice(list(Decision)))
    label = label_from_mask(mask, category_id, float32(rng.uniform()), decision)
    label = replace(label, mask_score=label.score / 2 if label.area % 2 else None)
    if label.area % 3 == 0:
        label = replace(label, class_vote=10 - category_id, class_agreement=label.score)
    if label.area % 5 == 0:
        label = replace(label, uncertain_counts=encode_mask(mask[::-1, ::-1])["counts"])
    if decision is Decision.TEACHER:
        return replace(label, soft_mask=make_soft_mask(mask * 0.8, label.box_xyxy)) if soft_mask else label
    measures = [float32(value) for value in rng.uniform(0, 1, 4)]
    return replace(
        label,
        predicted_iou=measures[0],
        stability=measures[1],
        agreement=measures[2],
        candidate=int(rng.integers(4)),
        gate_confidence=measures[3],
    )


def random_mask(rng: np.random.Generator, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.bool_]:
    """A rectangle with ragged edges, of one pixel or more."""
    mask = np.zeros((height, width), dtype=np.bool_)
    left, top = int(rng.integers(0, width)), int(rng.integers(0, height))
    part = mask[top : top + 1 + int(rng.integers(height // 2)), left : left + 1 + int(rng.integers(width // 2))]
    part[:] = rng.uniform(size=part.shape) < 0.9
    part[0, 0] = True
    return mask


def float32(value: float) -> float:
    return float(np.float32(value))


def coco_images(rows: list[ImageLabels]) -> list[CocoImage]:
    return [CocoImage(row.image_id, row.file_name, row.width or WIDTH, row.height or HEIGHT) for row in rows]


def tiny_store(path: Path, rows: list[ImageLabels]) -> LabelStore:
    write_label_store(path, rows, CATEGORIES, {"made by": "test"})
    return LabelStore.open(path)


def verify_labels(path: Path) -> list[str]:
    return verify(path, LABEL_FORMAT)


def finish(folder: Path, images: int, images_per_shard: int) -> None:
    """Do what a stage does: make the shards that are missing, then seal."""
    plan = divide(range(images), images_per_shard)
    done = completed_shards(folder / "shards", plan)
    for index, image_ids in enumerate(plan):
        if index not in done:
            write_label_shard(folder / "shards", index, [tiny_row(image_id) for image_id in image_ids])
    if not (folder / "labels.zarr").exists():
        seal_labels(folder / "shards", plan, folder / "labels.zarr", CATEGORIES, {})


def write_all(folder: Path, images: int, images_per_shard: int) -> None:
    """Write every shard, whether it is there or not."""
    for index, image_ids in enumerate(divide(range(images), images_per_shard)):
        write_label_shard(folder, index, [tiny_row(image_id) for image_id in image_ids])
