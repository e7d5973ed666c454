"""The shapes dataset: masks that are the truth of their pixels, folders that are whole or not there."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline.coco.reading import read_coco
from pipeline.datasets.shapes import ShapesSettings, contact_sheet, make_shapes
from pipeline.datasets.shapes_scene import CLASS_NAMES, DIFFICULTIES, MIN_VISIBLE_AREA, Scene, draw_scene
from pipeline.errors import ProblemsError, StageError

SMALL = ShapesSettings(images=5, validation=3, image_size_px=64, seed=3)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def scenes(difficulty: str, count: int, size_px: int = 96) -> list[Scene]:
    return [draw_scene(np.random.default_rng(seed), size_px, DIFFICULTIES[difficulty]) for seed in range(count)]


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_visible_parts_are_disjoint_and_large_enough(difficulty: str) -> None:
    lowest, highest = DIFFICULTIES[difficulty].objects
    for scene in scenes(difficulty, 20):
        assert scene.image_rgb.shape == (96, 96, 3)
        assert scene.image_rgb.dtype == np.uint8
        assert len(scene.masks) == len(scene.class_indices)
        assert 1 <= len(scene.masks) <= highest
        assert scene.masks.sum(axis=0).max() == 1
        assert scene.masks.sum(axis=(1, 2)).min() >= MIN_VISIBLE_AREA * 96 * 96
    counts = [len(scene.masks) for scene in scenes(difficulty, 20)]
    assert np.mean(counts) >= lowest


@pytest.mark.parametrize("seed", range(8))
def test_masks_are_the_truth_of_the_pixels(seed: int) -> None:
    """Without noise, texture and shadow, a pixel's hue says whose it is; only edge pixels are mixed."""
    # Without thin arms, too: their tips cover less than half of any pixel.
    plain = replace(
        DIFFICULTIES["hard"],
        roughness=0.3,
        texture=(0, 0),
        contrast=(1, 1),
        background=0,
        noise=(0, 0),
        blur_px=0,
        shadow=0,
    )
    scene = draw_scene(np.random.default_rng(seed), 128, plain)
    hue = scene.image_rgb / scene.image_rgb.sum(axis=2, keepdims=True)
    background = ~scene.masks.any(axis=0)
    for region in (background, *scene.masks):
        inner = cv2.erode(region.astype(np.uint8), np.ones((3, 3)), borderValue=0).astype(bool)
        if inner.any():
            assert np.ptp(hue[inner], axis=0).max() < 0.05  # rounding to 8 bits


def test_a_pixel_belongs_to_an_object_from_half_coverage_on() -> None:
    """A mask has the area of what was painted, edge pixels weighed by their mixture of colours."""
    plain = replace(
        DIFFICULTIES["easy"],
        objects=(1, 1),
        radius=(0.2, 0.2),
        texture=(0, 0),
        contrast=(1, 1),
        background=0,
        noise=(0, 0),
    )
    compared = 0
    for seed in range(12):
        scene = draw_scene(np.random.default_rng(seed), 64, plain)
        picture = scene.image_rgb.astype(float)
        mask = scene.masks[0]
        paper = picture[~cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))).astype(bool)].mean(axis=0)
        ink = picture[mask].mean(axis=0)
        if np.abs(ink - paper).max() < 60:
            continue  # too close in colour to tell mixtures apart
        coverage = ((picture - paper) @ (ink - paper)) / ((ink - paper) @ (ink - paper))
        # Shading makes painted pixels a little lighter or darker than their mean.
        assert coverage.sum() == pytest.approx(mask.sum(), rel=0.05)
        assert ((coverage > 0.6) == mask)[np.abs(coverage - 0.5) > 0.3].all()
        compared += 1
    assert compared >= 5


def test_visible_parts_get_more_ragged_with_the_difficulty() -> None:
    def convex_share(mask: np.ndarray) -> float:
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        hull = cv2.convexHull(np.concatenate(contours))
        return float(mask.sum() / max(1.0, cv2.contourArea(hull)))

    shares = {
        name: np.mean([convex_share(mask) for scene in scenes(name, 15) for mask in scene.masks])
        for name in DIFFICULTIES
    }
    assert shares["easy"] > shares["medium"] > shares["hard"]


def test_every_class_appears() -> None:
    seen = {index for scene in scenes("medium", 20) for index in scene.class_indices}
    assert seen == set(range(len(CLASS_NAMES)))


