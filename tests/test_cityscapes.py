"""A miniature of Cityscapes in its real layout: what is converted is compared with its images by pixel."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pipeline.coco.reading import read_coco
from pipeline.datasets.cityscapes import CLASSES, CityscapesSettings, convert_cityscapes
from pipeline.datasets.converting import ConvertedFile
from pipeline.errors import DatasetError, StageError

WIDTH, HEIGHT = 64, 32
TINY = CityscapesSettings(size_wh_px=(WIDTH, HEIGHT))


def street(seed: int) -> np.ndarray:
    """Labels as Cityscapes draws them: stuff, instances over it, groups, classes that are never scored."""
    rng = np.random.default_rng(seed)
    labels = np.full((HEIGHT, WIDTH), 7, np.uint16)
    labels[: HEIGHT // 2] = 23
    for value in (24_000, 24_001, 25_000, 26_000, 26_001, 26_017, 28_000, 31_000, 33_002, 24, 26, 29_000, 30):
        top, left = rng.integers(0, (HEIGHT - 8, WIDTH - 8))
        labels[top : top + rng.integers(2, 9), left : left + rng.integers(2, 9)] = value
    labels[5, 5] = 32_000  # an instance of one pixel
    labels[20, 3] = labels[3, 40] = 27_000  # one in two pieces
    return labels


def add_picture(root: Path, split: str, name: str, labels: np.ndarray) -> None:
    city = name.split("_")[0]
    image_path = root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
    label_path = root / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png"
    for path in (image_path, label_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", labels.shape[::-1], (90, 120, 60)).save(image_path)
    Image.fromarray(labels).save(label_path)
    # What else lies beside the labels, and must not be taken for them.
    for other in ("labelIds.png", "color.png", "polygons.json"):
        label_path.with_name(f"{name}_gtFine_{other}").touch()


NAMES = {
    "train": ["bremen_000001_000019", "aachen_000010_000019", "aachen_000002_000019"],
    "val": ["frankfurt_000000_000294", "munster_000000_000019"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "cityscapes"
    for split, names in NAMES.items():
        for seed, name in enumerate(names):
            add_picture(root, split, name, street(seed))
    return root


def label_path(root: Path, split: str, file_name: str) -> Path:
    return root / "gtFine" / split / file_name.replace("_leftImg8bit.png", "_gtFine_instanceIds.png")


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_are_the_label_images(root: Path, tmp_path: Path, split: str) -> None:
    convert_cityscapes(root, tmp_path / "out", TINY)
    coco = COCO(str(tmp_path / "out" / f"{split}.json"))
    assert len(coco.imgs) == len(NAMES[split])
    for image in coco.imgs.values():
        assert (image["width"], image["height"]) == (WIDTH, HEIGHT)
        assert (root / "leftImg8bit" / split / image["file_name"]).is_file()
        labels = np.asarray(Image.open(label_path(root, split, image["file_name"])))
        rebuilt = np.zeros_like(labels)
        numbers: dict[int, int] = {}
        for annotation in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(annotation).astype(bool)
            value = np.unique(labels[mask])
            assert value.size == 1
            assert annotation["category_id"] == (value[0] if annotation["iscrowd"] else value[0] // 1000)
            assert annotation["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            rebuilt[mask] = value[0]
            numbers[int(value[0])] = numbers.get(int(value[0]), 0) + 1
        scored = np.isin(np.where(labels >= 1000, labels // 1000, labels), list(CLASSES))
        assert np.array_equal(rebuilt, np.where(scored, labels, 0))
        assert set(numbers.values()) == {1}


def test_categories_are_the_eight_standard_ones(root: Path, tmp_path: Path) -> None:
    convert_cityscapes(root, tmp_path / "out", TINY)
    content = json.loads((tmp_path / "out" / "train.json").read_text())
    assert {each["id"]: each["name"] for each in content["categories"]} == {
        24: "person",
        25: "rider",
        26: "car",
        27: "truck",
        28: "bus",
        31: "train",
        32: "motorcycle",
        33: "bicycle",
    }


def test_images_are_sorted_and_counts_reported(root: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    train, val = convert_cityscapes(
        root, tmp_path / "out", TINY, progress=lambda done, total: seen.append((done, total))
    )
    dataset = read_coco(train.path)
    assert [(image.id, image.file_name) for image in dataset.images] == [
        (1, "aachen/aachen_000002_000019_leftImg8bit.png"),
        (2, "aachen/aachen_000010_000019_leftImg8bit.png"),
        (3, "bremen/bremen_000001_000019_leftImg8bit.png"),
    ]
    crowds = sum(each.iscrowd for each in dataset.annotations)
    assert crowds > 0
    assert train == ConvertedFile(tmp_path / "out/train.json", 3, len(dataset.annotations) - crowds, crowds)
    assert val.images == 2
    assert seen == [(done, 5) for done in range(1, 6)]


def test_processes_change_nothing(root: Path, tmp_path: Path) -> None:
    convert_cityscapes(root, tmp_path / "one", TINY)
    convert_cityscapes(root, tmp_path / "two", TINY, workers=2)
    for name in ("train.json", "val.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_cities_can_be_chosen(root: Path, tmp_path: Path) -> None:
    settings = CityscapesSettings(splits=("train",), cities=("bremen",), size_wh_px=(WIDTH, HEIGHT))
    (train,) = convert_cityscapes(root, tmp_path / "out", settings)
    assert train.images == 1
    assert not (tmp_path / "out" / "val.json").exists()


def test_every_problem_is_told_at_once_and_nothing_written(root: Path, tmp_path: Path) -> None:
    train, labels = root / "leftImg8bit" / "train", root / "gtFine" / "train"
    (train / "aachen/aachen_000002_000019_leftImg8bit.png").unlink()
    (labels / "aachen/aachen_000010_000019_gtFine_instanceIds.png").unlink()
    Image.new("RGB", (WIDTH, 2 * HEIGHT)).save(train / "bremen/bremen_000001_000019_leftImg8bit.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(labels / "bremen/bremen_000001_000019_gtFine_instanceIds.png")
    scaled = street(0)
    scaled[0, 0] = 12_345  # what interpolation between two instances makes
    Image.fromarray(scaled).save(root / "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_instanceIds.png")
    (root / "gtFine/val/munster/munster_000000_000019_gtFine_instanceIds.png").write_bytes(b"no image")
    settings = CityscapesSettings(cities=("aachen", "bremen", "frankfurt", "munster", "paris"), size_wh_px=(64, 32))
    with pytest.raises(DatasetError) as caught:
        convert_cityscapes(root, tmp_path / "out", settings)
    told = {problem.where.split("/")[-1]: problem.message for problem in caught.value.problems}
    assert told.keys() == {
        "aachen_000002_000019_gtFine_instanceIds.png",
        "aachen_000010_000019_leftImg8bit.png",
        "bremen_000001_000019_leftImg8bit.png",
        "bremen_000001_000019_gtFine_instanceIds.png",
        "frankfurt_000000_000294_gtFine_instanceIds.png",
        "munster_000000_000019_gtFine_instanceIds.png",
        "cities",
    }
    assert "has no image leftImg8bit/train/aachen" in told["aachen_000002_000019_gtFine_instanceIds.png"]
    assert "has no labels gtFine/train/aachen" in told["aachen_000010_000019_leftImg8bit.png"]
    assert "64x64" in told["bremen_000001_000019_leftImg8bit.png"]
    assert "its pixels are RGB" in told["bremen_000001_000019_gtFine_instanceIds.png"]
    assert "the value 12345" in told["frankfurt_000000_000294_gtFine_instanceIds.png"]
    assert told["cities"] == "'paris' is not among: aachen, bremen, frankfurt, munster"
    assert not (tmp_path / "out").exists()


def test_a_cut_label_image_is_a_problem_not_a_mask(root: Path, tmp_path: Path) -> None:
    path = root / "gtFine/val/munster/munster_000000_000019_gtFine_instanceIds.png"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DatasetError, match=r"munster_000000_000019_gtFine_instanceIds.png: .*damaged"):
        convert_cityscapes(root, tmp_path / "out", TINY)


def test_another_folder_is_told_from_cityscapes(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is this the folder of Cityscapes"):
        convert_cityscapes(tmp_path, tmp_path / "out", CityscapesSettings())


def test_sizes_are_those_of_cityscapes_unless_said_otherwise(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"64x32.*2048x1024"):
        convert_cityscapes(root, tmp_path / "out", CityscapesSettings())


def test_existing_files_are_never_replaced(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "val.json").write_text("precious")
    with pytest.raises(StageError, match=r"val\.json is already there"):
        convert_cityscapes(root, output, TINY)
    assert [path.name for path in output.iterdir()] == ["val.json"]
