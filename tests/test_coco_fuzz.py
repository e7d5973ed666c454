"""Whatever is in an annotation file, only DatasetError comes out, and what is accepted can be used."""

from __future__ import annotations

import copy
import json
import math
import random
from collections import Counter

import pytest

from pipeline.coco.checking import check_coco
from pipeline.coco.paths import resolve_image_path
from pipeline.coco.reading import read_coco
from pipeline.coco.writing import write_coco
from pipeline.errors import DatasetError
from tests.fuzzing import at, change_bytes, places, within
from tests.tiny_coco import tiny_dict
from tests.torture import seeds

NUMBERS = [0, -1, 1, 2, 0.5, -0.0, 1e9, -1e9, 1e308, -1e308, 2**31, 2**32, 2**63, 2**64, 10**30, -(2**70)]
NO_NUMBERS = [math.nan, math.inf, -math.inf]
OTHERS = [None, True, False, "", "1", "nan", [], {}, [[]], [[[]]], {"id": 1}, "\ud800", "\x00", "é" * 9, {"\t": {}}]
FILE_NAMES = [
    "", ".", "..", "/", "/etc/passwd", "../../x.png", "a/../../x", "C:\\x.png", "c:x", "\\\\host\\x", "a\\..\\x",
    "x\0.png", "x\n.png", "\x1b[2J", "x" * 5000, "a//b", "./x.png", "~/x.png", "file:///x.png", "%2e%2e/x", "‮gnp.x",
]  # fmt: skip
COUNTS = ["", "0", "o", "0o", "O0", "oooooooo0", "PP0" * 50, "é", "`" * 40, "~", " ", "\x00", "l0" * 400, "00" * 3000]


def junk(rng, depth=0):
    kind = rng.randrange(3 if depth > 4 else 5)
    if kind == 3:
        return [junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 4:
        return {rng.choice(["id", "size", "counts", "x"]): junk(rng, depth + 1) for _ in range(rng.randrange(4))}
    return rng.choice([NUMBERS, NO_NUMBERS, OTHERS][kind])


def change_content(rng, content):
    """Change one place of the content."""
    path = rng.choice(list(places(content)))
    parent, key = at(content, path[:-1]), path[-1]
    change = rng.randrange(8)
    if change == 0:
        del parent[key]
    elif change == 1:
        parent[key] = rng.choice(NUMBERS)
    elif change == 2:
        parent[key] = rng.choice(NO_NUMBERS)
    elif change == 3:
        parent[key] = junk(rng)
    elif change == 4:  # the same or another value from elsewhere
        parent[key] = copy.deepcopy(at(content, rng.choice(list(places(content)))))
    elif change == 5 and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(rng.choice(parent)))
    elif change == 6:
        rng.choice(content["images"] or [{}])["file_name"] = rng.choice(FILE_NAMES)
    else:
        form = {"size": rng.choice([[48, 64], [64, 48]]), "counts": rng.choice([*COUNTS, [0, 3072], [1, -1, 3072]])}
        polygon = [rng.choice([*NUMBERS, 3, 40, 60]) for _ in range(rng.choice([0, 2, 4, 6, 7, 8]))]
        rng.choice(content["annotations"] or [{}])["segmentation"] = rng.choice([form, [polygon], [polygon] * 2])


def mutated(rng, original):
    content = copy.deepcopy(original)
    if rng.random() < 0.75:
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            try:
                change_content(rng, content)
            except (KeyError, TypeError, IndexError, AttributeError):
                break  # an earlier change took away what this one wanted
        return json.dumps(content).encode()
    data = json.dumps(content, ensure_ascii=False).encode()
    for _ in range(rng.choice([1, 1, 2, 4])):
        data = change_bytes(rng, data)
    if rng.random() < 0.02:
        data = data.replace(b"[", b"[" * rng.choice([50, 3000]), 1)
    return data


def use(dataset, tmp_path):
    """Do with an accepted dataset what the stages do."""
    for annotation in dataset.annotations:
        image = dataset.image_by_id[annotation.image_id]
        assert annotation.category_id in dataset.category_by_id
        assert dataset.mask(annotation).shape == (image.height, image.width)
    for image in dataset.images:
        path = resolve_image_path(tmp_path / "images", image.file_name)
        assert path.resolve().is_relative_to((tmp_path / "images").resolve())


def write_and_read_again(dataset, tmp_path):
    subset = dataset.subset([image.id for image in dataset.images])
    write_coco(tmp_path / "written.json", subset.images, subset.categories, subset.annotations)
    assert len(read_coco(tmp_path / "written.json").annotations) == len(dataset.annotations)


@pytest.mark.slow
@seeds(2_000)
def test_damaged_files_are_refused_or_can_be_used(tmp_path, seeds):
    original = tiny_dict(images=2, instances=2)
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        rng = random.Random(seed)
        data = mutated(rng, original)
        path = tmp_path / f"{seed}.json"  # a new one: writing over a file waits for the disk
        path.write_bytes(data)
        try:
            with within(20):
                dataset = read_coco(path, annotations_required=rng.random() < 0.8)
                use(dataset, tmp_path)
            outcomes["accepted"] += 1
            if outcomes["accepted"] % 10 == 1:
                write_and_read_again(dataset, tmp_path)
        except DatasetError as error:
            assert error.problems
            assert all(line.isprintable() for line in str(error).split("\n"))  # nothing reaches the terminal raw
            outcomes["refused"] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}: {data!r}")
            raise
        if seed % 10 == 0:
            report = check_coco(path)
            assert report.ok or report.errors
        path.unlink()
    assert outcomes["refused"] + outcomes["accepted"] == len(seeds)
    assert outcomes["refused"] > len(seeds) // 10
    assert outcomes["accepted"] > len(seeds) // 100
