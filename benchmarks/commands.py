"""Measure the commands that people use most: help, status, graph, and a make that has nothing to do.

    python benchmarks/commands.py --folder DIR [--images 100000] [--unlabelled 1000000] [--repeats 7]

Writes small image files: as one annotated set with a COCO file that lists them, and, with `--unlabelled`, a folder of
that many images beside 1,000 labelled ones. Runs `make split`, and then measures the commands. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
POLYGON = [[1, 1, 9, 1, 9, 9, 1, 9]]
SIDE = 64
LABELLED = 1000
IN_A_FOLDER = 1000


class Cost(NamedTuple):
    """The time of a command, by the clock and of all processors, and the most memory of one of its processes."""

    seconds: float
    cpu_seconds: float
    memory_mb: float


def write_images(root: Path, numbers: Iterable[int]) -> list[str]:
    """Write image files of a hundred bytes, each with a content of its own; return their names."""
    buffer = io.BytesIO()
    Image.new("L", (SIDE, SIDE)).save(buffer, "PNG")
    image, names = buffer.getvalue(), []
    for number in numbers:
        names.append(f"{number // IN_A_FOLDER:04}/{number:07}.png")
        path = root / names[-1]
        if number % IN_A_FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(image + str(number).encode())  # what follows the end of a PNG is not read
    return names


def write_annotations(path: Path, names: list[str]) -> None:
    annotation = {"category_id": 1, "bbox": [1, 1, 8, 8], "area": 64, "iscrowd": 0, "segmentation": POLYGON}
    content = {
        "images": [{"id": n, "file_name": name, "width": SIDE, "height": SIDE} for n, name in enumerate(names)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"id": n, "image_id": n, **annotation} for n in range(len(names))],
    }
    path.write_text(json.dumps(content))


def write_experiment(path: Path, data: str) -> Path:
    path.write_text(f"data: {data}\nteacher: {{detector: {ROOT}/configs/detectors/mask_rcnn_small.py}}\n")
    return path


def one_set(folder: Path, images: int) -> Path:
    """Write one annotated set and an experiment that divides it; return the experiment's path."""
    write_annotations(folder / "set.json", write_images(folder / "images", range(images)))
    annotated = f"{{annotations: {folder}/set.json, images: {folder}/images}}"
    return write_experiment(folder / "large.yaml", f"{{annotated: {annotated}, percent: 10}}")


def two_sets(folder: Path, unlabelled: int) -> Path:
    """Write labelled images, and a folder of unlabelled ones, and their experiment; return the experiment's path."""
    write_annotations(folder / "labelled.json", write_images(folder / "labelled", range(LABELLED)))
    write_images(folder / "unlabelled", range(LABELLED, LABELLED + unlabelled))
    labelled = f"{{annotations: {folder}/labelled.json, images: {folder}/labelled}}"
    return write_experiment(
        folder / "unlabelled.yaml", f"{{labelled: {labelled}, unlabelled: {{images: {folder}/unlabelled}}}}"
    )


def cost(command: list[str], environment: dict[str, str]) -> Cost:
    """Run a command and return what it took."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, state, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(state)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    # Linux counts memory in KiB.
    return Cost(time.perf_counter() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def measure(rows: dict[str, list[str]], environment: dict[str, str], repeats: int) -> None:
    """Print a table of the medians, after one run to warm up."""
    print("| command | median seconds | processor | memory, MB |\n|---|---:|---:|---:|", flush=True)
    for name, command in rows.items():
        costs = [cost(command, environment) for _ in range(repeats + 1)][1:]
        median = Cost(*map(statistics.median, zip(*costs, strict=True)))
        print(f"| `{name}` | {median.seconds:.2f} | {median.cpu_seconds:.2f} | {median.memory_mb:.0f} |", flush=True)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100_000, help="of the annotated set; 0: without it")
    parser.add_argument("--unlabelled", type=int, default=0, help="images of the folder of unlabelled ones")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "S4M_STORE": str(folder / "stores"), "S4M_WORK": str(folder / "work")}
    s4m = str(BIN / "s4m")
    measure(
        {
            "python -c pass": [sys.executable, "-c", "pass"],
            "s4m --help": [s4m, "--help"],
            "make help": ["make", "help"],
        },
        environment,
        options.repeats,
    )
    for images, what, write in ((options.images, "images", one_set), (options.unlabelled, "unlabelled", two_sets)):
        if not images:
            continue
        experiment = str(write(folder, images))
        make = ["make", f"EXP={experiment}", f"BIN={BIN}", "split"]
        first = cost(make, environment)
        print(
            f"\n{images:,} {what}; the first `make split`, which reads every image: {first.seconds:.1f} s, "
            f"{first.cpu_seconds:.1f} s of the processor, {first.memory_mb:.0f} MB\n"
        )
        measure(
            {
                "s4m status": [s4m, "status", "--exp", experiment],
                "s4m graph": [s4m, "graph", "--exp", experiment],
                "make split, up to date": make,
            },
            environment,
            options.repeats,
        )


if __name__ == "__main__":
    main()
