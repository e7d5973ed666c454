"""Refining a COCO file: what comes back is the file, with other masks."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.coco.reading import read_coco
from pipeline.compute.execution import ShardProgress
from pipeline.compute.settings import ComputeSettings
from pipeline.errors import DatasetError, S4MError, StageError
from pipeline.labels.dataset_rows import Scores
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import Decision, ImageLabels, label_from_mask
from pipeline.refinement import refining
from pipeline.refinement.coco_file import read_scores, rows_to_refine, write_refined
from pipeline.refinement.refine_work import RefineWork
from pipeline.refinement.settings import RefineSettings
from pipeline.workflow.experiment import RefineOnly
from pipeline.workflow.loading import refine_only
from pipeline.workflow.refined_files import refine_coco_file, refinement_id, same_images
from tests.tiny_coco import TinyCoco, tiny_coco, write_json


@pytest.fixture
def made(tmp_path):
    """Two images; annotation 2 is a crowd, annotation 3 has a score and a key of its own."""
    made = tiny_coco(tmp_path / "set", images=2)
    made.content["annotations"][1]["iscrowd"] = 1
    made.content["annotations"][1]["segmentation"] = made.content["annotations"][1]["segmentation"]
    made.content["annotations"][2] |= {"score": 0.25, "colour": "red"}
    write_json(made.annotations, made.content)
    return made


def refined(made: TinyCoco, tmp_path: Path, change) -> tuple[dict[str, Any], Any]:
    """Refine by a function of a row, and read what was written."""
    dataset = read_coco(made.annotations)
    rows = [change(row) for row in rows_to_refine(dataset, read_scores(made.annotations))]
    write_label_store(tmp_path / "refined.zarr", rows, dataset.categories, {})
    result = write_refined(made.annotations, dataset, LabelStore.open(tmp_path / "refined.zarr"), tmp_path / "out.json")
    return json.loads((tmp_path / "out.json").read_text()), result


def shrunk(row: ImageLabels) -> ImageLabels:
    """Every mask without its outermost pixels, as SAM's."""
    instances = []
    for instance in row.instances:
        mask = row.mask(instance)
        inner = mask.copy()
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            inner &= np.roll(mask, step, axis)
        label = label_from_mask(inner, instance.category_id, instance.score, Decision.SAM)
        instances.append(replace(label, agreement=0.5))
    return replace(row, instances=tuple(instances))


def test_crowds_are_not_refined(made):
    rows = list(rows_to_refine(read_coco(made.annotations), {}))
    assert [len(row.instances) for row in rows] == [2, 3]


def test_masks_change_and_everything_else_stays(made, tmp_path):
    content, result = refined(made, tmp_path, shrunk)
    assert result.decisions == {"sam": 5, "unchanged": 1}
    assert content["images"] == made.content["images"]
    before = {each["id"]: each for each in made.content["annotations"]}
    assert [each["id"] for each in content["annotations"]] == list(before)
    for after in content["annotations"]:
        for key in ("image_id", "category_id", "iscrowd"):
            assert after[key] == before[after["id"]][key]
    third = content["annotations"][2]
    assert (third["score"], third["colour"]) == (0.25, "red")
    assert third["refinement"] == {"decision": "sam", "agreement": 0.5}
    crowd = content["annotations"][1]
    assert crowd == before[2] | {"refinement": {"decision": "unchanged", "reason": "it is a crowd"}}
    mask = coco_mask.decode(third["segmentation"]).astype(bool)
    assert mask.sum() == third["area"] < made.masks[3].sum()
    assert third["bbox"] == coco_mask.toBbox(third["segmentation"]).tolist()
    read_coco(tmp_path / "out.json")


def test_dropped_instances_are_taken_out_and_listed(made, tmp_path):
    def dropping(row: ImageLabels) -> ImageLabels:
        first, *rest = row.instances
        return replace(row, instances=(replace(first, decision=Decision.DROPPED), *rest))

    content, result = refined(made, tmp_path, dropping)
    assert result.decisions == {"dropped": 2, "teacher": 3, "unchanged": 1}
    assert content["refinement"]["dropped_ids"] == [1, 4]
    assert [each["id"] for each in content["annotations"]] == [2, 3, 5, 6]


def test_annotations_of_an_image_that_fails_stay_as_they_are(made, tmp_path):
    def failing(row: ImageLabels) -> ImageLabels:
        if row.image_id == 1:
            return ImageLabels.of_failure(1, row.file_name, "the file is empty", row.width, row.height)
        return row

    content, result = refined(made, tmp_path, failing)
    assert result.failures == {"0001.png": "the file is empty"}
    reason = "its image could not be used: the file is empty"
    told = {"refinement": {"decision": "unchanged", "reason": reason}}
    assert content["annotations"][0] == made.content["annotations"][0] | told
    assert content["refinement"]["failed_images"] == {"0001.png": "the file is empty"}


def test_an_empty_mask_says_why_it_is_unchanged(made, tmp_path):
    made.content["annotations"][0]["segmentation"] = {"size": [48, 64], "counts": [48 * 64]}
    write_json(made.annotations, made.content)
    content, result = refined(made, tmp_path, shrunk)
    assert content["annotations"][0]["refinement"] == {"decision": "unchanged", "reason": "its mask is empty"}
    assert result.decisions == {"sam": 4, "unchanged": 2}


