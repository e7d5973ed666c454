"""Content digests: the same for the same content, and nothing is read twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.files import identity
from pipeline.files.identity import ABSENT, IdentityCache, ImageList, hash_file, list_images


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "city").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.png", "city/c.jpg"]):
        (folder / name).write_bytes(bytes([number]) * 10)
    return folder


@pytest.fixture
def read(monkeypatch):
    """The files that were read, by name, as it goes."""
    seen: list[str] = []

    def noted(path: Path) -> str:
        seen.append(Path(path).name)
        return hash_file(path)

    monkeypatch.setattr(identity, "hash_file", noted)
    return seen


def listing(*names: str, key: str = "list") -> ImageList:
    return ImageList(key, lambda: [f"{number}\t{name}" for number, name in enumerate(names)])


def cache(tmp_path) -> IdentityCache:
    return IdentityCache(tmp_path / "memory.sqlite")


def test_a_set_of_images_is_read_once(tmp_path, images, read):
    names = listing("a.png", "b.png", "city/c.jpg")
    first = cache(tmp_path).images(images, names)
    assert sorted(read) == ["a.png", "b.png", "c.jpg"]
    read.clear()
    assert cache(tmp_path).images(images, names) == first
    assert read == []


def test_a_touched_image_is_read_again_and_is_the_same(tmp_path, images, read):
    names = listing("a.png", "b.png")
    first = cache(tmp_path).images(images, names)
    read.clear()
    os.utime(images / "a.png", ns=(1, 1))
    assert cache(tmp_path).images(images, names) == first
    assert read == ["a.png"]


def test_a_changed_image_changes_the_set(tmp_path, images):
    names = listing("a.png", "b.png")
    first = cache(tmp_path).images(images, names)
    (images / "a.png").write_bytes(b"other")
    assert cache(tmp_path).images(images, names) != first


def test_trust_takes_images_as_they_last_were(tmp_path, images, read):
    names = listing("a.png", "b.png")
    first = cache(tmp_path).images(images, names)
    (images / "a.png").write_bytes(b"other")
    read.clear()
    assert cache(tmp_path).images(images, names, trust=True) == first
    assert read == []
    assert cache(tmp_path).images(images, names) != first


def test_ids_names_and_absence_count(tmp_path, images):
    memory = cache(tmp_path)
    digests = {
        memory.images(images, listing("a.png", "b.png", key="1")),
        memory.images(images, listing("b.png", "a.png", key="2")),  # other ids
        memory.images(images, listing("a.png", key="3")),
        memory.images(images, listing("a.png", "none.png", key="4")),
        memory.images(images, listing("a.png", "no\x00ne.png", key="5")),
    }
    assert len(digests) == 5


def test_files_that_are_not_in_the_set_do_not_count(tmp_path, images):
    names = listing("a.png")
    first = cache(tmp_path).images(images, names)
    (images / "stray.png").write_bytes(b"x")
    (images / "b.png").unlink()
    assert cache(tmp_path).images(images, names) == first


def test_a_moved_folder_is_the_same_set(tmp_path, images):
    names = listing("a.png", "city/c.jpg")
    first = cache(tmp_path).images(images, names)
    moved = images.rename(tmp_path / "moved")
    assert cache(tmp_path).images(moved, names) == first


def test_a_list_is_parsed_once(tmp_path, images):
    calls: list[int] = []

    def read() -> list[str]:
        calls.append(1)
        return ["1\ta.png"]

    for _ in range(3):
        cache(tmp_path).images(images, ImageList("digest of the file", read))
    assert len(calls) == 1


def test_a_missing_file_is_absent(tmp_path):
    assert cache(tmp_path).file(tmp_path / "none") == ABSENT
    assert hash_file(tmp_path) == ABSENT


def test_a_file_that_appears_is_seen(tmp_path):
    memory = cache(tmp_path)
    assert memory.file(tmp_path / "weights") == ABSENT
    (tmp_path / "weights").write_bytes(b"w")
    assert memory.file(tmp_path / "weights") == hash_file(tmp_path / "weights")


def test_a_damaged_memory_is_begun_anew(tmp_path, images):
    first = cache(tmp_path).images(images, listing("a.png"))
    (tmp_path / "memory.sqlite").write_bytes(b"this is no database, whatever its name says" * 100)
    assert cache(tmp_path).images(images, listing("a.png")) == first


def test_images_of_a_folder_are_listed_by_path(images):
    (images / "notes.txt").write_text("no image")
    (images / "UPPER.PNG").write_bytes(b"x")
    assert list_images(images) == ["UPPER.PNG", "a.png", "b.png", "city/c.jpg"]


@pytest.mark.parametrize(
    "name", [".png", "a.", "a", "..png", "a..png", ".a.png", "png", "a.png.", "a.b/c.Png", "\udcff.png"]
)
def test_image_files_are_known_by_the_ending_of_their_names(tmp_path, monkeypatch, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    expected = [name] if Path(name).suffix.lower() == ".png" else []
    monkeypatch.chdir(tmp_path)
    assert list_images(tmp_path) == list_images(Path()) == expected


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_stamps_are_taken_in_parts_as_of_all_images(tmp_path, monkeypatch, at_once):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        (images / f"{number}.png").write_bytes(b"image" * number)
    listed = listing("0.png", "1.png", "2.png")
    first = cache(tmp_path).images(images, listed)
    monkeypatch.setattr("pipeline.files.identity.STAMPED_AT_ONCE", at_once)
    monkeypatch.setattr("pipeline.files.identity.hash_file", None)  # nothing is read again
    assert cache(tmp_path).images(images, listed) == first
