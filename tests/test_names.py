"""One name, one thing; and operations on masks in one place."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for top in ("pipeline", "s4m", "stages") for path in (ROOT / top).rglob("*.py"))

UNDER_WORK = {"ShardHeader", "_Format", "_GroupMetadata"}
"""Each store reads its own: these go when the stores share one way of keeping columns."""


def doubles(named: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Names that several things have, with the files they are in."""
    places = defaultdict(list)
    for name, place in named:
        places[name].append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def classes() -> Iterator[tuple[str, str]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield node.name, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_no_two_classes_have_one_name():
    found = doubles(classes())
    assert {name: places for name, places in found.items() if name not in UNDER_WORK} == {}


def test_a_double_would_be_found():
    assert doubles(iter([("A", "a.py"), ("B", "b.py"), ("A", "c.py")])) == {"A": ["a.py", "c.py"]}
    assert len(list(classes())) > 200


def test_pycocotools_masks_are_used_in_one_package():
    """Only the package of masks calls pycocotools; the small SAM's measurements read a COCO file with it."""
    users = {path.relative_to(ROOT).as_posix() for path in SOURCES if "from pycocotools import" in path.read_text()}
    assert users == {"pipeline/masks/overlap.py", "pipeline/masks/run_lengths.py"}


def test_masks_stand_on_files_and_errors_alone():
    """No other package of ours, and nothing heavy, at any depth of a module."""
    allowed = {"cv2", "numpy", "pycocotools", "pipeline.masks", "pipeline.files", "pipeline.errors"}
    for path in (ROOT / "pipeline/masks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            else:
                continue
            for name in names:
                package = ".".join(name.split(".")[: 2 if name.startswith("pipeline.") else 1])
                assert package in allowed | sys.stdlib_module_names, f"{path.name} imports {name}"
