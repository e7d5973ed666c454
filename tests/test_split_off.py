"""Labelled, validation and unlabelled images out of one annotated set: sizes, shares of the classes, draws."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.coco.reading import read_coco
from pipeline.datasets.split_off import Amount, SplitOff, split_off, write_split_off
from pipeline.errors import DatasetError, ProblemsError, StageError
from tests.tiny_coco import tiny_dict, write_json

CLASSES = {1: 0.6, 2: 0.2, 3: 0.05, 4: 0.02}


def annotated(tmp_path, images: int = 200, seed: int = 0):
    """A set in which classes are seldom and images may have none, one instance a class."""
    rng = np.random.default_rng(seed)
    content = tiny_dict(images=images, instances=1, category_ids=tuple(CLASSES))
    template = content["annotations"][0]
    content["annotations"] = []
    for image in content["images"]:
        for category, share in CLASSES.items():
            if rng.uniform() < share:
                number = len(content["annotations"]) + 1
                own = {"id": number, "image_id": image["id"], "category_id": category}
                content["annotations"].append(template | own)
    return read_coco(write_json(tmp_path / f"all{seed}.json", content))


def amounts(labelled: str, validation: str) -> tuple[Amount, Amount]:
    return Amount.parse("labelled", labelled), Amount.parse("validation", validation)


def sizes(split: SplitOff) -> tuple[int, int, int]:
    return len(split.labelled), len(split.validation), len(split.unlabelled)


@pytest.mark.parametrize(
    ("labelled", "validation", "expected"),
    [("10%", "20%", (20, 40, 140)), ("7", "13", (7, 13, 180)), ("0.1%", "0", (1, 0, 199)), ("99 %", "1", (198, 1, 1))],
)
def test_parts_have_the_sizes_that_are_asked_and_share_no_image(tmp_path, labelled, validation, expected):
    dataset = annotated(tmp_path)
    split = split_off(dataset, *amounts(labelled, validation), seed=0)
    assert sizes(split) == expected
    assert sorted(split.labelled + split.validation + split.unlabelled) == sorted(dataset.image_by_id)


def deviation(dataset, split: SplitOff) -> float:
    """How far the parts are from their shares of the classes, in images, summed up."""
    shares = [size / len(dataset.images) for size in sizes(split)]
    shown = split.images_by_class(dataset).values()
    return sum(abs(count - share * sum(each)) for each in shown for count, share in zip(each, shares, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_every_part_gets_its_share_of_every_class(tmp_path, seed):
    dataset = annotated(tmp_path, seed=seed)
    split = split_off(dataset, *amounts("20%", "30%"), seed=seed)
    assert sizes(split) == (40, 60, 100)
    rng = np.random.default_rng(seed)
    by_chance = []
    for _ in range(50):
        drawn = rng.permutation(sorted(dataset.image_by_id)).tolist()
        by_chance.append(deviation(dataset, SplitOff(*map(tuple, (drawn[:40], drawn[40:100], drawn[100:])))))
    assert deviation(dataset, split) < 0.6 * np.mean(by_chance)
    assert split_off(dataset, *amounts("20%", "30%"), seed=seed + 100) != split


def test_a_rare_class_is_labelled_first_then_measured(tmp_path):
    dataset = annotated(tmp_path, images=60, seed=7)
    shown = split_off(dataset, *amounts("4", "4"), seed=1).images_by_class(dataset)
    for labelled, validation, unlabelled in shown.values():
        total = labelled + validation + unlabelled
        assert labelled or not total
        assert validation or total < 2


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_the_file(tmp_path):
    dataset = annotated(tmp_path)
    content = json.loads(dataset.path.read_text())
    for key in content:
        content[key].reverse()
    turned = read_coco(write_json(tmp_path / "turned.json", content))
    first, again = (split_off(each, *amounts("10%", "10%"), seed=3) for each in (dataset, turned))
    assert first == again


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "10 %%", "1e3"])
def test_amounts_are_counts_or_percentages(text):
    with pytest.raises(ProblemsError, match="is neither a count, as 20, nor a share, as 20%"):
        Amount.parse("labelled", text)


@pytest.mark.parametrize(
    ("labelled", "validation", "message"),
    [
        ("150", "50", "150 labelled and 50 validation images leave none unlabelled"),
        ("100%", "0", "200 labelled and 0 validation images leave none unlabelled"),
        ("0", "10", "labelled: must be at least one image"),
    ],
)
def test_amounts_that_do_not_fit_are_refused(tmp_path, labelled, validation, message):
    with pytest.raises(DatasetError, match=message):
        split_off(annotated(tmp_path), *amounts(labelled, validation), seed=0)


def test_files_are_those_of_the_stage_and_nothing_is_overwritten(tmp_path):
    dataset = annotated(tmp_path, images=20)
    split = split_off(dataset, *amounts("5", "5"), seed=0)
    write_split_off(dataset, split, tmp_path / "out")
    read = {path.name: read_coco(path) for path in (tmp_path / "out").rglob("*.json") if path.name != "unlabelled.json"}
    assert set(read) == {"labelled.json", "validation.json", "unlabelled_truth.json"}
    assert {image.id for image in read["validation.json"].images} == set(split.validation)
    assert "annotations" not in json.loads((tmp_path / "out/unlabelled.json").read_text())
    annotations = sum(len(each.annotations) for each in read.values())
    assert annotations == len(dataset.annotations)
    with pytest.raises(StageError, match="already there"):
        write_split_off(dataset, split, tmp_path / "out")