def test_fewer_classes_are_the_first_ones(tmp_path: Path) -> None:
    make_shapes(tmp_path / "two", ShapesSettings(images=6, validation=1, image_size_px=64, classes=2))
    dataset = read_coco(tmp_path / "two/train.json")
    assert [category.name for category in dataset.categories] == list(CLASS_NAMES[:2])
    assert {each.category_id for each in dataset.annotations} == {1, 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "small"
    assert make_shapes(folder, SMALL) is True
    return folder


@pytest.mark.parametrize(("name", "count"), [("train", 5), ("validation", 3)])
def test_annotations_agree_with_pycocotools(made: Path, name: str, count: int) -> None:
    read_coco(made / f"{name}.json")  # as strict as the pipeline
    coco = COCO(str(made / f"{name}.json"))
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == list(CLASS_NAMES)
    assert len(coco.imgs) == count
    for image in coco.imgs.values():
        assert cv2.imread(str(made / name / "images" / image["file_name"])).shape == (64, 64, 3)
        assert coco.imgToAnns[image["id"]]
        for annotation in coco.imgToAnns[image["id"]]:
            rows, columns = np.nonzero(coco.annToMask(annotation))
            assert annotation["area"] == len(rows)
            left, top = columns.min(), rows.min()
            assert annotation["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]


@pytest.mark.slow
def test_an_image_is_the_same_in_a_larger_set_and_with_more_processes(made: Path, tmp_path: Path) -> None:
    larger = tmp_path / "larger"
    make_shapes(larger, replace(SMALL, images=40, validation=4), workers=2)
    small, large = files_of(made), files_of(larger)
    pictures = [name for name in small if name.endswith(".png")]
    assert len(pictures) == 8
    assert all(small[name] == large[name] for name in pictures)
    few, many = (json.loads(files["train.json"])["annotations"] for files in (small, large))
    assert few == many[: len(few)]


@pytest.mark.slow
def test_processes_change_no_byte(made: Path, tmp_path: Path) -> None:
    make_shapes(tmp_path / "two", SMALL, workers=2)
    assert files_of(made) == files_of(tmp_path / "two")


def test_seeds_and_sets_differ(made: Path, tmp_path: Path) -> None:
    make_shapes(tmp_path / "other", replace(SMALL, seed=4))
    pictures = [
        (folder / name / "images" / "000001.png").read_bytes()
        for folder in (made, tmp_path / "other")
        for name in ("train", "validation")
    ]
    assert len(set(pictures)) == 4


def test_made_again_by_the_same_settings_nothing_is_done(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    calls: list[tuple[int, int]] = []
    assert make_shapes(made, SMALL, progress=lambda *call: calls.append(call)) is False
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    assert calls == []


def test_other_settings_are_refused_with_both_values(made: Path) -> None:
    before = files_of(made)
    with pytest.raises(StageError) as caught:
        make_shapes(made, replace(SMALL, seed=9, images=6))
    assert str(caught.value).splitlines()[1:] == [
        "  images: it has 5, asked for is 6",
        "  seed: it has 3, asked for is 9",
    ]
    assert files_of(made) == before


def test_a_changed_meaning_of_a_difficulty_is_noticed(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {**DIFFICULTIES, "medium": replace(DIFFICULTIES["medium"], crowding=0.9)}
    monkeypatch.setattr("pipeline.datasets.shapes.DIFFICULTIES", changed)
    with pytest.raises(StageError, match=r"parameters\.crowding: it has 0\.35, asked for is 0\.9"):
        make_shapes(made, SMALL)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(StageError, match="is not empty and was not made by this command"):
        make_shapes(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(StageError, match="is a file"):
        make_shapes(tmp_path / "holiday.jpg", SMALL)


def test_a_damaged_folder_is_not_taken_for_whole(tmp_path: Path) -> None:
    make_shapes(tmp_path / "out", SMALL)
    (tmp_path / "out" / "train" / "images" / "000002.png").unlink()
    with pytest.raises(StageError, match=r"1 files are missing \(000002\.png\)"):
        make_shapes(tmp_path / "out", SMALL)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert make_shapes(tmp_path / "out", SMALL) is True


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_it_leaves_nothing_and_can_be_run_again(tmp_path: Path, workers: int) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    settings = replace(SMALL, images=70)  # several tasks
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "out", settings, workers=workers, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    assert make_shapes(tmp_path / "out", settings) is True


def test_two_runs_at_once_leave_one_dataset(tmp_path: Path) -> None:
    def other_run(done: int, total: int) -> None:
        if done == total:
            assert make_shapes(tmp_path / "out", SMALL) is True

    assert make_shapes(tmp_path / "out", SMALL, progress=other_run) is False
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_progress_counts_every_image(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_shapes(tmp_path / "out", replace(SMALL, images=40), progress=lambda *call: calls.append(call))
    assert calls == [(done, 43) for done in range(1, 44)]


def test_the_record_says_what_made_the_folder(made: Path) -> None:
    record = json.loads((made / "shapes.json").read_text())
    assert {name: record[name] for name in asdict(SMALL)} == asdict(SMALL)
    assert record["parameters"]["objects"] == list(DIFFICULTIES["medium"].objects)


def test_wrong_settings_are_told_together(tmp_path: Path) -> None:
    wrong = ShapesSettings(images=0, validation=-1, difficulty="brutal", image_size_px=16, seed=-2)  # type: ignore[arg-type]
    with pytest.raises(ProblemsError) as caught:
        make_shapes(tmp_path / "out", wrong)
    assert [problem.where for problem in caught.value.problems] == [
        "images",
        "validation",
        "image_size_px",
        "seed",
        "difficulty",
    ]


def test_the_contact_sheet_shows_each_image_plain_and_outlined(made: Path) -> None:
    sheet = contact_sheet(made, 4, columns=2)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 2 * 512 + 3 * 6  # two pairs of 256 px and the gaps
    picture = cv2.imread(str(made / "train" / "images" / "000001.png"))[..., ::-1]
    plain = np.kron(picture, np.ones((4, 4, 1), np.uint8))
    left, right = sheet[6 : 6 + 256, 6 : 6 + 256], sheet[6 : 6 + 256, 262 : 262 + 256]
    assert np.array_equal(left, plain)
    coco = COCO(str(made / "train.json"))
    masks = [np.kron(coco.annToMask(each), np.ones((4, 4), np.uint8)) for each in coco.imgToAnns[1]]
    # An outline lies on the rim of a mask, inside or, around a hole, just outside.
    rims = [cv2.dilate(mask, np.ones((3, 3))) - cv2.erode(mask, np.ones((3, 3)), borderValue=0) for mask in masks]
    changed = (right != plain).any(axis=2)
    assert changed.any()
    assert not (changed & ~np.any(rims, axis=0)).any()


def test_no_generator_needs_torch() -> None:
    modules = "import pipeline.datasets.shapes, pipeline.datasets.cityscapes, pipeline.datasets.coco_splits"
    check = f"{modules}, sys; assert not {{'torch', 'mmdet', 'dask'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
