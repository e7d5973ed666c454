"""A miniature of the nuclei in their real layout: what is converted is compared with the mask files by pixel."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from pipeline.coco.checking import check_coco
from pipeline.coco.reading import read_coco
from pipeline.datasets.converting import ConvertedFile
from pipeline.datasets.nuclei import NucleiSettings, convert_nuclei
from pipeline.errors import DatasetError, ProblemsError, StageError
from stages import data_commands

NAMES = [f"{number * 37 % 101:02x}" for number in range(1, 9)]  # in no order, as the real ones
SIZE_BY_NAME = dict.fromkeys(NAMES, (32, 32)) | {NAMES[2]: (48, 32), NAMES[5]: (32, 48)}
TWO = NucleiSettings(validation=2)


def add_nuclei(root: Path, name: str, size_wh_px: tuple[int, int], nuclei: int, mode: str = "RGBA") -> None:
    """An image as published, with random rectangles for nuclei; each of them may cover others."""
    width, height = size_wh_px
    image_folder, mask_folder = root / name / "images", root / name / "masks"
    image_folder.mkdir(parents=True)
    mask_folder.mkdir()
    Image.new(mode, size_wh_px).save(image_folder / f"{name}.png")
    rng = np.random.default_rng(list(name.encode()))
    for number in range(nuclei):
        mask = np.zeros((height, width), np.uint8)
        top, left = rng.integers(0, (height - 8, width - 8))
        mask[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = 255
        Image.fromarray(mask).save(mask_folder / f"{rng.integers(2**32):08x}{number}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "stage1_train"
    for number, name in enumerate(NAMES):
        add_nuclei(root, name, SIZE_BY_NAME[name], 1 + number % 3, "RGBA" if number % 2 else "L")
    # What else may lie beside the folders and the masks, and is none of them.
    (root / "stage1_train_labels.csv").touch()
    (root / ".ipynb_checkpoints").mkdir()
    (root / NAMES[0] / "masks" / "._hidden.png").touch()
    (root / NAMES[0] / "masks" / "Thumbs.db").touch()
    return root


def masks_of(root: Path, name: str) -> list[Path]:
    return sorted(path for path in (root / name / "masks").glob("*.png") if path.name[0] != ".")


def names_in(path: Path) -> list[str]:
    return [image.file_name.split("/")[0] for image in read_coco(path).images]


@pytest.mark.parametrize("file", ["train.json", "val.json"])
def test_masks_are_the_mask_files(root: Path, tmp_path: Path, file: str) -> None:
    convert_nuclei(root, tmp_path / "out", TWO)
    report = check_coco(tmp_path / "out" / file, root, decode_pixels=True)
    assert report.ok and not report.warnings
    coco = COCO(str(tmp_path / "out" / file))
    assert coco.loadCats(coco.getCatIds()) == [{"id": 1, "name": "nucleus"}]
    for image in coco.imgs.values():
        name = image["file_name"].split("/")[0]
        assert image["file_name"] == f"{name}/images/{name}.png"
        assert (image["width"], image["height"]) == SIZE_BY_NAME[name]
        annotations = coco.imgToAnns[image["id"]]
        for annotation, path in zip(annotations, masks_of(root, name), strict=True):
            mask = np.asarray(Image.open(path)) == 255
            assert np.array_equal(coco.annToMask(annotation), mask)
            assert (annotation["area"], annotation["iscrowd"], annotation["category_id"]) == (mask.sum(), 0, 1)
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)


def test_every_image_is_in_one_file_under_its_id(root: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    train, val = convert_nuclei(root, tmp_path / "out", TWO, progress=lambda done, total: seen.append((done, total)))
    assert (train.images, val.images) == (6, 2)
    images = [image for made in (train, val) for image in read_coco(made.path).images]
    assert sorted((image.id, image.file_name[:2]) for image in images) == list(enumerate(sorted(NAMES), start=1))
    assert names_in(train.path) == sorted(names_in(train.path))
    nuclei = sum(len(masks_of(root, name)) for name in names_in(val.path))
    assert val == ConvertedFile(tmp_path / "out/val.json", 2, nuclei, crowds=0)
    assert train.instances + nuclei == sum(len(masks_of(root, name)) for name in NAMES)
    assert seen == [(done, 8) for done in range(1, 9)]


def test_the_draw_depends_on_names_and_seed_alone(root: Path, tmp_path: Path) -> None:
    def drawn(where: str, validation: int, seed: int) -> list[str]:
        convert_nuclei(root, tmp_path / where, NucleiSettings(validation, seed=seed))
        return names_in(tmp_path / where / "val.json")

    three = drawn("three", 3, 0)
    # NumPy promises that its legacy generator never draws otherwise.
    assert three == sorted(np.random.RandomState(0).permutation(sorted(NAMES))[:3])
    assert drawn("again", 3, 0) == three
    assert set(drawn("two", 2, 0)) < set(three) < set(drawn("five", 5, 0))
    assert len({tuple(drawn(f"seed {seed}", 3, seed)) for seed in range(4)}) > 1


def test_a_side_takes_square_images_of_that_size(root: Path, tmp_path: Path) -> None:
    # Nothing is asked of an image that is not taken.
    masks_of(root, NAMES[2])[0].write_bytes(b"no image")
    train, val = convert_nuclei(root, tmp_path / "out", NucleiSettings(validation=2, side_px=32))
    images = [image for made in (train, val) for image in read_coco(made.path).images]
    assert {image.file_name[:2] for image in images} == set(NAMES) - {NAMES[2], NAMES[5]}
    assert all(sorted(NAMES)[image.id - 1] == image.file_name[:2] for image in images)


def test_processes_change_nothing(root: Path, tmp_path: Path) -> None:
    convert_nuclei(root, tmp_path / "one", TWO)
    convert_nuclei(root, tmp_path / "two", TWO, workers=2)
    for name in ("train.json", "val.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_a_mask_may_be_stored_in_any_way(root: Path, tmp_path: Path, mode: str) -> None:
    plain = convert_nuclei(root, tmp_path / "plain", TWO)
    for name in NAMES:
        for path in masks_of(root, name):
            Image.open(path).convert(mode).save(path)
    stored = convert_nuclei(root, tmp_path / "stored", TWO)
    assert [made.path.read_bytes() for made in plain] == [made.path.read_bytes() for made in stored]


@pytest.mark.parametrize("color", [(255, 0, 0, 255), (0, 128, 0, 255), (0, 0, 200, 255)])
def test_a_coloured_mask_is_one_from_half_brightness_on(root: Path, tmp_path: Path, color: tuple[int, ...]) -> None:
    path = masks_of(root, NAMES[0])[0]
    pixels = np.full((32, 32, 4), (127, 127, 127, 255), np.uint8)
    pixels[3:7, 10:20] = color
    Image.fromarray(pixels).save(path)
    converted = [read_coco(made.path) for made in convert_nuclei(root, tmp_path / "out", TWO)]
    image_id = sorted(NAMES).index(NAMES[0]) + 1
    (annotation,) = (each for dataset in converted for each in dataset.annotations if each.image_id == image_id)
    assert (annotation.bbox, annotation.area) == ((10, 3, 10, 4), 40)


def test_linked_folders_are_followed(root: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in NAMES:
        (linked / name).symlink_to(root / name)
    for where in (root, linked):
        convert_nuclei(where, tmp_path / f"out {where.name}", TWO)
    for name in ("train.json", "val.json"):
        assert (tmp_path / "out linked" / name).read_bytes() == (tmp_path / "out stage1_train" / name).read_bytes()


def test_every_problem_is_told_at_once_and_nothing_written(root: Path, tmp_path: Path) -> None:
    no_image, no_masks, empty_masks, bad_image, bad_masks = sorted(NAMES)[:5]
    (root / no_image / "images" / f"{no_image}.png").rename(root / no_image / "images" / "other.png")
    (root / no_masks / "masks").rename(root / no_masks / "mask")
    for path in masks_of(root, empty_masks):
        path.unlink()
    (root / bad_image / "images" / f"{bad_image}.png").write_bytes(b"no image")
    bad = root / bad_masks / "masks"
    Image.new("L", (32, 31), 255).save(bad / "size.png")
    Image.new("L", SIZE_BY_NAME[bad_masks], 127).save(bad / "empty.png")
    (bad / "folder.png").mkdir()
    whole = masks_of(root, bad_masks)[0].read_bytes()
    (bad / "cut.png").write_bytes(whole[: len(whole) // 2])
    (bad / "odd\n.png").write_bytes(whole)
    add_nuclei(root, "back\\slash", (32, 32), 1)
    with pytest.raises(DatasetError) as caught:
        convert_nuclei(root, tmp_path / "out", NucleiSettings(validation=8))
    told = {problem.where: problem.message for problem in caught.value.problems if problem.where}
    assert told.pop(f"{bad_masks}/masks/cut.png").startswith("cannot be decoded, the file is damaged")
    assert told.pop(f"{bad_image}/images/{bad_image}.png").startswith("not an image")
    assert told == {
        no_image: f"has no image {no_image}/images/{no_image}.png",
        f"{no_masks}/images/{no_masks}.png": f"has no masks {no_masks}/masks/*.png: unpack stage1_train.zip again",
        f"{empty_masks}/images/{empty_masks}.png": (
            f"has no masks {empty_masks}/masks/*.png: unpack stage1_train.zip again"
        ),
        f"{bad_masks}/masks/size.png": "is 32x31 pixels, its image 32x32",
        f"{bad_masks}/masks/empty.png": ("marks no pixel (none is 128 or brighter): delete it if it shows no nucleus"),
        f"{bad_masks}/masks/folder.png": "a folder, not an image file",
        "validation": "8 of 7 images leave none to train on: choose fewer",
    }
    names = [problem.message for problem in caught.value.problems if not problem.where]
    assert len(names) == 2
    assert "back\\\\slash.png' holds a backslash" in names[0] and names[0].endswith("rename the folder")
    assert "odd\\n.png' holds a control character" in names[1] and names[1].endswith("rename the mask")
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_text_is_told(root: Path, tmp_path: Path) -> None:
    try:
        (root / "\udcff").mkdir()
    except OSError:
        pytest.skip("this file system holds text only")
    with pytest.raises(DatasetError, match="is not valid Unicode: rename the folder"):
        convert_nuclei(root, tmp_path / "out", TWO)


def test_a_missing_and_another_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no such folder: unpack stage1_train\.zip"):
        convert_nuclei(tmp_path / "missing", tmp_path / "out", TWO)
    add_nuclei(tmp_path / "one level/too deep", NAMES[0], (32, 32), 1)
    for folder in (tmp_path, tmp_path / "one level"):
        with pytest.raises(DatasetError, match=r"1 problem\n.*holds no images: .* ID/images/ID.png and ID/masks"):
            convert_nuclei(folder, tmp_path / "out", TWO)


def test_sizes_are_told_where_none_is_the_one_asked_for(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"side: no image is 64x64, they are: 32x32 \(6\), .*48x32 \(1\)"):
        convert_nuclei(root, tmp_path / "out", NucleiSettings(side_px=64))


@pytest.mark.parametrize("validation", [6, 50])
def test_some_images_must_be_left_to_train_on(root: Path, tmp_path: Path, validation: int) -> None:
    with pytest.raises(DatasetError, match=f"validation: {validation} of 6 images leave none"):
        convert_nuclei(root, tmp_path / "out", NucleiSettings(validation, side_px=32))
    assert not (tmp_path / "out").exists()


def test_settings_out_of_range_are_told_together(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ProblemsError) as caught:
        convert_nuclei(root, tmp_path / "out", NucleiSettings(0, 0, -1))
    assert [problem.where for problem in caught.value.problems] == ["validation", "side", "seed"]


def test_existing_files_are_never_replaced(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "val.json").write_text("precious")
    with pytest.raises(StageError, match=r"val\.json is already there"):
        convert_nuclei(root, output, TWO)
    assert [path.name for path in output.iterdir()] == ["val.json"]


def test_the_command_says_what_it_wrote(root: Path, tmp_path: Path) -> None:
    arguments = ["nuclei", str(root), str(tmp_path / "out"), "--side", "32", "--validation", "2", "--seed", "3"]
    done = CliRunner().invoke(data_commands.app, arguments)
    assert done.exit_code == 0, done.output
    expected = convert_nuclei(root, tmp_path / "direct", NucleiSettings(2, 32, 3))
    for made in expected:
        written = tmp_path / "out" / made.path.name
        assert f"{written}: {made.images} images, {made.instances} nuclei" in done.output
        assert json.loads(written.read_text()) == json.loads(made.path.read_text())
