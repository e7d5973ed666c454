"""Measure the commands that people use most: help, status, and a make that has nothing to do.

    python benchmarks/commands.py --folder DIR [--images 100000] [--repeats 7]

Writes that many small image files and a COCO file that lists them, runs `make split`, and then measures the commands.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
POLYGON = [[1, 1, 9, 1, 9, 9, 1, 9]]


def make_dataset(folder: Path, images: int) -> Path:
    """Write image files of a few bytes, their COCO file and an experiment; return the experiment's path."""
    root = folder / "images"
    root.mkdir(parents=True, exist_ok=True)
    names = [f"{number:06d}.png" for number in range(images)]
    for name in names:
        path = root / name
        if not path.exists():
            path.write_bytes(name.encode())
    annotation = {"category_id": 1, "bbox": [1, 1, 8, 8], "area": 64, "iscrowd": 0, "segmentation": POLYGON}
    content = {
        "images": [{"id": n, "file_name": name, "width": 64, "height": 64} for n, name in enumerate(names)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"id": n, "image_id": n, **annotation} for n in range(images)],
    }
    (folder / "set.json").write_text(json.dumps(content))
    experiment = folder / "large.yaml"
    experiment.write_text(
        f"data:\n  annotated: {{annotations: {folder}/set.json, images: {root}}}\n  percent: 10\n"
        f"teacher: {{detector: {ROOT}/configs/detectors/mask_rcnn_small.py}}\n"
    )
    return experiment


def seconds(command: list[str], environment: dict[str, str], repeats: int) -> float:
    """Return the median time of a command, after one run to warm up."""
    taken: list[float] = []
    for number in range(repeats + 1):
        begun = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        if number:
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    folder = options.folder.absolute()
    experiment = make_dataset(folder, options.images)
    environment = {**os.environ, "S4M_STORE": str(folder / "stores"), "S4M_WORK": str(folder / "work")}
    make = ["make", f"EXP={experiment}", f"BIN={BIN}", "split"]
    s4m = str(BIN / "s4m")
    begun = time.perf_counter()
    subprocess.run(make, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    print(f"first `make split`, every image read once: {time.perf_counter() - begun:.1f} s\n")
    rows = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "s4m --help": [s4m, "--help"],
        f"s4m status, {options.images:,} images": [s4m, "status", "--exp", str(experiment)],
        f"make split, up to date, {options.images:,} images": make,
        "make help": ["make", "help"],
    }
    print("| command | median seconds |\n|---|---|")
    for name, command in rows.items():
        print(f"| `{name}` | {seconds(command, environment, options.repeats):.2f} |")


if __name__ == "__main__":
    main()
