"""COCO percent splits: drawn ones, the published index list, published COCO files of labelled images."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.coco.reading import read_coco
from pipeline.datasets.coco_splits import CocoSplit, CocoSplitSettings, make_coco_split
from pipeline.datasets.split import split_by_list
from pipeline.errors import DatasetError, ProblemsError, StageError

# As in COCO, ids have gaps and the file is not sorted by them; some images have no instance or only a crowd.
IMAGE_IDS = [57, 9, 581, 33, 42, 100, 12, 77, 64, 25, 300, 8, 91, 5, 88, 200, 49, 31, 72, 60]
EMPTY_IDS = {33, 300}
CROWD_ONLY_IDS = {12}
COUNTED_IDS = sorted(set(IMAGE_IDS) - EMPTY_IDS - CROWD_ONLY_IDS)


def coco_content(image_ids: list[int]) -> dict[str, object]:
    return {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"id": each, "file_name": f"{each:012d}.jpg", "width": 20, "height": 10, "license": 1} for each in image_ids
        ],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
        "annotations": [
            {
                "id": 1000 + each,
                "image_id": each,
                "category_id": 18,
                "bbox": [1, 1, 4, 4],
                "area": 16.0,
                "iscrowd": int(each in CROWD_ONLY_IDS),
                "segmentation": {"size": [10, 20], "counts": [11, 4, 185]}
                if each in CROWD_ONLY_IDS
                else [[1, 1, 5, 1, 5, 5, 1, 5]],
            }
            for each in image_ids
            if each not in EMPTY_IDS
        ],
    }


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(coco_content(IMAGE_IDS)))
    return path


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_draw_is_the_one_of_the_field(annotations: Path, tmp_path: Path) -> None:
    output = tmp_path / "lists" / "labelled.json"
    split = make_coco_split(annotations, output, CocoSplitSettings(percent=30, fold=3))
    np.random.seed(3)
    places = np.random.choice(range(20), size=6, replace=False)
    assert json.loads(output.read_text()) == sorted(IMAGE_IDS[place] for place in places)
    assert split == CocoSplit(tuple(sorted(IMAGE_IDS[place] for place in places)), images=20)


def test_the_split_stage_takes_the_list(annotations: Path, tmp_path: Path) -> None:
    split = make_coco_split(annotations, tmp_path / "list.json", CocoSplitSettings(percent=30))
    taken = split_by_list(read_coco(annotations), tmp_path / "list.json")
    assert set(taken.labelled_ids) == set(split.labelled_ids)


def test_folds_differ_and_repeat(annotations: Path, tmp_path: Path) -> None:
    def drawn(fold: int, name: str) -> bytes:
        make_coco_split(annotations, tmp_path / name, CocoSplitSettings(percent=30, fold=fold))
        return (tmp_path / name).read_bytes()

    assert drawn(1, "a") == drawn(1, "b") != drawn(2, "c")


@pytest.mark.parametrize("percent", [20, 20.0])
def test_published_numbers_count_sorted_images_with_instances(
    annotations: Path, tmp_path: Path, percent: float
) -> None:
    # 20 % of the 17 images with instances are 3.
    published = write_json(
        tmp_path / "COCO_supervision.txt", {"10": {"1": [5]}, "20.0": {"0": [0, 1, 2], "7": [16, 0, 4]}}
    )
    output = tmp_path / "labelled.json"
    make_coco_split(annotations, output, CocoSplitSettings(percent, fold=7, published=published))
    assert json.loads(output.read_text()) == sorted([COUNTED_IDS[16], COUNTED_IDS[0], COUNTED_IDS[4]])
    assert COUNTED_IDS[4] != sorted(IMAGE_IDS)[4]  # or this would not tell the two readings apart


def test_numbers_read_against_another_file_are_refused_all_at_once(annotations: Path, tmp_path: Path) -> None:
    published = write_json(tmp_path / "list.txt", {"20": {"1": [2, 2, 17, 40]}})
    with pytest.raises(DatasetError) as caught:
        make_coco_split(annotations, tmp_path / "out", CocoSplitSettings(20, fold=1, published=published))
    assert [str(problem) for problem in caught.value.problems] == [
        f"20 %, fold 1: holds 4 indices, but 20 % of the 17 images with instances in {annotations} are 3: "
        "it was drawn for another annotation file",
        "20 %, fold 1: holds 17, which is not an index of the 17 images with instances",
        "20 %, fold 1: repeats indices: 1 too many",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"10": {"1": [0]}, "1.0": {}}, "has no 20 %, only: 1, 10"),
        ({"20": {"0": [], "2": []}}, "20 %: has no fold 1, only: 0, 2"),
        ({"twenty": {}}, "'twenty' is not a percentage: the file is neither a published list nor COCO"),
        ({"20": [1, 2]}, "20 %: must be an object of fold -> list of indices"),
        ([1, 2, 3], "JSON object"),
    ],
)
def test_a_list_of_another_form_is_explained(annotations: Path, tmp_path: Path, content: object, message: str) -> None:
    published = write_json(tmp_path / "list.txt", content)
    with pytest.raises(DatasetError) as caught:
        make_coco_split(annotations, tmp_path / "out", CocoSplitSettings(20, published=published))
    assert message in str(caught.value)


def test_a_published_coco_file_gives_its_images(annotations: Path, tmp_path: Path) -> None:
    published = write_json(tmp_path / "instances_train2017.1@20.json", coco_content([581, 33, 9]))
    output = tmp_path / "labelled.json"
    make_coco_split(annotations, output, CocoSplitSettings(20, published=published))
    assert json.loads(output.read_text()) == [9, 33, 581]


def test_the_unlabelled_counterpart_and_strangers_are_refused(annotations: Path, tmp_path: Path) -> None:
    published = write_json(tmp_path / "instances_train2017.1@20-unlabeled.json", coco_content([*IMAGE_IDS[3:], 4, 6]))
    with pytest.raises(DatasetError) as caught:
        make_coco_split(annotations, tmp_path / "out", CocoSplitSettings(20, published=published))
    assert [problem.where for problem in caught.value.problems] == ["image 4", "image 6", "images"]
    assert caught.value.problems[2].message == "lists 19 images, 20 % of 20 are 4"


def test_the_same_split_again_changes_nothing_another_is_refused(annotations: Path, tmp_path: Path) -> None:
    output = tmp_path / "labelled.json"
    make_coco_split(annotations, output, CocoSplitSettings(20))
    written = output.stat()
    make_coco_split(annotations, output, CocoSplitSettings(20))
    assert (output.stat().st_mtime_ns, output.stat().st_ino) == (written.st_mtime_ns, written.st_ino)
    with pytest.raises(StageError, match="exists and is not this split"):
        make_coco_split(annotations, output, CocoSplitSettings(20, fold=2))


def test_wrong_settings_are_told_together(annotations: Path, tmp_path: Path) -> None:
    with pytest.raises(ProblemsError) as caught:
        make_coco_split(annotations, tmp_path / "out", CocoSplitSettings(percent=100, fold=-1))
    assert [problem.where for problem in caught.value.problems] == ["percent", "fold"]


def test_a_percentage_of_no_image_is_refused(annotations: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="4 % of 20 images is less than one image"):
        make_coco_split(annotations, tmp_path / "out", CocoSplitSettings(percent=4))
