"""The stage `distill`, whole, with the shipped SAM."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.reading import read_coco
from pipeline.compute.shards import Shard
from pipeline.labels.rows import Status
from pipeline.masks.windows import Window
from pipeline.sam.worker import SamChoice
from pipeline.structure import distill_work as job
from pipeline.structure import distilling, measuring
from pipeline.structure.anchors import sample_anchors
from pipeline.structure.maps import truth_maps
from pipeline.structure.separation import HALF, pooled, separation
from pipeline.structure.settings import DistillSettings
from pipeline.structure.target_columns import MAP_SIDE, ImageTargets
from pipeline.structure.target_store import StructureStore
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import TARGETS
from stages.options import workspace
from stages.runner import run_stage
from tests.tiny_coco import tiny_coco
from tests.tiny_experiment import make_experiment_files

SETTINGS = {"distill": {"anchors": 16}}
SMALL = "sam.input_side=64"  # where it does not matter what the maps are


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))


@pytest.fixture
def shards_of_2_images(monkeypatch):
    monkeypatch.setattr(distilling, "ANCHORS_PER_SHARD", 2 * SETTINGS["distill"]["anchors"])


def experiment_on(folder: Path, images: int, size: tuple[int, int] = (64, 48)) -> Path:
    """An experiment on so many labelled images, all of its COCO file."""
    tiny_coco(folder, images=images, size=size)
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
def test_every_labelled_image_has_its_maps(tmp_path, capsys):
    store = distill(experiment_on(tmp_path, images=3))
    assert store.ids.tolist() == [1, 2, 3]
    assert store.attributes.provenance["fingerprint"]["stage"] == "distill"
    for image_id in store.ids.tolist():
        targets = store.by_id(image_id)
        assert (targets.status, targets.file_name) == (Status.OK, f"{image_id:04}.png")
        assert (targets.width, targets.height) == (64, 48)
        assert targets.anchors_xy.shape == (16, 2)
        assert (targets.windows_xyxy == (0, 0, 64, 48)).all()
        # The position nearest to an anchor is much like it: 255 is the anchor itself.
        columns, rows = (targets.anchors_xy / (64, 48) * 64).astype(int).T
        assert targets.maps[np.arange(16), rows, columns].min() > 200
    assert [entry.name for entry in store.path.parent.iterdir() if entry.is_dir()] == [TARGETS]
    told = capsys.readouterr().out
    assert re.search(
        r"images: 3, anchors: 48, area under curve: 0\.\d+, area under curve without prompts: 0\.\d+\n", told
    )


def overlap(targets: ImageTargets, masks: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """For every anchor and mask of an image: whether the anchor lies in it."""
    columns, rows = targets.anchors_xy.astype(int).T
    return np.stack([mask[rows, columns] for mask in masks], axis=1)


def test_truth_says_where_the_anchors_own_instance_is_and_needs_no_sam(tmp_path, monkeypatch, capsys):
    for module in (job, measuring):
        monkeypatch.setattr(module, "build_engine", lambda *_: pytest.fail("built a SAM"))
    path = experiment_on(tmp_path, images=1)
    masks = list(read_masks(tmp_path / "annotations.json").values())
    targets = distill(path, "distill.source=truth", "distill.anchors=64").by_id(1)
    cells = [int((row + 0.5) * 48 / 64) for row in range(64)]
    within = overlap(targets, masks)
    assert 32 <= within.any(axis=1).sum() < 64
    for map_, owners in zip(targets.maps, within, strict=True):
        own = masks[int(owners.argmax())] if owners.any() else ~np.any(masks, axis=0)
        # Cells are a pixel wide and three quarters of one high: those whose centre is inside are more than half inside.
        np.testing.assert_array_equal(map_ >= HALF, own[cells])
    assert "anchors: 64, area under curve: 1.0\n" in capsys.readouterr().out  # the truth tells instances apart


def read_masks(annotations: Path) -> dict[int, NDArray[np.bool_]]:
    dataset = read_coco(annotations)
    return {each.id: dataset.mask(each) for each in dataset.annotations}


@pytest.mark.slow
def test_how_well_targets_tell_instances_apart_is_measured_by_the_labels(tmp_path):
    path = experiment_on(tmp_path, images=2)
    # Tiles of 32 px: every image has several.
    overrides = ("distill.anchors=40", "distill.cell_px=1.0", "sam.input_side=64")
    store = distill(path, *overrides)
    dataset = read_coco(tmp_path / "annotations.json")
    settings = load_experiment(path, overrides).distill
    sam = SamChoice("sam_tiny", None, "cpu", "fp32", 8, input_side=64)
    work = job.DistillWork(
        tmp_path / "annotations.json", ImageFolder(tmp_path / "images"), tmp_path / "shards", sam, settings
    )
    parts = []
    for image_id in (1, 2):
        targets = store.by_id(image_id)
        instances = [dataset.rle(each) for each in dataset.instances(image_id)]
        anchors = sample_anchors(image_id, (48, 64), instances, settings)
        for index in np.flatnonzero(anchors.instance >= 0):
            tile = Window(*targets.windows_xyxy[index].tolist())
            truth = truth_maps(tile, anchors.within(np.array([index]), tile), instances, MAP_SIDE)
            parts.append(separation(targets.maps[[index]], truth))
    told: list[tuple[int, int]] = []
    found, embedding = measuring.measure_targets(work, store, lambda done, images: told.append((done, images)))
    expected = pooled(parts)
    assert expected is not None
    assert found is not None
    assert (found.anchors, found.area_under_curve) == (expected.anchors, pytest.approx(expected.area_under_curve))
    assert embedding is not None
    assert embedding.anchors == found.anchors
    assert told == [(0, 2), (1, 2), (2, 2)]
    assert embedding.area_under_curve != found.area_under_curve


@pytest.mark.slow
def test_a_box_prompt_changes_the_maps_of_anchors_in_instances_alone(tmp_path):
    path = experiment_on(tmp_path, images=1)
    masks = list(read_masks(tmp_path / "annotations.json").values())
    point, both = (distill(path, f"distill.prompt={prompt}").by_id(1) for prompt in ("point", "point-and-box"))
    np.testing.assert_array_equal(point.anchors_xy, both.anchors_xy)
    inside = overlap(point, masks).any(axis=1)
    assert 8 <= inside.sum() < 16
    changes = np.abs(point.maps.astype(int) - both.maps).max(axis=(1, 2))
    assert (changes[inside] > 2).all()
    assert (changes[~inside] <= 1).all()


def test_each_instance_may_have_as_many_anchors(tmp_path):
    path = experiment_on(tmp_path, images=2)
    masks = read_masks(tmp_path / "annotations.json")
    store = distill(path, "distill.inside=by-instance", "distill.inside_share=1", "distill.anchors=15")
    for image_id in (1, 2):
        within = overlap(store.by_id(image_id), [masks[3 * image_id - number] for number in (2, 1, 0)])
        assert within.any(axis=1).all()
        assert within.sum(axis=0).min() >= 5


@pytest.mark.slow
def test_large_images_are_distilled_in_tiles(tmp_path):
    path = experiment_on(tmp_path, images=1, size=(150, 90))
    whole, tiled = distill(path).by_id(1), distill(path, "distill.cell_px=1").by_id(1)
    np.testing.assert_array_equal(tiled.anchors_xy, whole.anchors_xy)
    assert (whole.windows_xyxy == (0, 0, 150, 90)).all()
    low, high = tiled.windows_xyxy[:, :2], tiled.windows_xyxy[:, 2:]
    assert (high - low == 64).all()
    assert ((tiled.anchors_xy > low) & (tiled.anchors_xy < high)).all()
    assert len(np.unique(tiled.windows_xyxy, axis=0)) > 3
    columns, rows = (tiled.anchors_xy - low).astype(int).T
    assert tiled.maps[np.arange(16), rows, columns].min() > 200


def test_a_shard_has_about_1024_anchors(tmp_path, monkeypatch):
    made: dict[int, int] = {}
    original = job.write_target_shard

    def write_and_note(folder, index, rows):
        made[index] = len(rows)
        return original(folder, index, rows)

    monkeypatch.setattr(job, "write_target_shard", write_and_note)
    store = distill(experiment_on(tmp_path, images=6), "distill.source=truth", "distill.anchors=256")
    assert made == {0: 4, 1: 2}
    assert store.attributes.anchors == 6 * 256


@pytest.mark.slow
def test_of_a_divided_set_the_labelled_part_has_targets(tmp_path):
    path = make_experiment_files(tmp_path, SETTINGS)
    store = distill(path)
    split = workspace(load_experiment(path)).result("split")
    listed = json.loads((split / "labelled.json").read_text())["images"]
    assert store.ids.tolist() == [image["id"] for image in listed]
    assert len(store) == 3


def test_a_bad_image_is_a_row(tmp_path, capsys):
    path = experiment_on(tmp_path, images=3)
    (tmp_path / "images" / "0002.png").write_bytes(b"")
    store = distill(path)
    bad = store.by_id(2)
    assert (bad.status, bad.message, bad.file_name) == (Status.FAILED, "the file is empty", "0002.png")
    assert (len(bad.anchors_xy), len(bad.windows_xyxy), len(bad.maps)) == (0, 0, 0)
    assert [store.by_id(image_id).status for image_id in (1, 3)] == [Status.OK, Status.OK]
    told = capsys.readouterr()
    assert "0002.png: the file is empty" in told.err
    assert "failed: 1, area under curve" in told.out


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
def test_workers_do_not_change_the_result(tmp_path, monkeypatch, forked_workers, shards_of_2_images):
    path = experiment_on(tmp_path, images=5)
    digests = set()
    for workers in (1, 2):
        monkeypatch.setenv("S4M_STORE", str(tmp_path / f"stores{workers}"))
        digests.add(distill(path, SMALL, f"compute.workers={workers}").attributes.digest)
    assert len(digests) == 1


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch, shards_of_2_images):
    path = experiment_on(tmp_path, images=4)
    undisturbed = distill(path, SMALL).attributes.digest
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "other"))
    original, written = job.write_target_shard, []

    def write_one_shard(folder, index, rows):
        if written:
            raise KeyboardInterrupt
        written.append(original(folder, index, rows))
        return written[0]

    monkeypatch.setattr(job, "write_target_shard", write_one_shard)
    with pytest.raises(SystemExit):
        distill(path, SMALL)
    before = written[0].stat().st_mtime_ns
    made: list[int] = []

    def write_and_note(folder, index, rows):
        assert written[0].stat().st_mtime_ns == before
        made.append(index)
        return original(folder, index, rows)

    monkeypatch.setattr(job, "write_target_shard", write_and_note)
    assert distill(path, SMALL).attributes.digest == undisturbed
    assert made == [1]


@pytest.mark.slow
def test_other_seeds_give_other_targets_and_the_same_are_shared(tmp_path):
    path = experiment_on(tmp_path, images=3)
    store = distill(path)
    assert distill(path, "name=other", "compute.batch_images=1").path == store.path
    others = ["distill.seed=1", "distill.source=truth", "distill.prompt=point-and-box", "distill.inside=by-instance"]
    digests = {distill(path, other).attributes.digest for other in others}
    assert len(digests | {store.attributes.digest}) == 5


def test_an_image_that_kills_its_workers_is_a_row(tmp_path):
    files = tiny_coco(tmp_path, images=1)
    sam = SamChoice("sam_tiny", None, "cpu", "fp32", 8)
    settings = DistillSettings(anchors=2)
    work = job.DistillWork(files.annotations, ImageFolder(files.image_root), tmp_path / "shards", sam, settings)
    row = work.given_up(1, "its worker died")
    assert (row.status, row.message, row.file_name) == (Status.FAILED, "its worker died", "0001.png")
    assert work.publish(Shard(0, (1,)), [row]).failures == {"0001.png": "its worker died"}
