"""`s4m annotate`: a trained detector on a folder of new images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pipeline.coco.reading import read_coco
from pipeline.detection.predict_work import PredictWork
from pipeline.detection.predictor import build_predictor
from pipeline.detection.published import CARD, DetectorChoice
from pipeline.files.images import read_image
from pipeline.labels import picture_work
from pipeline.labels.label_store import LabelStore
from pipeline.labels.picture_work import PictureWork, picture_files
from pipeline.labels.rows import Status
from pipeline.refinement.refine_work import RefineWork
from pipeline.workflow.workspace import Workspace
from tests.tiny_detectors import publish_tiny
from tests.tiny_experiment import make_experiment_files, tiny_experiment

SETTINGS = ("predict.max_instances=3", "compute.precision=fp32", "compute.failed_share=1")
ALL = ("--score", 0, "--device", "cpu", *(word for setting in SETTINGS for word in ("--set", setting)))


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Path:
    """A published folder that lies nowhere near an experiment."""
    return publish_tiny(tmp_path_factory.mktemp("models") / "student", "mask_rcnn")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three images of noise, one of them in a subfolder and upright by its EXIF orientation alone; two bad files."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for seed, (name, size) in enumerate((("a.png", (64, 48)), ("b.png", (40, 40)), ("more/c.jpg", (70, 50)))):
        cells = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6 if name.endswith("jpg") else 1
        Image.fromarray(cells).resize(size, Image.Resampling.NEAREST).save(folder / name, exif=exif)
    (folder / "empty.png").write_bytes(b"")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.mark.slow
def test_what_the_detector_finds_is_written_as_coco_and_bad_images_are_told(s4m, detector, photos, tmp_path):
    told = s4m("annotate", detector, photos, "--output", "out.json", *ALL)
    assert told.status == 0, told.err
    assert told.out.startswith("out.json: images: 5, instances: ")
    failed = "2 images could not be used and are left out of the file:\n  broken.jpg: "
    assert failed in told.err
    assert told.err.endswith("  empty.png: the file is empty\n")
    dataset = read_coco(tmp_path / "out.json")
    assert {image.file_name: (image.width, image.height) for image in dataset.images} == {
        "a.png": (64, 48),
        "b.png": (40, 40),
        "more/c.jpg": (50, 70),
    }
    assert [(category.id, category.name) for category in dataset.categories] == [(3, "three"), (7, "seven")]
    predictor = build_predictor(DetectorChoice(detector, "cpu", "fp32", 8))
    coco = COCO(str(tmp_path / "out.json"))
    for image in dataset.images:
        (found,) = predictor.predict([read_image(photos / image.file_name)])
        best = sorted((each.class_score for each in found if each.source.paint().mask.any()), reverse=True)[:3]
        assert [each["score"] for each in coco.imgToAnns[image.id]] == pytest.approx(best, rel=1e-5)
    masks = [coco.annToMask(each) for each in coco.anns.values()]
    assert [mask.sum() for mask in masks] == [each["area"] for each in coco.anns.values()]
    assert not list(tmp_path.glob(".out.json*"))


@pytest.mark.slow
def test_a_low_score_is_left_out(s4m, detector, photos, tmp_path):
    s4m("annotate", detector, photos, "--output", "all.json", *ALL)
    scores = [each["score"] for each in json.loads((tmp_path / "all.json").read_text())["annotations"]]
    least = float(np.median(scores)) - 1e-6
    s4m("annotate", detector, photos, "--output", "best.json", *ALL[2:], "--score", least)
    kept = [each["score"] for each in json.loads((tmp_path / "best.json").read_text())["annotations"]]
    assert kept == [score for score in scores if score >= least]
    assert 0 < len(kept) < len(scores)


@pytest.mark.slow
def test_sam_sharpens_the_masks_and_every_image_is_drawn(s4m, detector, photos, tmp_path):
    command = ("annotate", detector, photos, *ALL, "--refine", "--preset", "s4m")
    told = s4m(*command, "--output", "out.json", "--pictures", "drawn")
    assert told.status == 0, told.err
    assert "masks from SAM: " in told.out
    assert told.out.splitlines()[-1] == "drawn: drawings of these images"
    annotations = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert {each["decision"] for each in annotations} == {"sam"}
    assert all(0 <= each["agreement"] <= 1 and "predicted_iou" in each for each in annotations)
    drawn = {path.relative_to(tmp_path / "drawn").as_posix() for path in (tmp_path / "drawn").rglob("*.*")}
    assert drawn == {"a.jpg", "b.jpg", "more/c.jpg"}
    assert min(np.asarray(Image.open(tmp_path / "drawn" / "more/c.jpg")).shape[:2]) > 300


@pytest.mark.slow
def test_a_label_store_has_the_bad_images_as_rows(s4m, detector, photos, tmp_path):
    told = s4m("annotate", detector, photos, "--output", "out.zarr", *ALL)
    assert "are rows without instances" in told.err
    store = LabelStore.open(tmp_path / "out.zarr")
    assert [(row.file_name, row.status is Status.FAILED) for row in store] == [
        ("a.png", False),
        ("b.png", False),
        ("broken.jpg", True),
        ("empty.png", True),
        ("more/c.jpg", False),
    ]
    assert store.by_name("empty.png").message == "the file is empty"
    assert s4m("labels", "export", "out.zarr", "again.json").status == 0
    s4m("annotate", detector, photos, "--output", "out.json", *ALL)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "out.json").read_bytes()


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was(s4m, detector, photos, tmp_path, monkeypatch):
    command = ("annotate", detector, photos, *ALL, "--refine", "--pictures", "drawn", "--output")
    s4m(*command, "whole.json")
    (tmp_path / "drawn").rename(tmp_path / "whole")
    done: list[str] = []
    steps = ((PredictWork, "predict"), (RefineWork, "refine"), (PictureWork, "draw"))
    monkeypatch.setattr(picture_work, "IMAGES_PER_SHARD", 2)  # the second shard has nothing but bad images
    for work, name in steps:

        def stopping(self, shard, real=work.compute, name=name):
            done.append(f"{name} {shard.index}")
            if done.count(done[-1]) == 1 and shard.index == (2 if name == "draw" else 0):
                raise KeyboardInterrupt
            return real(self, shard)

        monkeypatch.setattr(work, "compute", stopping)
    for stopped in range(3):
        told = s4m(*command, "out.json")
        assert (told.status, "Give the same command to continue" in told.err) == (130, True), stopped
        assert not (tmp_path / "out.json").exists()
    assert s4m(*command, "out.json").status == 0
    assert done == ["predict 0", "predict 0", "refine 0", "refine 0", "draw 0", "draw 2", "draw 2"]
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    for path in (tmp_path / "whole").rglob("*.jpg"):
        assert (tmp_path / "drawn" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_workers_do_not_change_the_result(s4m, detector, photos, tmp_path, forked_workers):
    for workers in (1, 2):
        command = ("--refine", "--workers", workers, "--pictures", f"drawn{workers}")
        assert s4m("annotate", detector, photos, "--output", f"{workers}.json", *ALL, *command).status == 0
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    assert len(list((tmp_path / "drawn2").rglob("*.jpg"))) == 3


@pytest.mark.slow
def test_an_experiment_is_asked_for_its_student_or_its_teacher(s4m, detector, photos, tmp_path):
    path = make_experiment_files(tmp_path)
    told = s4m("annotate", path, photos, "--output", "out.json", *ALL)
    assert told.status == 1
    assert f"{path} has no student that is up to date with these settings: make train-student EXP={path}" in told.err
    space = Workspace(tiny_experiment(tmp_path), tmp_path / "work")
    for key, seed in (("train-teacher", 1), ("train-student", 2)):
        publish_tiny(space.store.partial(key, space.fingerprints[key].id), "mask_rcnn", seed=seed)
        space.store.seal(space.fingerprints[key], "tiny", 1.0, {}, {})
        space.point(key)
    texts = {}
    for name, words in {"student": (), "teacher": ("--model", "teacher")}.items():
        assert s4m("annotate", path, photos, "--output", f"{name}.json", *ALL, *words).status == 0
        texts[name] = (tmp_path / f"{name}.json").read_text()
    assert texts["student"] != texts["teacher"]
    assert s4m("annotate", "work/tiny/student", photos, "--output", "link.json", *ALL).status == 0
    assert (tmp_path / "link.json").read_text() == texts["student"]


@pytest.mark.slow
def test_many_bad_images_stop_the_run_unless_they_are_meant(s4m, detector, photos):
    told = s4m("annotate", detector, photos, "--output", "out.json", "--device", "cpu")
    assert told.status == 1
    assert "2 of 5 images cannot be used so far, more than compute.failed_share = 0.1" in told.err


@pytest.mark.slow
def test_mistakes_say_what_to_do(s4m, detector, photos, tmp_path):
    def told(*words: object) -> str:
        ended = s4m("annotate", *words, *ALL)
        assert ended.status != 0
        return ended.err

    (tmp_path / "empty").mkdir()
    assert "empty: there is no image in this folder (.avif, " in told(detector, "empty", "--output", "o.json")
    assert "nowhere: no such folder of images" in told(detector, "nowhere", "--output", "o.json")
    no_card = f"empty: there is no trained detector in this folder ({CARD} is missing)"
    assert no_card in told("empty", photos, "--output", "o.json")
    assert "no such file" in told("unknown", photos, "--output", "o.json")
    assert "changes nothing without --refine" in told(detector, photos, "--output", "o.json", "--preset", "s4m")
    results = told(detector, photos, "--output", "o.json", "--set", f"predict.results={tmp_path / 'x.json'}")
    assert "predict.results (set over the file): the trained detector labels the images; leave this out" in results
    (tmp_path / "there.json").write_text("mine")
    assert "already there and was left alone" in told(detector, photos, "--output", "there.json")
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "mine.jpg").write_bytes(b"")
    assert "drawn is already there" in told(detector, photos, "--output", "o.json", "--pictures", "drawn")
    rounds = make_experiment_files(tmp_path, {"student": {"rounds": 0}}, "none")
    assert "use its teacher, with --model teacher" in told(rounds, photos, "--output", "o.json")
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["mine.jpg"]


@pytest.mark.slow
def test_no_file_is_written_where_no_image_could_be_used(s4m, detector, photos, tmp_path):
    for path in photos.rglob("*.*"):
        if path.is_file():
            path.write_bytes(b"")
    told = s4m("annotate", detector, photos, "--output", "out.json", *ALL)
    assert told.status == 1
    assert "no image could be used: a.png: the file is empty" in told.err
    assert not (tmp_path / "out.json").exists()
    cells = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(cells).save(photos / "a.png")
    assert s4m("annotate", detector, photos, "--output", "out.json", *ALL).status == 0


@pytest.mark.slow
def test_a_name_that_no_coco_file_may_have_is_a_row(s4m, detector, photos, tmp_path):
    (photos / "a.png").rename(photos / "a\nb.png")
    told = s4m("annotate", detector, photos, "--output", "out.json", *ALL)
    assert told.status == 0
    assert "holds a control character" in told.err
    assert [image.file_name for image in read_coco(tmp_path / "out.json").images] == ["b.png", "more/c.jpg"]


def test_drawings_have_a_name_each():
    assert picture_files(["a.png", "x/a.jpg", "x/a.png", "b"]) == ["a.jpg", "x/a.jpg.jpg", "x/a.png.jpg", "b.jpg"]
