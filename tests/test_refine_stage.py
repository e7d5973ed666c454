"""The stages `predict` (with imported labels) and `refine`, whole, with the shipped SAM."""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.coco import image_folder
from pipeline.errors import ImageError, StageError
from pipeline.labels.rows import Status
from pipeline.refinement import refine_work as job
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import LABELS
from stages.options import workspace
from stages.runner import run_stage
from tests.processes import kill, start_s4m
from tests.tiny_coco import write_json
from tests.tiny_experiment import environment, make_experiment_files
from tests.tiny_refinement import (
    SETTINGS,
    box_mask,
    make_refinement,
    many_images,
    noise,
    opened,
    refine,
    result,
)

SMALL = "sam.input_side=128"  # where many images are refined, and it does not matter how well


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes an experiment on images with results of somebody's detector; gives its file."""
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    return partial(make_refinement, tmp_path)


def test_imported_labels_are_refined_and_keep_class_and_score(files):
    path = files([result(1, box_mask(5, 5, 40, 30), 0.75), result(1, box_mask(45, 5, 60, 30), 0.3)])
    store = refine(path)
    (row,) = store
    (instance,) = row.instances  # the other is below the score threshold
    assert (instance.category_id, round(instance.score, 6)) == (3, 0.75)
    assert instance.predicted_iou is not None
    assert instance.agreement is not None
    assert store.attributes.provenance["fingerprint"]["stage"] == "refine"


def test_without_sam_the_labels_are_passed_on(files, monkeypatch):
    monkeypatch.setattr(job, "build_engine", None)  # whoever calls it fails
    mask = box_mask(5, 5, 40, 30)
    store = refine(files([result(1, mask, 0.75)]), "refine.gate=teacher")
    ((instance,),) = [row.instances for row in store]
    assert (instance.decision, instance.gate_confidence, instance.soft_mask) == ("teacher", 1.0, None)
    assert np.array_equal(store[0].mask(instance), mask)


def test_results_of_a_whole_set_are_taken_for_its_unlabelled_part(files, tmp_path):
    path = files([])
    write_json(tmp_path / "results.json", [result(image_id, box_mask(5, 5, 40, 30)) for image_id in range(1, 7)])
    path = make_experiment_files(tmp_path, SETTINGS)
    store = refine(path)
    assert len(store) == 3
    assert all(len(row.instances) == 1 for row in store)


@pytest.mark.slow
def test_an_image_that_has_become_labelled_leaves_the_imported_labels(tmp_path, files):
    files([])
    whole = json.loads((tmp_path / "annotations.json").read_text())
    results = [result(image["id"], box_mask(5, 5, 40, 30)) for image in whole["images"]]

    def refined_with(labelled: int) -> list[int]:
        ids = [image["id"] for image in whole["images"]][:labelled]
        annotations = [each for each in whole["annotations"] if each["image_id"] in ids]
        write_json(
            tmp_path / "labelled.json", whole | {"images": whole["images"][:labelled], "annotations": annotations}
        )
        write_json(tmp_path / "results.json", results)
        data = {
            "labelled": {"annotations": "labelled.json", "images": "images"},
            "unlabelled": {"annotations": "annotations.json", "images": "images"},
        }
        path = make_experiment_files(tmp_path, {"data": data, **SETTINGS})
        return [row.image_id for row in refine(path, "refine.gate=teacher") if row.instances]

    assert refined_with(2) == [3, 4, 5, 6]
    assert refined_with(3) == [4, 5, 6]


def test_ids_of_no_dataset_are_refused(tmp_path, files):
    files([result(1, box_mask(5, 5, 40, 30))])
    data = {
        "labelled": {"annotations": "annotations.json", "images": "images"},
        "unlabelled": {"images": "unlabelled"},
    }
    path = make_experiment_files(tmp_path, {"data": data, **SETTINGS})
    with pytest.raises(StageError, match="set data.unlabelled.annotations to the COCO file"):
        refine(path)


