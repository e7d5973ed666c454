"""Measure refining with kept embeddings against refining without them, in one process on one core.

    OMP_NUM_THREADS=1 python -m benchmarks.embeddings --annotations FILE --images FOLDER [--limit 40] [--model vit_b]

The labels to refine are the annotations themselves. The preset is `s4m`: three points and one decoder pass. vit_b,
vit_l and vit_h get random weights, which change no time. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pycocotools import mask as coco_mask

from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.compute.shards import Shard, ShardWork
from pipeline.embeddings.embed_work import EmbedWork
from pipeline.embeddings.embedding_columns import embedded_images_per_shard, embedding_bytes
from pipeline.embeddings.embedding_store import ARRAYS, embeddings_in, prepare_embeddings
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import ImageLabels
from pipeline.refinement.coco_file import rows_to_refine
from pipeline.refinement.gate import Gate
from pipeline.refinement.image import RefinedImage
from pipeline.refinement.refine_work import RefineWork
from pipeline.refinement.refining import IMAGES_PER_SHARD
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.build import build_sam, embedding_shape
from pipeline.sam.worker import SamChoice, build_engine
from pipeline.tables.shard_files import divide

Row = TypeVar("Row")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, help="COCO instance annotations")
    parser.add_argument("--images", type=Path, required=True, help="the folder that their file names start from")
    parser.add_argument("--limit", type=int, default=40, help="number of images")
    parser.add_argument("--model", default="sam_tiny")
    arguments = parser.parse_args()
    dataset = read_coco(arguments.annotations)
    dataset = dataset.subset([image.id for image in dataset.images][: arguments.limit])
    with tempfile.TemporaryDirectory() as scratch:
        compare(dataset, arguments.images.absolute(), sam_choice(arguments.model, Path(scratch)), Path(scratch))


def sam_choice(model: str, scratch: Path) -> SamChoice:
    """Return a model with its shipped weights, or with random weights in a file."""
    checkpoint = None
    if model != "sam_tiny":
        checkpoint = scratch / "random.pth"
        torch.save(build_sam(model, random_weights_seed=0).state_dict(), checkpoint)
    return SamChoice(model, checkpoint, "cpu", "fp32", batch_images=8)


def compare(dataset: CocoDataset, image_root: Path, sam: SamChoice, scratch: Path) -> None:
    """Refine without embeddings, make them, refine with them, and print the table."""
    images = len(dataset.images)
    write_label_store(scratch / "teacher.zarr", rows_to_refine(dataset, {}), dataset.categories, {})
    plan = divide([image.id for image in dataset.images], IMAGES_PER_SHARD)
    settings = RefineSettings(preset="s4m")
    work = RefineWork(scratch / "teacher.zarr", ImageFolder(image_root), scratch / "shards", sam, settings, Gate())
    build_engine(sam)  # before the first measurement
    plain, plain_seconds = computed(work, plan)

    shape = embedding_shape(sam.model, sam.input_side)
    per_shard = embedded_images_per_shard(shape, images)
    embedding_plan = divide([image.id for image in dataset.images], per_shard)
    prepare_embeddings(scratch, embedding_plan, shape)
    embed = EmbedWork(scratch / "teacher.zarr", ImageFolder(image_root), scratch, sam, shape, per_shard)
    begun = time.perf_counter()
    for index, ids in enumerate(embedding_plan):
        embed.publish(Shard(index, ids), embed.compute(Shard(index, ids)))
    embeddings_in(scratch, shape).seal(embedding_plan, {}, {})
    making_seconds = time.perf_counter() - begun
    stored_bytes = sum(path.stat().st_size for path in (scratch / ARRAYS).rglob("*") if path.is_file())

    cached, cached_seconds = computed(replace(work, embeddings=scratch / ARRAYS), plan)
    ious = mask_ious([row.labels for row in plain], [row.labels for row in cached])
    print(f"{sam.model}, {images} images, {len(ious)} instances\n")
    print("| what | measured |\n|---|---|")
    print(f"| embeddings in memory, per image | {embedding_bytes(shape):,} bytes |")
    print(f"| on disk, per image | {stored_bytes / images:,.0f} bytes |")
    print(f"| making them | {images / making_seconds:.2f} images/s |")
    print(f"| refining without them | {images / plain_seconds:.2f} images/s, {encoded(plain)} images encoded |")
    print(f"| refining with them | {images / cached_seconds:.2f} images/s, {encoded(cached)} images encoded |")
    print(f"| mean IoU of the masks without and with | {np.mean(ious):.5f} (lowest {np.min(ious):.4f}) |")


def computed(work: ShardWork[Row, object], plan: Sequence[tuple[int, ...]]) -> tuple[list[Row], float]:
    """Return the rows of all shards, and the seconds that they took."""
    begun = time.perf_counter()
    rows = [row for index, ids in enumerate(plan) for row in work.compute(Shard(index, ids))]
    return rows, time.perf_counter() - begun


def encoded(rows: Sequence[RefinedImage]) -> int:
    """Return how often SAM's encoder ran."""
    return sum(row.encoded_views for row in rows)


def mask_ious(first: Sequence[ImageLabels], second: Sequence[ImageLabels]) -> list[float]:
    """Return the IoU of the two masks of every instance."""
    return [
        float(coco_mask.iou([ours.rle(one)], [theirs.rle(other)], [0])[0, 0])
        for ours, theirs in zip(first, second, strict=True)
        for one, other in zip(ours.instances, theirs.instances, strict=True)
    ]


if __name__ == "__main__":
    main()
