"""The whole loop: refined labels, a review, corrections, a new experiment that learns from them."""

from __future__ import annotations

import json

import pytest
import yaml

from pipeline.coco.reading import read_coco
from pipeline.datasets.split import LABELLED, TRUTH, UNLABELLED
from pipeline.workflow.loading import load_experiment
from stages.options import workspace
from stages.runner import run_stage
from tests.tiny_coco import write_json
from tests.tiny_experiment import make_experiment_files
from tests.tiny_refinement import SETTINGS, box_mask, make_refinement, many_images, refine, result


@pytest.fixture
def refined(s4m, tmp_path):
    """An experiment on an annotated set, half of it labelled, with refined labels; gives its file."""
    path = make_experiment_files(tmp_path, SETTINGS)
    masks = [box_mask(5, 5, 40, 30), box_mask(45, 5, 60, 30)]
    write_json(tmp_path / "results.json", [result(image_id, mask) for image_id in range(1, 7) for mask in masks])
    make_experiment_files(tmp_path, SETTINGS)
    refine(path)
    return path


def review(s4m, experiment, tmp_path, format_: str, *words: object):
    options = ["--images", tmp_path / "images", "--output", format_, "--format", format_, *words]
    return s4m("labels", "review", f"{experiment}:refine", *options)


@pytest.mark.slow
def test_from_refined_labels_to_a_new_experiment(s4m, refined, tmp_path):
    told = review(s4m, refined, tmp_path, "coco", "--top", 3, "--per-image", 2)
    assert told.status == 0, told.err
    assert "coco: 3 instances to check, in 2 images to correct whole" in told.out

    content = json.loads((tmp_path / "coco" / "annotations.json").read_text())
    names = [image["file_name"] for image in content["images"]]
    for number, image in enumerate(content["images"]):  # ids, names and order as another tool has them
        for each in content["annotations"]:
            if each["image_id"] == image["id"]:
                each["image_id"] = 1000 + number
        image |= {"id": 1000 + number, "file_name": f"images/0a1b2c3d-{image['file_name']}"}
    removed = content["annotations"].pop()
    write_json(tmp_path / "corrected.json", content)

    told = s4m("labels", "accept", "corrected.json", "--from", refined, "--output", "new.json")
    assert told.status == 0, told.err
    count = len(content["annotations"])
    assert f"corrected: 2 images that were unlabelled, 0 that were labelled, {count} instances (0 images" in told.out
    assert "left unlabelled: 1 images" in told.out

    told_data = told.out[told.out.index("data:") :]
    settings = yaml.safe_load(refined.read_text()) | yaml.safe_load(told_data)
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(settings))
    second = load_experiment(tmp_path / "second.yaml", ())
    run_stage(second, "split", 1)
    lists = workspace(second).result("split")
    first_lists = workspace(load_experiment(refined, ())).result("split")
    labelled, before = read_coco(lists / LABELLED), read_coco(first_lists / LABELLED)
    assert {image.file_name for image in labelled.images} == {image.file_name for image in before.images} | set(names)
    assert len(labelled.annotations) == len(before.annotations) + count
    unlabelled = read_coco(lists / UNLABELLED, annotations_required=False)
    assert len(unlabelled.images) == 1
    assert unlabelled.images[0].file_name not in names
    assert read_coco(lists / TRUTH).images == unlabelled.images
    assert removed["id"] not in {each["id"] for each in content["annotations"]}


def test_sets_of_two_folders_are_labelled_and_unlabelled_apart_again(s4m, tmp_path):
    path = make_refinement(tmp_path, [], many_images(3))
    run_stage(load_experiment(path, ()), "split", 1)
    content = json.loads((tmp_path / "annotations.json").read_text())
    content["images"] = [{"id": 1, "file_name": "2.png", "width": 64, "height": 48}]
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] == 1]
    write_json(tmp_path / "corrected.json", content)
    told = s4m("labels", "accept", "corrected.json", "--from", path, "--output", "new.json")
    assert told.status == 0, told.err
    settings = yaml.safe_load(path.read_text()) | yaml.safe_load(told.out[told.out.index("data:") :])
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(settings))
    second = load_experiment(tmp_path / "second.yaml", ())
    run_stage(second, "split", 1)
    lists = workspace(second).result("split")
    labelled = read_coco(lists / LABELLED)
    assert [image.file_name for image in labelled.images] == [
        *(f"images/000{number}.png" for number in range(1, 7)),
        "unlabelled/2.png",
    ]
    assert len(labelled.annotations_by_image[labelled.images[-1].id]) == len(content["annotations"])
    unlabelled = read_coco(lists / UNLABELLED, annotations_required=False)
    assert [image.file_name for image in unlabelled.images] == ["1.png", "3.png"]


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["cvat", "label-studio"])
def test_reviews_for_tools_are_written_with_their_images(s4m, refined, tmp_path, format_):
    told = review(s4m, refined, tmp_path, format_, "--copy")
    assert told.status == 0, told.err
    assert len(list((tmp_path / format_ / "images").iterdir())) == 3
    if format_ == "label-studio":
        assert f"the root {tmp_path.resolve() / format_}\n" in told.out
        assert "a local storage at its folder images\n" in told.out
    again = review(s4m, refined, tmp_path, format_)
    assert again.status == 2
    assert "already there and was left alone" in again.err.replace("\n", " ")


@pytest.mark.slow
def test_a_format_that_is_none_is_refused(s4m, refined, tmp_path):
    told = review(s4m, refined, tmp_path, "voc")
    assert told.status == 2
    assert "'voc' is not one of 'coco', 'cvat', 'label-studio'" in " ".join(told.err.split())


def test_accepting_leaves_files_alone_and_needs_a_split(s4m, tmp_path):
    path = make_experiment_files(tmp_path)
    write_json(tmp_path / "there.json", {})
    told = s4m("labels", "accept", "c.json", "--from", path, "--output", "there.json")
    assert told.status == 1
    assert "there.json is already there and was left alone" in told.err
    told = s4m("labels", "accept", "c.json", "--from", path, "--output", "new.json")
    assert told.status == 1
    assert "has no split that is up to date: make split" in told.err


def test_bad_corrections_are_told_and_nothing_is_written(s4m, refined, tmp_path):
    write_json(tmp_path / "c.json", {"images": [{"id": 1, "file_name": "9.png", "width": 1, "height": 1}]})
    told = s4m("labels", "accept", "c.json", "--from", refined, "--output", "new.json")
    assert told.status == 1
    assert "'9.png' is not an image of the experiment" in told.err
    assert not (tmp_path / "new.json").exists()