def test_odd_instances_and_images_are_rows(files):
    path = files(
        [
            result(1, box_mask(30, 20, 31, 21)),  # one pixel
            result(1, box_mask(0, 0, 64, 48)),  # the whole image
            result(1, box_mask(0, 10, 20, 48)),  # at two borders
            result(3, box_mask(5, 5, 20, 20)),
            result(4, box_mask(5, 5, 20, 20)),
        ],
        {1: noise(1), 2: noise(2), 3: b"", 4: b"\x89PNG\r\n\x1a\nand no more"},
    )
    store = refine(path, "compute.failed_share=0.5")
    assert [row.status for row in store] == [Status.OK, Status.EMPTY, Status.FAILED, Status.FAILED]
    assert len(store[0].instances) == 3
    assert store[2].message == "the file is empty"
    for instance in store[0].instances:
        assert store[0].mask(instance).shape == (48, 64)


@pytest.mark.slow
def test_an_image_that_sam_cannot_answer_for_takes_no_other_with_it(files, monkeypatch):
    path = files([result(i, box_mask(5, 5, 40, 30)) for i in range(1, 5)], many_images(4))
    real = job.refine_images

    def failing(inputs, *rest, **named):
        if any(each.labels.image_id == 3 for each in inputs):
            raise ImageError("SAM's answer holds values that are not numbers")
        return real(inputs, *rest, **named)

    monkeypatch.setattr(job, "refine_images", failing)
    store = refine(path)
    assert [row.status for row in store] == [Status.OK, Status.OK, Status.FAILED, Status.OK]
    assert store[2].message == "SAM's answer holds values that are not numbers"


@pytest.mark.slow
def test_an_image_with_300_instances(files):
    corners = [(x, y) for x in range(0, 56, 3) for y in range(0, 40, 2)][:300]
    path = files([result(1, box_mask(x, y, x + 8, y + 7)) for x, y in corners], {1: noise(0)})
    store = refine(path, "predict.max_instances=300")
    assert len(store[0].instances) == 300


@pytest.mark.slow
def test_a_very_large_image(files):
    size_hw = (6000, 8000)
    picture = np.zeros((*size_hw, 3), dtype=np.uint8)
    picture[1000:4000, 2000:5000] = 200
    path = files([result(1, box_mask(2000, 1000, 5000, 4000, size_hw))], {1: picture})
    (row,) = refine(path)
    assert (row.width, row.height) == (8000, 6000)
    assert row.instances[0].area > 0


@pytest.mark.slow
def test_workers_do_not_change_the_result(files, monkeypatch, tmp_path, forked_workers):
    path = files([result(i, box_mask(5, 5, 40, 30)) for i in range(1, 71)], many_images(70))
    digests = set()
    for workers in (1, 2):
        monkeypatch.setenv("S4M_STORE", str(tmp_path / f"stores{workers}"))
        digests.add(refine(path, SMALL, f"compute.workers={workers}").attributes.digest)
    assert len(digests) == 1


def test_predicting_with_the_teacher_needs_the_teacher(files):
    path = files([])
    experiment = load_experiment(path, ["predict.results=null", "student.start=scratch"])
    run_stage(experiment, "split", 1)
    with pytest.raises(StageError, match=r"predict needs train-teacher first"):
        run_stage(experiment, "predict", 1)


def test_a_store_is_shared_by_experiments_that_ask_for_the_same(files):
    path = files([result(1, box_mask(5, 5, 40, 30))])
    refine(path)
    other = load_experiment(path, ["name=other", "compute.workers=2"])
    space = workspace(other)
    space.refresh()
    assert space.is_done("refine")


@pytest.mark.slow
def test_a_refinement_killed_again_and_again_ends_in_the_same_store(files, tmp_path, monkeypatch):
    path = files([result(i, box_mask(5, 5, 40, 30)) for i in range(1, 161)], many_images(160))
    undisturbed = refine(path, SMALL).attributes.digest
    other = tmp_path / "other"
    monkeypatch.setenv("S4M_STORE", str(other))
    random_ = random.Random(1)
    experiment = load_experiment(path, [SMALL])
    for stage in ("split", "predict"):
        run_stage(experiment, stage, 1)
    kept: dict[str, int] = {}
    kills = 0
    for _ in range(4):
        arguments = ["refine", "--exp", path, "--set", SMALL]
        process = start_s4m(arguments, environment(tmp_path) | {"S4M_STORE": str(other)})
        while process.is_alive() and shards(other) == kept:
            time.sleep(0.02)
        time.sleep(random_.uniform(0, 0.3))
        kills += kill(process)
        if list(other.glob(f"refine/*/{LABELS}")):
            break  # sealed: its shards are no longer needed
        now = shards(other)
        assert kept.items() <= now.items()
        kept = now
    assert kills >= 1
    run_stage(experiment, "refine", 1)
    assert opened(experiment, "refine").attributes.digest == undisturbed


