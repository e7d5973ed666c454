"""The stage `augment`, whole: images and labels that fit, the same however they came about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.augment.augment_work import AugmentWork
from pipeline.augment.making import augment_store
from pipeline.augment.settings import AugmentSettings
from pipeline.augment.sources import CompositeSources, LabelledFolder
from pipeline.compute.execution import Execution
from pipeline.compute.settings import ComputeSettings
from pipeline.compute.shards import Shard
from pipeline.errors import StageError
from pipeline.files.images import read_image
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, Status
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import LABELS
from stages.options import workspace
from stages.runner import run_stage
from tests.test_augment_composite import BASE_GREY, picture, random_masks
from tests.test_refine_stage import result
from tests.tiny_coco import write_json
from tests.tiny_experiment import make_experiment_files
from tests.tiny_labels import tiny_store

ONE, TWO = ComputeSettings(workers=1), ComputeSettings(workers=2)
ANY_MAY_FAIL = ComputeSettings(failed_share=1)


def refined(folder: Path, images: int, odd: dict[int, bytes | None] | None = None) -> LabelledFolder:
    """Images with an instance a colour, and their refined labels; `odd` files hold something else, or are missing."""
    rows = []
    (folder / "images").mkdir(parents=True)
    for image_id in range(1, images + 1):
        masks = random_masks(np.random.default_rng(image_id), (40, 60), 3)
        made = picture(masks, 20 + 3 * image_id % 220, BASE_GREY)
        file_name = f"{image_id}.png"
        rows.append(ImageLabels.of_instances(image_id, file_name, 60, 40, made.labels.instances))
        content = (odd or {}).get(image_id, b"?")
        if content == b"?":
            Image.fromarray(made.image_rgb).save(folder / "images" / file_name, compress_level=1)
        elif content is not None:
            (folder / "images" / file_name).write_bytes(content)
    tiny_store(folder / "refined.zarr", rows)
    return LabelledFolder.of(folder / "refined.zarr", folder / "images")


def sources(folder: LabelledFolder, labelled: LabelledFolder | None = None, **settings) -> CompositeSources:
    return CompositeSources(folder, labelled, AugmentSettings(**settings))


def augmented(made_of: CompositeSources, folder: Path, compute: ComputeSettings = ONE) -> LabelStore:
    folder.mkdir(parents=True, exist_ok=True)
    augment_store(made_of, folder, folder / LABELS, {}, Execution(compute))
    return LabelStore.open(folder / LABELS)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_label_has_its_image_and_says_what_is_in_it(tmp_path):
    store = augmented(sources(refined(tmp_path, 40), copies=2), tmp_path / "out")
    rows = list(store)
    assert len(rows) == 80
    assert rows[0].file_name == f"images/000000/{rows[0].image_id}.png"
    assert rows[-1].file_name == f"images/000002/{rows[-1].image_id}.png"
    assert not {row.image_id for row in rows} & set(range(1, 41))
    for row in rows:
        image = read_image(tmp_path / "out" / row.file_name, (row.width, row.height))
        for instance in row.instances:
            shown = (image == instance.category_id).all(axis=2)
            assert shown[row.mask(instance)].all()
    assert sum(len(row.instances) for row in rows) > 200
    assert {name.split("/")[0] for name in files(tmp_path / "out")} == {"images", LABELS}


def test_composites_of_the_stage_are_those_made_on_the_fly(tmp_path):
    made_of = sources(refined(tmp_path, 6), placement="moved", edge_blend_px=2.0)
    store = augmented(made_of, tmp_path / "out")
    for pair, row in zip(made_of.pairs, store, strict=True):
        made = made_of.compose(pair, made_of.reader())
        assert (made.labels.image_id, made.labels.instances) == (row.image_id, row.instances)
        assert np.array_equal(made.image_rgb, read_image(tmp_path / "out" / row.file_name))


@pytest.mark.slow
def test_workers_do_not_change_the_result(tmp_path, forked_workers):
    made_of = sources(refined(tmp_path, 70), placement="moved")
    augmented(made_of, tmp_path / "one")
    augmented(made_of, tmp_path / "two", TWO)
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_stopped_and_leaves_nothing_behind(tmp_path, monkeypatch):
    made_of = sources(refined(tmp_path, 100))
    undisturbed = augmented(made_of, tmp_path / "undisturbed").attributes.digest
    out = tmp_path / "out"
    publish = AugmentWork.publish
    done: list[int] = []

    def publish_two(self: AugmentWork, shard: Shard, rows: list[ImageLabels]) -> object:
        if len(done) == 2:
            raise KeyboardInterrupt  # the images of the third are there, its labels are not
        done.append(shard.index)
        return publish(self, shard, rows)

    monkeypatch.setattr(AugmentWork, "publish", publish_two)
    with pytest.raises(KeyboardInterrupt):
        augmented(made_of, out)
    monkeypatch.setattr(AugmentWork, "publish", publish)
    first = sorted((out / "images/000000").iterdir())
    written = {path: path.stat().st_mtime_ns for path in first}
    (out / "images/000001/.12.png.elsewhere.1.1").write_bytes(b"half a file")
    (out / "images/000002/99999.png").write_bytes(b"of an image that was given up")
    store = augmented(made_of, out)
    assert done == [0, 1]
    assert store.attributes.digest == undisturbed
    assert {path: path.stat().st_mtime_ns for path in first} == written
    assert files(out) == files(tmp_path / "undisturbed")


def test_a_run_that_ends_between_sealing_and_tidying_is_tidied_by_the_next(tmp_path):
    made_of = sources(refined(tmp_path, 4))
    store = augmented(made_of, tmp_path / "out")
    before = files(tmp_path / "out")
    (tmp_path / "out/shards").mkdir()
    (tmp_path / "out/images/000000/.1.png.elsewhere.1.1").touch()
    for path in made_of.refined.images.root.iterdir():  # nothing is made again
        path.unlink()
    assert augmented(made_of, tmp_path / "out").attributes.digest == store.attributes.digest
    assert files(tmp_path / "out") == before


def test_composites_of_images_that_cannot_be_read_are_failed_rows(tmp_path):
    made_of = sources(refined(tmp_path, 8, {3: b"", 5: None, 6: b"\x89PNG\r\n\x1a\nand no more"}))
    store = augmented(made_of, tmp_path / "out", ANY_MAY_FAIL)
    for pair, row in zip(made_of.pairs, store, strict=True):
        unreadable = {3, 5, 6} & {pair.base_id, pair.donor.image_id}
        assert (row.status is Status.FAILED) == bool(unreadable)
        assert (tmp_path / "out" / row.file_name).exists() != bool(unreadable)
        if unreadable:
            assert row.message.split(":")[0] in {f"{image_id}.png" for image_id in unreadable}
    assert store.attributes.statuses["failed"] >= 4
    work = AugmentWork(made_of, tmp_path / "out", tmp_path / "shards")
    given_up = work.given_up(store[0].image_id, "its worker died")
    assert (given_up.image_id, given_up.file_name) == (store[0].image_id, store[0].file_name)
    assert (given_up.status, given_up.message) == (Status.FAILED, "its worker died")


def test_where_nothing_may_be_pasted_the_settings_are_named(tmp_path):
    made_of = sources(refined(tmp_path, 3), decisions=("teacher",), min_score=0.5)
    assert "may be pasted, composites equal their images: augment.decisions is ['teacher']" in (
        made_of.nothing_to_paste()
    )
    assert all(
        len(row.instances) == len(made_of.refined_store.by_id(pair.base_id).instances)
        for pair, row in zip(made_of.pairs, augmented(made_of, tmp_path / "out"), strict=True)
    )


def test_images_of_a_name_that_leaves_the_folder_are_not_read(tmp_path):
    rows = [
        ImageLabels.of_instances(
            number, f"../secret{number}.png", 60, 40, picture([np.ones((40, 60), bool)], 9, 0).labels.instances
        )
        for number in (1, 2)
    ]
    tiny_store(tmp_path / "refined.zarr", rows)
    for number in (1, 2):
        Image.new("RGB", (60, 40)).save(tmp_path / f"secret{number}.png")
    (tmp_path / "images").mkdir()
    made_of = sources(LabelledFolder.of(tmp_path / "refined.zarr", tmp_path / "images"))
    store = augmented(made_of, tmp_path / "out", ANY_MAY_FAIL)
    assert [row.status for row in store] == [Status.FAILED] * 2


@pytest.fixture
def experiment_file(tmp_path, monkeypatch) -> Path:
    """An experiment on six images, half of them labelled, with somebody's detections on all."""
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    detections = tmp_path / "results.json"
    mask = np.zeros((48, 64), dtype=bool)
    mask[5:30, 5:40] = True
    write_json(detections, [result(image_id, mask) for image_id in range(1, 7)])
    settings = {
        "student": {"start": "scratch"},
        "predict": {"results": "results.json"},
        "refine": {"gate": "none"},
    }
    return make_experiment_files(tmp_path, settings)