def test_nothing_is_written_where_no_image_could_be_used(made, tmp_path):
    def failing(row: ImageLabels) -> ImageLabels:
        return ImageLabels.of_failure(row.image_id, row.file_name, "no such file", row.width, row.height)

    with pytest.raises(StageError, match=r"could be used: 0001.png: no such file, 0002.png: no such file. Is it the"):
        refined(made, tmp_path, failing)
    assert not (tmp_path / "out.json").exists()


def test_a_refinement_is_known_by_all_that_changes_it_and_nothing_else(made, tmp_path):
    def name(*settings: str, root: Path = made.image_root) -> str:
        dataset = read_coco(made.annotations)
        return refinement_id(made.annotations, dataset, root, refine_only(settings))

    first = name()
    assert name("compute.workers=3", "refine.preset=best") == first
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"other")
    other = {name("refine.points=7"), name(f"sam.checkpoint={weights}"), name(root=tmp_path)}
    os.utime(made.image_root / "0001.png", (1, 1))
    changed = name()
    (made.image_root / "0002.png").unlink()
    absent = name()
    made.content["annotations"][2]["score"] = 0.5
    write_json(made.annotations, made.content)
    assert len({first, *other, changed, absent, name()}) == 7
    with pytest.raises(S4MError, match="no weights for sam_tiny"):
        name(f"sam.checkpoint={tmp_path / 'nowhere.pth'}")


@pytest.fixture
def stops_once(monkeypatch):
    """The first shard, here of one image, is published; then the run is interrupted."""
    publish = RefineWork.publish
    monkeypatch.setattr(refining, "IMAGES_PER_SHARD", 1)

    def stopping(work, shard, rows):
        publish(work, shard, rows)
        monkeypatch.setattr(RefineWork, "publish", publish)
        raise KeyboardInterrupt

    monkeypatch.setattr(RefineWork, "publish", stopping)


@pytest.mark.slow
def test_a_file_is_refined_from_python_and_an_interrupted_call_goes_on(made, tmp_path, stops_once):
    settings = RefineOnly(refine=RefineSettings(points=2), compute=ComputeSettings(device="cpu"))
    target = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        refine_coco_file(made.annotations, made.image_root, target, settings)
    assert not target.exists()
    told: list[ShardProgress] = []
    result = refine_coco_file(made.annotations, made.image_root, target, settings, told.append)
    assert [(each.what, each.done, each.done_before) for each in told] == [("refine", 1, 1), ("refine", 2, 1)]
    assert result.file.decisions == {"sam": 5, "unchanged": 1}
    assert (result.effect.from_sam, result.quality) == (5, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "set"]
    at_once = tmp_path / "at_once.json"
    refine_coco_file(made.annotations, made.image_root, at_once, settings)
    assert at_once.read_bytes() == target.read_bytes()
    with pytest.raises(StageError, match=r"out\.json is already there and was left alone"):
        refine_coco_file(made.annotations, made.image_root, target, settings)


@pytest.mark.parametrize("name", ["score", "mask_score"])
@pytest.mark.parametrize("score", [1.5, -0.1, "high", True, None])
def test_a_score_that_is_none_is_refused(made, name, score):
    made.content["annotations"][2][name] = score
    write_json(made.annotations, made.content)
    with pytest.raises(DatasetError, match=f"annotation 3, {name}: given"):
        read_scores(made.annotations)


def test_class_and_mask_scores_are_read_apart(made):
    made.content["annotations"][0] |= {"score": 0.5, "mask_score": 0.25}
    made.content["annotations"][1] |= {"mask_score": 0.75}
    write_json(made.annotations, made.content)
    scores = read_scores(made.annotations)
    assert (scores[1], scores[2]) == (Scores(0.5, 0.25), Scores(1.0, 0.75))


def test_a_truth_is_matched_by_file_name(made):
    dataset = read_coco(made.annotations)
    renumbered = json.loads(json.dumps(made.content))
    renumbered["images"] = [each | {"id": each["id"] + 50} for each in renumbered["images"][1:]]
    renumbered["images"].append({"id": 1, "file_name": "elsewhere.png", "width": 9, "height": 9})
    renumbered["annotations"] = [
        each | {"image_id": each["image_id"] + 50} for each in renumbered["annotations"] if each["image_id"] == 2
    ]
    truth = same_images(read_coco(write_json(made.annotations.with_name("truth.json"), renumbered)), dataset)
    assert [image.file_name for image in truth.images] == ["0002.png"]
    assert {each.image_id for each in truth.annotations} == {2}
    assert len(truth.annotations_by_image[2]) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file_name": "elsewhere.png"}, "no file name is that of an image of "),
        ({"width": 65}, r"0001.png is 65 x 48, in .*annotations.json 64 x 48"),
    ],
)
def test_a_truth_of_other_images_is_refused(made, change, said):
    dataset = read_coco(made.annotations)
    content = {"images": [made.content["images"][0] | change], "categories": made.content["categories"]}
    path = write_json(made.annotations.with_name("truth.json"), content | {"annotations": []})
    with pytest.raises(DatasetError, match=said):
        same_images(read_coco(path), dataset)
