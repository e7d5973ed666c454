"""The lists that all stages work from, however an experiment names its images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import TypeAdapter

from pipeline.coco.reading import read_coco
from pipeline.datasets.lists import UNREADABLE, VALIDATION, ListCounts, write_lists
from pipeline.datasets.settings import DataSettings, ListedData, PairedData, PercentData
from pipeline.datasets.split import LABELLED, TRUTH, UNLABELLED
from pipeline.errors import DatasetError
from pipeline.files import known_files
from pipeline.files.identity import hash_file
from pipeline.files.known_files import KnownFiles
from tests.tiny_coco import TinyCoco, tiny_coco, write_json


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def labelled(tmp_path):
    return tiny_coco(tmp_path / "labelled", images=4)


@pytest.fixture
def others(tmp_path):
    return tiny_coco(tmp_path / "others", images=5, seed=1)


def annotated(of: TinyCoco) -> dict[str, str]:
    return {"annotations": str(of.annotations), "images": str(of.image_root)}


def settings(**data: Any) -> PairedData | PercentData | ListedData:
    return TypeAdapter(DataSettings).validate_python(data, strict=False)


def names(path: Path) -> list[str]:
    return [image["file_name"] for image in json.loads(path.read_text())["images"]]


def test_one_annotated_set_is_divided(labelled, out):
    counts = write_lists(settings(annotated=annotated(labelled), percent=25), out)
    assert counts == ListCounts(labelled=1, unlabelled=3)
    assert len(read_coco(out / LABELLED).images) == 1
    assert sorted(names(out / LABELLED) + names(out / UNLABELLED)) == names(labelled.annotations)


def test_a_published_list_decides(labelled, out, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("0002.png\n0004\n")
    write_lists(settings(annotated=annotated(labelled), labelled_list=str(listed)), out)
    assert names(out / LABELLED) == ["0002.png", "0004.png"]


def test_a_folder_is_enough_for_unlabelled_images(labelled, others, out):
    (others.image_root / "broken.png").write_bytes(b"no image")
    (others.image_root / "empty.jpg").write_bytes(b"")
    counts = write_lists(settings(labelled=annotated(labelled), unlabelled={"images": str(others.image_root)}), out)
    assert counts == ListCounts(labelled=4, unlabelled=5, unreadable=2)
    content = json.loads((out / UNLABELLED).read_text())
    assert content["images"][0] == {"id": 1, "file_name": "0001.png", "width": 64, "height": 48}
    assert not (out / TRUTH).exists()
    reasons = (out / UNREADABLE).read_text().splitlines()
    assert [line.partition(":")[0] for line in reasons] == ["broken.png", "empty.jpg"]


def test_what_is_known_of_unlabelled_images_lies_apart(labelled, others, out):
    write_lists(settings(labelled=annotated(labelled), unlabelled=annotated(others)), out)
    assert set(json.loads((out / UNLABELLED).read_text())) == {"images", "categories"}
    assert len(read_coco(out / TRUTH).annotations) == len(others.masks)


def test_labelled_and_validation_images_in_the_same_folder_are_not_unlabelled_too(labelled, others, out):
    for name in ("0001.png", "0002.png"):
        shutil.copy(others.image_root / name, labelled.image_root / f"measured {name}")
    changed = Image.open(labelled.image_root / "0001.png")
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save(labelled.image_root / "new.png")
    shutil.copy(labelled.image_root / "0001.png", labelled.image_root / "copy of a labelled one.png")
    counts = write_lists(
        settings(
            labelled=annotated(labelled),
            unlabelled={"images": str(labelled.image_root)},
            validation=annotated(others),
        ),
        out,
    )
    assert counts == ListCounts(labelled=4, unlabelled=1, validation=5, left_out=(5, 2))
    assert names(out / UNLABELLED) == ["new.png"]


def test_listed_unlabelled_images_are_left_out_by_content_too(labelled, others, out):
    shutil.copy(labelled.image_root / "0001.png", others.image_root / "0002.png")
    counts = write_lists(settings(labelled=annotated(labelled), unlabelled=annotated(others)), out)
    assert counts.left_out == (1, 0)
    assert "0002.png" not in names(out / UNLABELLED)
    assert "0002.png" not in names(out / TRUTH)


def test_validation_images_that_a_file_lists_as_unlabelled_are_only_counted(labelled, others, out):
    shutil.copy(others.image_root / "0001.png", others.image_root / "0002.png")
    listed = settings(labelled=annotated(labelled), unlabelled=annotated(others), validation=annotated(others))
    assert write_lists(listed, out) == ListCounts(4, 5, validation=5, validation_too=(0, 5))


def test_only_files_of_equal_sizes_are_read_to_compare_them(tmp_path, monkeypatch):
    contents = {"a": b"1234", "copy": b"1234", "other": b"4321", "longer": b"12345", "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    read = []
    monkeypatch.setattr(known_files, "hash_file", lambda path: read.append(path.name) or hash_file(path))
    known = KnownFiles([tmp_path / "a", tmp_path / "missing", tmp_path / "empty"])
    found = [name for name in (*contents, "missing", "absent") if tmp_path / name in known]
    assert found == ["a", "copy", "empty", "missing"]
    assert read == ["a", "copy", "other"]


def test_validation_images_are_listed(labelled, others, out):
    write_lists(settings(annotated=annotated(labelled), percent=50, validation=annotated(others)), out)
    assert names(out / VALIDATION) == names(others.annotations)


def test_validation_images_that_are_labelled_or_unlabelled_too_are_counted(labelled, others, out, tmp_path):
    apart = settings(labelled=annotated(labelled), unlabelled=annotated(others), validation=annotated(labelled))
    assert write_lists(apart, out).validation_too == (4, 0)
    pool = settings(annotated=annotated(labelled), percent=25, validation=annotated(labelled))
    assert write_lists(pool, out).validation_too == (1, 3)
    clean = settings(annotated=annotated(labelled), percent=25, validation=annotated(others))
    assert write_lists(clean, out).validation_too == (0, 0)


def renamed_category(content: dict[str, Any]) -> None:
    content["categories"][0]["name"] = "other"


def added_category(content: dict[str, Any]) -> None:
    content["categories"].append({"id": 99, "name": "new"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed_category, "category 3: named 'other', but 'category 3' in "),
        (added_category, "category 99 (new): not in "),
    ],
)
def test_validation_with_other_categories_is_refused(labelled, others, out, tmp_path, change, message):
    change(others.content)
    path = write_json(tmp_path / "changed.json", others.content)
    data = settings(
        annotated=annotated(labelled),
        percent=50,
        validation={"annotations": str(path), "images": str(others.image_root)},
    )
    with pytest.raises(DatasetError) as caught:
        write_lists(data, out)
    (problem,) = caught.value.problems
    assert str(problem).startswith(message)


def test_nothing_left_to_learn_from_is_refused(labelled, others, out, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for images in (labelled.image_root, empty):
        with pytest.raises(DatasetError, match="unlabelled"):
            write_lists(settings(labelled=annotated(labelled), unlabelled={"images": str(images)}), out)
    folder = {"images": str(others.image_root)}
    with pytest.raises(DatasetError, match="every image is a labelled or a validation image"):
        write_lists(settings(labelled=annotated(labelled), unlabelled=folder, validation=annotated(others)), out)
    with pytest.raises(DatasetError, match="no image is left"):
        write_lists(settings(annotated=annotated(labelled), percent=99.9), out)


def test_the_same_settings_write_the_same_bytes(labelled, out, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    data = settings(annotated=annotated(labelled), percent=50, seed=5)
    write_lists(data, out)
    write_lists(data, again)
    files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert all((out / file).read_bytes() == (again / file).read_bytes() for file in files)