@pytest.mark.slow
@pytest.mark.parametrize("partners", ["unlabelled", "labelled-too"])
def test_the_stage_in_an_experiment(experiment_file, partners):
    experiment = load_experiment(experiment_file, [f"augment.partners={partners}", "augment.copies=4"])
    for stage in ("split", "predict", "refine", "augment"):
        run_stage(experiment, stage, 1)
    folder = workspace(experiment).result("augment")
    store = LabelStore.open(folder / LABELS)
    assert len(store) == 12
    decisions = {each.decision for row in store for each in row.instances}
    assert decisions == ({Decision.SAM} if partners == "unlabelled" else {Decision.SAM, Decision.TEACHER})
    assert {path.name for path in folder.iterdir()} >= {"images", LABELS}
    assert not [path for path in folder.iterdir() if path.name in ("shards", "labelled.zarr")]
    assert store.attributes.provenance["fingerprint"]["stage"] == "augment"


@pytest.mark.slow
def test_a_preview_shows_composites_before_they_are_made(experiment_file, tmp_path):
    from stages.experiment_commands import preview

    for stage in ("split", "predict"):
        run_stage(load_experiment(experiment_file), stage, 1)
    sheet = tmp_path / "sheet.png"
    with pytest.raises(StageError, match="the preview needs refine first: make refine"):
        preview(str(experiment_file), sheet, 2)
    run_stage(load_experiment(experiment_file), "refine", 1)
    heights = []
    for count in (1, 2, 50):
        preview(str(experiment_file), sheet, count)
        heights.append(read_image(sheet).shape[0])
    assert heights == [heights[0], 2 * heights[0], 3 * heights[0]]
    sheet.unlink()
    preview(str(experiment_file), sheet, 2, overrides=["augment.partners=labelled-too", "augment.placement=moved"])
    assert sheet.is_file()