def shards(store: Path) -> dict[str, int]:
    """Published shards of the refinement, with the time when each was written."""
    folders = [folder for folder in store.glob("refine/*.partial/shards") if folder.is_dir()]
    found = [path for folder in folders for path in folder.glob("[0-9]*.shard")]
    return {path.name: path.stat().st_mtime_ns for path in found}


@pytest.mark.slow
def test_two_refinements_at_once_share_the_work(files, tmp_path, monkeypatch):
    path = files([result(i, box_mask(5, 5, 40, 30)) for i in range(1, 65)], many_images(64))
    experiment = load_experiment(path, [SMALL])
    for stage in ("split", "predict"):
        run_stage(experiment, stage, 1)
    outputs = [tmp_path / "first.txt", tmp_path / "second.txt"]
    arguments = ["refine", "--exp", path, "--set", SMALL]
    both = [start_s4m(arguments, environment(tmp_path), output) for output in outputs]
    for process in both:
        process.join(120)
    told = [output.read_text() for output in outputs]
    assert [process.exitcode for process in both] == [0, 0], told
    assert sum("refine: done in " in each for each in told) == 1
    shared = opened(experiment, "refine").attributes.digest
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "alone"))
    assert refine(path, SMALL).attributes.digest == shared


def test_what_was_made_can_be_exported(files, tmp_path):
    from stages.label_commands import export

    path = files([result(1, box_mask(5, 5, 40, 30))])
    refine(path)
    export(f"{path}:refine", tmp_path / "out.json", results=True)
    (entry,) = json.loads((tmp_path / "out.json").read_text())
    assert entry["category_id"] == 3


class Outage:
    """Takes the image folder away as SAM begins with the second batch, for as long as is asked for."""

    def __init__(self, monkeypatch, images: Path) -> None:
        self.images, self.away = images, images.with_name("away")
        self.waits = 0
        real, calls = job.refine_images, iter(range(10**6))

        def refining(*arguments, **named):
            if next(calls) == 1:
                self.images.rename(self.away)
            return real(*arguments, **named)

        monkeypatch.setattr(job, "refine_images", refining)
        monkeypatch.setattr(image_folder.time, "sleep", self._wait)
        self.back_after = 10**6

    def _wait(self, _seconds: float) -> None:
        self.waits += 1
        if self.waits >= self.back_after:
            self.end()

    def end(self) -> None:
        with suppress(FileNotFoundError):  # two readers wait
            self.away.rename(self.images)


@pytest.fixture
def outage_files(files, tmp_path):
    path = files([result(i, box_mask(5, 5, 40, 30)) for i in range(1, 41)], many_images(40))
    digest = refine(path, f"store={tmp_path / 'undisturbed'}").attributes.digest
    return path, digest


@pytest.mark.slow
def test_images_that_are_gone_while_refining_fail_the_stage_and_nothing_of_it_is_recorded(
    outage_files, tmp_path, monkeypatch
):
    path, digest = outage_files
    with monkeypatch.context() as patched:
        outage = Outage(patched, tmp_path / "unlabelled")
        with pytest.raises(StageError, match="It was there when this began, so the machine is at fault"):
            refine(path)
        assert not list((tmp_path / "stores" / "refine").glob("*/seal.json"))
        outage.end()
    assert refine(path).attributes.digest == digest


@pytest.mark.slow
def test_images_that_are_gone_for_a_short_time_change_nothing(outage_files, tmp_path, monkeypatch):
    path, digest = outage_files
    outage = Outage(monkeypatch, tmp_path / "unlabelled")
    outage.back_after = 3
    assert refine(path).attributes.digest == digest
    assert outage.waits >= 3
