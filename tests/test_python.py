"""The package for Python: light to import, arrays in and out, results found by name, mistakes told."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import s4m
from pipeline.errors import ArrayError, ExperimentError, ImageError, StageError
from pipeline.labels.rows import Decision, Status
from pipeline.masks.overlap import rle_iou
from pipeline.masks.run_lengths import encode_mask
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.settings import SamSettings
from pipeline.workflow.workspace import Workspace
from stages import runner
from tests.tiny_detectors import publish_tiny
from tests.tiny_experiment import make_experiment_files, tiny_experiment
from tests.tiny_labels import tiny_row, tiny_store
from tests.tiny_results import make_results

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def image() -> np.ndarray:
    """A light disk and a light bar on dark ground."""
    pixels = np.full((HEIGHT, WIDTH, 3), 40, dtype=np.uint8)
    pixels[disk()] = (230, 200, 60)
    pixels[30:40, 34:60] = (90, 200, 240)
    return pixels


def disk(radius: float = 10.0) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - 18) ** 2 + (columns - 20) ** 2 <= radius**2


def coarse() -> np.ndarray:
    """The disk as a square, and the bar too large."""
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    masks[0, 8:29, 10:31] = masks[1, 28:43, 31:63] = True
    return masks


@pytest.mark.slow
def test_importing_it_loads_nothing_heavy_and_it_names_what_it_has():
    program = (
        "import sys, s4m; print({'torch', 'mmdet', 'numpy', 'zarr', 'dask', 'pydantic'} & set(sys.modules));"
        "print([name for name in s4m.__all__ if not callable(getattr(s4m, name))]);"
        "print(sorted(s4m.__all__) == dir(s4m), {'torch', 'mmdet', 'dask'} & set(sys.modules) - {'torch'})"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["set()", "[]", "True set()"]


def test_an_unknown_name_is_told():
    with pytest.raises(AttributeError, match="module 's4m' has no attribute 'rifine'"):
        s4m.rifine  # noqa: B018


@pytest.mark.slow
def test_masks_become_what_the_image_shows(image):
    refined = s4m.refine(image, coarse(), preset=RefineSettings(gate="none"))
    assert refined.masks.dtype == bool
    assert refined.masks.shape == (2, HEIGHT, WIDTH)
    truth = encode_mask(disk())
    before, after = (rle_iou(encode_mask(masks[0]), truth) for masks in (coarse(), refined.masks))
    assert after > before
    assert refined.decisions == ("sam", "sam")
    assert refined.names == ("object", "object")
    assert np.isfinite(refined.agreements).all()
    assert np.isfinite(refined.predicted_ious).all()
    x0, y0, x1, y1 = refined.boxes_xyxy[0]
    rows, columns = refined.masks[0].nonzero()
    assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.slow
def test_a_box_is_enough(image):
    boxes = [[10, 8, 31, 29], [34, 30, 60, 40]]
    refined = s4m.refine(image, boxes=boxes)
    filled = s4m.Instances.of_boxes(image, boxes)
    assert [mask.sum() for mask in filled.masks] == [21 * 21, 26 * 10]
    assert rle_iou(encode_mask(refined.masks[0]), encode_mask(disk())) > 0.85  # of the box itself: 0.72
    assert refined.decisions == ("sam", "sam")


@pytest.mark.slow
def test_a_soft_mask_says_more_than_a_mask(image, tmp_path):
    Image.fromarray(image).save(tmp_path / "photo.png")
    soft = np.where(coarse(), 0.6, 0.2).astype(np.float64)
    soft[0][disk(8)] = 0.95
    as_soft, as_masks = (s4m.refine(tmp_path / "photo.png", masks) for masks in (soft, coarse()))
    assert as_soft.agreements.tolist() != as_masks.agreements.tolist()
    given = s4m.Instances.of_masks(image, soft)
    assert np.array_equal(given.masks, coarse())
    assert np.abs(given.soft_masks - soft).max() < 0.5  # the grid is coarse, and ends beside the mask
    assert np.abs(given.soft_masks[0][disk(6)] - 0.95).max() < 0.02


def test_every_form_of_masks_is_the_same(image):
    masks = coarse()
    labels = masks[0].astype(np.int32) * 5 + masks[1] * 9
    forms = [masks, list(masks), masks.astype(np.uint8), masks.astype(np.float32), labels]
    for form in forms:
        assert np.array_equal(s4m.Instances.of_masks(image, form).masks, masks)
    assert np.array_equal(s4m.Instances.of_masks(image, masks[0]).masks, masks[:1])
    assert np.array_equal(s4m.Instances.of_masks(image[..., 0], masks).image_rgb[..., 2], image[..., 0])
    for nothing in ([], np.zeros((0, HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), int)):
        empty = s4m.Instances.of_masks(image, nothing)
        assert empty.masks.shape == empty.soft_masks.shape == (0, HEIGHT, WIDTH)
        assert (len(empty), empty.boxes_xyxy.shape, empty.scores.shape) == (0, (0, 4), (0,))


@pytest.mark.slow
def test_masks_without_a_pixel_keep_their_place(image):
    masks = np.stack([coarse()[0], np.zeros((HEIGHT, WIDTH), bool), coarse()[1]])
    refined = s4m.refine(image, masks)
    assert refined.decisions[1] == "dropped"
    assert [bool(mask.any()) for mask in refined.masks] == [True, False, True]
    assert np.isnan(refined.agreements).tolist() == [False, True, False]
    assert s4m.refine(image, []).masks.shape == (0, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((2, 5, 5), bool), r"masks: given bool of shape \(2, 5, 5\); expected bool or numbers of shape"),
        (np.zeros(7), r"masks: given float64 of shape \(7,\)"),
        (np.zeros((1, 1, HEIGHT, WIDTH)), "masks: given float64 of shape"),
        (np.full((HEIGHT, WIDTH), 1.5), "masks: numbers must be probabilities from 0 to 1, given 1.5 to 1.5"),
        (np.full((1, HEIGHT, WIDTH), np.nan), "masks: numbers must be probabilities"),
        (np.full((2, HEIGHT, WIDTH), 7), "several integer masks have values of 0 and 1 alone; given up to 7"),
        (np.full((1, HEIGHT, WIDTH), "x"), "masks: given <U1"),
    ],
)
def test_masks_that_cannot_be_used_are_told(image, masks, message):
    with pytest.raises(ArrayError, match=message):
        s4m.refine(image, masks)


@pytest.mark.parametrize(
    "given", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), np.zeros(3, np.uint8)]
)
def test_an_image_that_cannot_be_used_is_told(given):
    with pytest.raises(ArrayError, match=r"image: given .* expected uint8 of shape \(height, width, 3\), RGB"):
        s4m.Instances.of_masks(given, [])


def test_other_mistakes_are_told(image, tmp_path):
    with pytest.raises(ArrayError, match="give either masks or boxes"):
        s4m.refine(image)
    with pytest.raises(ArrayError, match="give either masks or boxes"):
        s4m.refine(image, coarse(), boxes=[[0, 0, 4, 4]])
    with pytest.raises(ArrayError, match="leave preset out"):
        s4m.refine(image, boxes=[[0, 0, 4, 4]], preset="best")
    with pytest.raises(ArrayError, match=r"boxes: given float64 of shape \(1, 3\)"):
        s4m.refine(image, boxes=[[0, 0, 4]])
    with pytest.raises(ArrayError, match=r"box 1 is \[70.0, 0.0, 90.0, 9.0\]: no pixel of the 64x48 image lies in it"):
        s4m.refine(image, boxes=[[0, 0, 4, 4], [70, 0, 90, 9]])
    with pytest.raises(ImageError, match="no such file"):
        s4m.refine(tmp_path / "none.png", coarse())
    with pytest.raises(StageError, match=r"refine.gate is 'teacher'"):
        s4m.refine(image, coarse(), preset=RefineSettings(gate="teacher"))
    with pytest.raises(s4m.S4MError, match="no weights for vit_b"):
        s4m.refine(image, coarse(), sam=SamSettings(model="vit_b", checkpoint=tmp_path / "none.pth"))
    with pytest.raises(ArrayError, match="nothing to draw"):
        s4m.draw({})


def test_a_notebook_shows_instances_stores_and_reports(image, tmp_path):
    given = s4m.Instances.of_masks(image, coarse())
    picture = Image.open(io.BytesIO(given._repr_jpeg_()))
    assert (picture.format, picture.width > 600) == ("JPEG", True)
    both = s4m.draw({"one": given, "two": given})
    assert both.image_rgb.shape[1] > 1.9 * picture.width
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(both._repr_jpeg_()))).shape, both.image_rgb.shape)
    assert repr(given) == "Instances(2 in 64x48 pixels)"
    store = tiny_store(tmp_path / "labels.zarr", [tiny_row(7)])
    html = store._repr_html_()
    assert html.startswith("<table>")
    assert f"Label store {tmp_path}/labels.zarr" in html
    assert ">instances</td>" in html
    (tmp_path / "page.html").write_text('<p class="a">x</p>')
    report = s4m.Report(tmp_path / "page.html")
    assert 'srcdoc="&lt;p class=&quot;a&quot;&gt;x&lt;/p&gt;"' in report._repr_html_()


def test_a_store_and_its_images_are_instances(image, tmp_path):
    row = tiny_row(17)
    store = tiny_store(tmp_path / "labels.zarr", [row, tiny_row(24)])
    (tmp_path / "folder").mkdir()
    Image.fromarray(np.zeros((row.height, row.width, 3), np.uint8)).save(tmp_path / row.file_name)
    opened = s4m.open_labels(tmp_path / "labels.zarr")
    assert opened.attributes.digest == store.attributes.digest
    instances = s4m.Instances.of_store(opened, 17, tmp_path)
    assert np.array_equal(instances.masks, [row.mask(each) for each in row.instances])
    assert instances.category_ids.tolist() == [each.category_id for each in row.instances]
    assert instances.image_rgb.shape == (row.height, row.width, 3)
    assert s4m.Instances.of_store(opened, 24, tmp_path).problem == tiny_row(24).message
    with pytest.raises(s4m.S4MError, match="there is no image with the id 8"):
        s4m.Instances.of_store(opened, 8, tmp_path)


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Path:
    return publish_tiny(tmp_path_factory.mktemp("models") / "student", "mask_rcnn")


@pytest.mark.slow
def test_a_detector_predicts_what_annotate_writes(detector, image, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(image).save(tmp_path / "photos/b.png")
    (tmp_path / "photos/a.png").write_bytes(b"")
    loaded = s4m.load_detector(detector, device="cpu")
    assert [category.name for category in loaded.categories] == ["three", "seven"]
    paths = [tmp_path / "photos/a.png", tmp_path / "photos/b.png"]
    bad, found, same = loaded.predict([*paths, image], score=0.2, max_instances=4)
    assert (bad.problem, len(bad), found.problem) == ("the file is empty", 0, "")
    assert bad.labels.status is Status.FAILED
    assert bad.masks.shape == (0, 0, 0)
    assert s4m.draw({"bad": bad}).image_rgb.shape[1] > 100
    assert repr(bad) == "Instances(problem: the file is empty)"
    assert 0 < len(found) <= 4
    assert (found.scores >= 0.2).all()
    assert sorted(found.scores, reverse=True) == found.scores.tolist()
    assert set(found.names) <= {"three", "seven"}
    assert np.array_equal(found.masks, same.masks)
    done = s4m.annotate(
        detector,
        tmp_path / "photos",
        tmp_path / "out.zarr",
        score=0.2,
        settings=["predict.max_instances=4", "compute.failed_share=1"],
    )
    assert done.failures == {"a.png": "the file is empty"}
    row = s4m.open_labels(tmp_path / "out.zarr").by_name("b.png")
    assert row.instances == found.labels.instances
    refined = s4m.refine(image, found, preset="s4m")
    assert [each.category_id for each in refined.labels.instances] == found.category_ids.tolist()
    assert {each.decision for each in refined.labels.instances} == {Decision.SAM}


@pytest.mark.slow
def test_predict_wants_a_list(detector, image):
    loaded = s4m.load_detector(detector, device="cpu")
    assert loaded.predict([]) == []
    for one in ("photo.png", Path("photo.png"), image):
        with pytest.raises(ArrayError, match="put the one image into a list"):
            loaded.predict(one)
    with pytest.raises(StageError, match="there is no trained detector in this folder"):
        s4m.load_detector(detector.parent)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    return tmp_path


def test_a_run_makes_what_is_missing_up_to_a_stage_and_in_all_rounds(folder, monkeypatch):
    ran = []

    def pretend(space, key, _inputs):
        ran.append(key)
        fingerprint = space.fingerprints[key]
        space.store.partial(fingerprint.stage, fingerprint.id).mkdir(parents=True)
        space.store.seal(fingerprint, space.experiment.name, 1.0, {}, {})
        space.point(key)

    monkeypatch.setattr(runner, "_run", pretend)
    path = make_experiment_files(folder)
    results = s4m.run(path, "predict")
    assert ran == ["split", "distill", "train-teacher", "predict"]
    assert results.status()["predict"].state.value == "done"
    s4m.run(path, "refine", overrides=["student.rounds=2"])
    assert ran[4:] == ["refine", "augment", "train-student", "predict-2", "refine-2"]
    s4m.run(s4m.load_experiment(path, ["student.rounds=2"]), "refine-2")
    assert len(ran) == 9
    with pytest.raises(StageError, match="fly: there is no such stage; there are: split, adapt, distill, "):
        s4m.run(path, "fly")


def test_results_are_found_by_node_and_what_is_missing_is_told_with_its_command(folder):
    path = make_experiment_files(folder)
    empty = s4m.open_results(path)
    for missing in (empty.figures, empty.report, empty.labels, empty.detector):
        with pytest.raises(StageError, match=r"not up to date: make [a-z-]+ EXP=tiny"):
            missing()
    with pytest.raises(StageError, match="fly: there is no such node; there are: split, "):
        empty.folder("fly")
    space = Workspace(tiny_experiment(folder), folder / "work")
    made = make_results(space, folder / "annotations.json")
    results = s4m.open_results(path)
    assert results.name == "tiny"
    assert len(results.labels()) == len(made.truth.images)
    assert results.evaluation() == made.evaluation
    assert results.figures()["student AP"] == 33.8
    with pytest.raises(StageError, match="split: its result holds no labels"):
        results.labels("split")
    html = results._repr_html_()
    assert "tiny: results" in html
    assert ">train-student</td>" in html
    no_student = s4m.open_results(path, ["student.rounds=0"])
    with pytest.raises(StageError, match="the experiment trains a teacher alone"):
        no_student.detector()


def test_an_experiment_with_problems_is_told(folder):
    path = make_experiment_files(folder)
    with pytest.raises(ExperimentError, match="did you mean refine.points"):
        s4m.load_experiment(path, ["refine.pionts=3"])
    with pytest.raises(ExperimentError, match="no such file"):
        s4m.run("nowhere")
