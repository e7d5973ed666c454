"""Checkpoints of a training: damage is found and told, the one before is used, and nothing in a file is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from pipeline.detection.checkpoints import checkpoints, load_checkpoint, newest_sound, save_checkpoint
from pipeline.errors import StageError


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with two checkpoints."""
    monkeypatch.chdir(tmp_path)
    for iteration in (2, 4):
        save_checkpoint(tmp_path, iteration, {"model": {"a": torch.full((4000,), float(iteration))}})
    return tmp_path


def change_4_kib(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(byte ^ 255 for byte in content[middle : middle + 4096])
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def put_code(path: Path) -> None:
    torch.save({"iteration": Evil()}, path, pickle_module=pickle)


def put_another(path: Path) -> None:
    path.write_bytes(checkpoints(path.parent)[0].read_bytes())


def put_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = [change_4_kib, empty, cut, put_code, put_another, put_zeros]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(folder, damage):
    before, last = checkpoints(folder)
    damage(last)
    said: list[str] = []
    path, state = newest_sound(folder, said.append)
    assert (path, state["iteration"], float(state["model"]["a"][0])) == (before, 2, 2.0)
    (message,) = said
    assert message.startswith(f"{last}: damaged, or not a checkpoint of this program (")
    assert message.endswith(f"It is removed, and the one before it is used, {before.name}.")
    assert checkpoints(folder) == [before]
    assert not (folder / "evil").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_training_without_a_sound_checkpoint_starts_again_and_says_so(folder, damage):
    first, last = checkpoints(folder)
    damage(last)
    empty(first)
    said: list[str] = []
    assert newest_sound(folder, said.append) is None
    assert len(said) == 2
    assert said[1].endswith("It is removed, and the training starts again.")
    assert checkpoints(folder) == []


def test_a_training_that_begins_says_nothing(tmp_path):
    said: list[str] = []
    assert newest_sound(tmp_path, said.append) is None
    assert said == []


@pytest.mark.slow
def test_any_changed_byte_is_found_or_without_effect(tmp_path):
    path = save_checkpoint(tmp_path, 2, {"model": {"a": torch.arange(5.0)}})
    content = path.read_bytes()
    refused = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            state = load_checkpoint(path)
        except StageError:
            refused += 1
        else:
            assert state["iteration"] == 2
            assert state["model"]["a"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert refused > 500


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_message_says_how_to_run_the_code_in_a_file(folder, damage):
    last = checkpoints(folder)[-1]
    damage(last)
    with pytest.raises(StageError) as caught:
        load_checkpoint(last)
    assert "weights_only" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_checkpoint_that_cannot_be_read_now_is_kept(folder, monkeypatch):
    """A disk that fails is no damage of the file."""

    def fails(*_arguments, **_named):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="Input/output"):
        patched.setattr(Path, "open", fails)
        newest_sound(folder, lambda _: None)
    assert len(checkpoints(folder)) == 2
