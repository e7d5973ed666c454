"""Files that are there whole or not at all; locks that go with their process; scratch; room on the disk."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from pipeline.errors import StageError
from pipeline.files.disk import explained_if_full, require_room
from pipeline.files.locks import exclusive_lock, is_locked
from pipeline.files.scratch import scratch_beside
from pipeline.files.writing import open_atomically, write_atomically


def test_a_file_written_atomically_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "record"
    path.write_text("before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "after")
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["record"]


@pytest.mark.parametrize(("keep_existing", "winner"), [(False, b"second"), (True, b"first")])
def test_of_two_writers_the_last_wins_or_the_first(tmp_path, keep_existing, winner):
    for content in (b"first", b"second"):
        with open_atomically(tmp_path / "new" / "file", keep_existing=keep_existing) as file:
            file.write(content)
    assert (tmp_path / "new" / "file").read_bytes() == winner
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["file"]


@pytest.mark.parametrize("keep_existing", [False, True])
def test_the_folder_is_flushed_after_the_file_has_its_name(tmp_path, monkeypatch, keep_existing):
    flushed: list[tuple[str, bool]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        flushed.append(("folder" if name == str(tmp_path) else "file", (tmp_path / "a").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    with open_atomically(tmp_path / "a", keep_existing=keep_existing) as file:
        file.write(b"1")
    assert flushed == [("file", False), ("folder", True)]


def hold(path: Path) -> None:
    with exclusive_lock(path) as file:
        file.write("held")
        file.flush()
        time.sleep(60)


def test_a_lock_keeps_other_processes_off_and_goes_with_its_process(tmp_path):
    path = tmp_path / "new" / "lock"
    assert not is_locked(path)
    process = multiprocessing.get_context("fork").Process(target=hold, args=(path,))
    process.start()
    while not (path.exists() and path.read_text() == "held"):
        time.sleep(0.001)
    assert is_locked(path)
    with pytest.raises(BlockingIOError), exclusive_lock(path):
        pass
    process.kill()
    process.join()
    assert not is_locked(path)
    with exclusive_lock(path):
        assert is_locked(path)
    assert path.read_text() == "held"


def test_scratch_goes_at_the_end_whatever_happens(tmp_path):
    for error in (None, KeyboardInterrupt):
        try:
            with scratch_beside(tmp_path / "new" / "table") as folder:
                (folder / "part").touch()
                assert folder.parent == tmp_path / "new"
                if error:
                    raise error
        except KeyboardInterrupt:
            pass
        assert list((tmp_path / "new").iterdir()) == []


def test_a_full_disk_is_explained_and_nothing_else(tmp_path):
    for code in (errno.ENOSPC, errno.EDQUOT):
        with (
            pytest.raises(StageError, match=r"a/b: the disk is full .*: 2\.5 MB to write, .* MB free\. Make room"),
            explained_if_full(tmp_path / "a" / "b", 2_500_000),
        ):
            raise OSError(code, "full")
    with pytest.raises(OSError, match="broken"), explained_if_full(tmp_path, 1):
        raise OSError(errno.EIO, "broken")


def test_room_that_is_not_there_is_told_beforehand(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    require_room(tmp_path / "new", free // 2, "the figures", "Make room.")
    with pytest.raises(StageError, match=r"new: the figures take up to .* MB, .* MB are free\. Make room\."):
        require_room(tmp_path / "new", free * 2, "the figures", "Make room.")
