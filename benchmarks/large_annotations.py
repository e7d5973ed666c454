"""Measure reading, checking and splitting a large annotation file: time and peak memory, each in its own process.

    python benchmarks/large_annotations.py --folder DIR

Makes an annotation file of 100,000 images and 1,000,000 instances (half a gigabyte) in DIR, unless DIR has it, and
prints a Markdown table. With --image-files it also makes a tiny file for every image, and the check opens them all.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

WIDTH, HEIGHT = 640, 480
TINY_SIZE = (32, 24)
CATEGORIES = 80
SHAPES = 2000
# Mostly polygons, as in COCO. The uncompressed ones, by far the longest, are crowds.
FORMS = ("polygon",) * 12 + ("compressed RLE",) * 7 + ("uncompressed RLE",)
SEED = 0


def make_shapes(width: int, height: int) -> list[bytes]:
    """Return the JSON of the keys that depend on the shape, for random outlines in all three forms of a mask."""
    rng = np.random.default_rng(SEED)
    shapes = []
    for index in range(SHAPES):
        points = int(rng.integers(10, 50))
        angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
        reach = np.array([width, height]) * rng.uniform(0.02, 0.3, 2)
        centre = rng.uniform(reach, np.array([width, height]) - reach)
        outline = centre + np.stack([np.cos(angle), np.sin(angle)], axis=1) * reach * rng.uniform(0.6, 1, (points, 1))
        polygon_xy = outline.round(2).reshape(-1).tolist()
        rle = coco_mask.frPyObjects([polygon_xy], height, width)[0]
        form = FORMS[index % len(FORMS)]
        segmentation: object = [polygon_xy]
        if form == "compressed RLE":
            segmentation = {"size": [height, width], "counts": rle["counts"].decode()}
        elif form == "uncompressed RLE":
            segmentation = {"size": [height, width], "counts": run_lengths(coco_mask.decode(rle))}
        shape = {
            "bbox": [round(value, 2) for value in coco_mask.toBbox(rle).tolist()],
            "area": float(coco_mask.area(rle)),
            "iscrowd": int(form == "uncompressed RLE"),
            "segmentation": segmentation,
        }
        shapes.append(msgspec.json.encode(shape)[1:])
    return shapes


def run_lengths(mask: np.ndarray) -> list[int]:
    """Return the lengths of the runs of 0, 1, 0, … down the columns."""
    pixels = np.concatenate(([0], mask.reshape(-1, order="F"), [2]))
    changes = np.flatnonzero(np.diff(pixels)).tolist()
    return np.diff([0, *changes]).tolist()


def make_dataset(folder: Path, images: int, instances: int, image_files: bool) -> Path:
    """Write the annotation file, and the image files if asked for, unless they exist; return the former's path."""
    width, height = TINY_SIZE if image_files else (WIDTH, HEIGHT)
    path = folder / f"annotations_{images}_{instances}_{width}x{height}.json"
    image_root = folder / "images"
    if not path.exists():
        image_root.mkdir(parents=True, exist_ok=True)
        write_annotations(path, images, instances, (width, height))
    if image_files and not (image_root / file_name(images)).exists():
        rng = np.random.default_rng(SEED)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(image_root / "first.png")
        data = (image_root / "first.png").read_bytes()
        for number in range(1, images + 1):
            target = image_root / file_name(number)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(data)
    return path


def file_name(number: int) -> str:
    return f"{number // 1000:04}/{number:012}.png"


def write_annotations(path: Path, images: int, instances: int, size: tuple[int, int]) -> None:
    width, height = size
    shapes = make_shapes(width, height)
    rng = np.random.default_rng(SEED)
    shape_indices = rng.integers(0, SHAPES, instances).tolist()
    category_ids = (1 + rng.integers(0, CATEGORIES, instances)).tolist()
    image_ids = (1 + rng.integers(0, images, instances)).tolist()
    with path.open("wb") as file:
        names = [{"id": number, "name": f"category {number}"} for number in range(1, CATEGORIES + 1)]
        file.write(b'{"categories":%s,"images":[' % msgspec.json.encode(names))
        for number in range(1, images + 1):
            image = {"id": number, "file_name": file_name(number), "width": width, "height": height}
            file.write(b"%s%s" % (b"" if number == 1 else b",\n", msgspec.json.encode(image)))
        file.write(b'],"annotations":[')
        for number, (shape, category_id, image_id) in enumerate(
            zip(shape_indices, category_ids, image_ids, strict=True), start=1
        ):
            file.write(b"" if number == 1 else b",\n")
            file.write(b'{"id":%d,"image_id":%d,"category_id":%d,' % (number, image_id, category_id))
            file.write(shapes[shape])
        file.write(b"]}")


def measure_read(path: Path, folder: Path) -> str:
    from pipeline.coco.reading import read_coco

    dataset = read_coco(path)
    return f"{len(dataset.images):,} images, {len(dataset.annotations):,} instances"


def measure_check(path: Path, folder: Path) -> str:
    from pipeline.coco.checking import check_coco

    report = check_coco(path)
    return f"{len(report.errors)} errors, {len(report.warnings)} kinds of warnings"


def measure_check_with_files(path: Path, folder: Path) -> str:
    from pipeline.coco.checking import check_coco

    report = check_coco(path, folder / "images")
    return f"{len(report.errors)} errors, {len(report.bad_images)} bad images"


def measure_split(path: Path, folder: Path) -> str:
    from pipeline.coco.reading import read_coco
    from pipeline.datasets.split import split_by_percent, write_split

    dataset = read_coco(path)
    split = split_by_percent(dataset, 10, SEED)
    write_split(dataset, split, folder / "split")
    return f"{len(split.labelled_ids):,} labelled, {len(split.unlabelled_ids):,} unlabelled, 3 files written"


STEPS = {
    "read": measure_read,
    "check": measure_check,
    "check with files": measure_check_with_files,
    "read, split and write": measure_split,
}


def run_step(step: str, path: Path, folder: Path) -> None:
    """Run one step in this process and print its row of the table."""
    start, start_cpu = time.perf_counter(), time.process_time()
    outcome = STEPS[step](path, folder)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    print(f"| {step} | {seconds:.1f} s | {cpu_seconds:.1f} s | {gigabytes:.2f} GiB | {outcome} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the data is written and kept")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--image-files", action="store_true", help="also write tiny image files, and check them")
    parser.add_argument("--step", choices=STEPS, help="run only this step, in this process")
    options = parser.parse_args()

    path = make_dataset(options.folder, options.images, options.instances, options.image_files)
    if options.step:
        run_step(options.step, path, options.folder)
        return
    print(f"{path.stat().st_size / 2**20:.0f} MiB of annotations\n", flush=True)
    print("| step | time | processor time | peak memory | outcome |\n|---|---|---|---|---|", flush=True)
    for step in STEPS:
        if step == "check with files" and not options.image_files:
            continue
        subprocess.run([sys.executable, *sys.argv, "--step", step], check=True)


if __name__ == "__main__":
    main()
