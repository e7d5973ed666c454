"""The stage `distill`, whole, with the shipped SAM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.compute.shards import Shard
from pipeline.labels.rows import Status
from pipeline.sam.worker import SamChoice
from pipeline.structure import distill_work as job
from pipeline.structure.settings import DistillSettings
from pipeline.structure.target_store import StructureStore
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.loading import load_experiment
from stages.context import TARGETS
from stages.options import workspace
from stages.runner import run_stage
from tests.tiny_coco import tiny_coco
from tests.tiny_experiment import make_experiment_files

# Shards are of 16 images.
SETTINGS = {"distill": {"anchors": 16}}
SMALL = "sam.input_side=64"  # where it does not matter what the maps are


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))


def experiment_on(folder: Path, images: int) -> Path:
    """An experiment on so many labelled images, all of its COCO file."""
    tiny_coco(folder, images=images)
    (folder / "unlabelled").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "unlabelled" / "1.png")
    data = {
        "labelled": {"annotations": "annotations.json", "images": "images"},
        "unlabelled": {"images": "unlabelled"},
    }
    return make_experiment_files(folder, {"data": data, **SETTINGS})


def distill(path: Path, *overrides: str) -> StructureStore:
    experiment = load_experiment(path, overrides)
    for stage in ("split", "distill"):
        run_stage(experiment, stage, 1)
    return opened(experiment)


def opened(experiment: Experiment) -> StructureStore:
    return StructureStore.open(workspace(experiment).result("distill") / TARGETS)


@pytest.mark.slow
def test_every_labelled_image_has_its_maps(tmp_path):
    store = distill(experiment_on(tmp_path, images=3))
    assert store.image_ids == (1, 2, 3)
    assert store.attributes.provenance["fingerprint"]["stage"] == "distill"
    for image_id in store.image_ids:
        targets = store.by_id(image_id)
        assert (targets.status, targets.file_name) == (Status.OK, f"{image_id:04}.png")
        assert (targets.width, targets.height) == (64, 48)
        assert targets.anchors_xy.shape == (16, 2)
        # The position nearest to an anchor is much like it: 255 is the anchor itself.
        columns, rows = (targets.anchors_xy / (64, 48) * 64).astype(int).T
        assert targets.maps[np.arange(16), rows, columns].min() > 200
    assert [entry.name for entry in store.path.parent.iterdir() if entry.is_dir()] == [TARGETS]


@pytest.mark.slow
def test_of_a_divided_set_the_labelled_part_has_targets(tmp_path):
    path = make_experiment_files(tmp_path, SETTINGS)
    store = distill(path)
    split = workspace(load_experiment(path)).result("split")
    listed = json.loads((split / "labelled.json").read_text())["images"]
    assert list(store.image_ids) == [image["id"] for image in listed]
    assert len(store) == 3


def test_a_bad_image_is_a_row(tmp_path, capsys):
    path = experiment_on(tmp_path, images=3)
    (tmp_path / "images" / "0002.png").write_bytes(b"")
    store = distill(path)
    bad = store.by_id(2)
    assert (bad.status, bad.message, bad.file_name) == (Status.FAILED, "the file is empty", "0002.png")
    assert np.isnan(bad.anchors_xy).all()
    assert [store.by_id(image_id).status for image_id in (1, 3)] == [Status.OK, Status.OK]
    told = capsys.readouterr()
    assert "0002.png: the file is empty" in told.err
    assert "failed 1" in told.out


@pytest.mark.slow
def test_images_without_instances_and_with_crowds_only_have_anchors_anywhere(tmp_path):
    path = experiment_on(tmp_path, images=2)
    content = json.loads((tmp_path / "annotations.json").read_text())
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] == 2]
    for each in content["annotations"]:
        each["iscrowd"] = 1
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    store = distill(path, "distill.inside_share=1.0", "distill.anchors=64")
    for image_id in (1, 2):
        anchors_xy = store.by_id(image_id).anchors_xy
        quarters = {tuple(quarter) for quarter in (anchors_xy > (32, 24)).tolist()}
        assert len(quarters) == 4


@pytest.mark.slow
def test_workers_do_not_change_the_result(tmp_path, monkeypatch, forked_workers):
    path = experiment_on(tmp_path, images=18)
    digests = set()
    for workers in (1, 2):
        monkeypatch.setenv("S4M_STORE", str(tmp_path / f"stores{workers}"))
        digests.add(distill(path, SMALL, f"compute.workers={workers}").attributes.digest)
    assert len(digests) == 1


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    path = experiment_on(tmp_path, images=18)
    undisturbed = distill(path, SMALL).attributes.digest
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "other"))
    original, written = job.write_shard, []

    def write_one_shard(folder, index, rows):
        if written:
            raise KeyboardInterrupt
        written.append(original(folder, index, rows))
        return written[0]

    monkeypatch.setattr(job, "write_shard", write_one_shard)
    with pytest.raises(SystemExit):
        distill(path, SMALL)
    before = written[0].stat().st_mtime_ns
    made: list[int] = []

    def write_and_note(folder, index, rows):
        assert written[0].stat().st_mtime_ns == before
        made.append(index)
        return original(folder, index, rows)

    monkeypatch.setattr(job, "write_shard", write_and_note)
    assert distill(path, SMALL).attributes.digest == undisturbed
    assert made == [1]


@pytest.mark.slow
def test_other_seeds_give_other_targets_and_the_same_are_shared(tmp_path):
    path = experiment_on(tmp_path, images=3)
    store = distill(path)
    assert distill(path, "name=other", "compute.batch_images=1").path == store.path
    assert distill(path, "distill.seed=1").attributes.digest != store.attributes.digest


def test_an_image_that_kills_its_workers_is_a_row(tmp_path):
    files = tiny_coco(tmp_path, images=1)
    sam = SamChoice("sam_tiny", None, "cpu", "fp32", 8)
    settings = DistillSettings(anchors=2)
    work = job.DistillWork(files.annotations, files.image_root, tmp_path / "shards", sam, settings)
    row = work.given_up(1, "its worker died")
    assert (row.status, row.message, row.file_name) == (Status.FAILED, "its worker died", "0001.png")
    assert work.publish(Shard(0, (1,)), [row]).failures == {"0001.png": "its worker died"}
