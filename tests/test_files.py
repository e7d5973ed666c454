"""Files that are there whole or not at all."""

from __future__ import annotations

import os

import pytest

from pipeline.files.writing import write_atomically


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
