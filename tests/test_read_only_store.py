"""A complete store that may only be read is used as any other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.options import workspace
from stages.runner import run_stage
from tests.test_makefile import Make
from tests.tiny_experiment import environment
from tests.tiny_results import make_results

NOBODY = 65534


@pytest.fixture
def make(tmp_path, monkeypatch) -> Iterator[Make]:
    """An experiment with all results in a store that may only be read, and a work folder that is new."""
    made = Make(tmp_path)
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "first"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    from pipeline.workflow.loading import load_experiment

    experiment = load_experiment(made.experiment)
    space = workspace(experiment)
    make_results(space, tmp_path / "annotations.json")
    for key in space.fingerprints:
        if key != "report":
            space.point(key)
    run_stage(experiment, "report", 1)
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "stores/.references")
    with read_only(tmp_path / "stores"):
        yield made


class read_only:
    """Mount a folder again so that it may only be read, where this process may; else take its permissions away."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_mounted = False

    def __enter__(self) -> None:
        if os.geteuid():
            self._permit("a-w")
            return
        bound = subprocess.run(["mount", "--bind", self._folder, self._folder], check=False, capture_output=True)
        if bound.returncode:
            pytest.skip("this user may write everywhere, and may not mount")
        self._is_mounted = True
        subprocess.run(["mount", "-o", "remount,bind,ro", self._folder, self._folder], check=True)

    def __exit__(self, *_: object) -> None:
        if self._is_mounted:
            subprocess.run(["umount", self._folder], check=True)
        else:
            self._permit("u+w")

    def _permit(self, mode: str) -> None:
        subprocess.run(["chmod", "-R", mode, self._folder], check=True)


@pytest.mark.slow
def test_make_uses_a_complete_store_that_may_only_be_read(make):
    with pytest.raises(OSError, match="Read-only|Permission"):
        (make.folder / "stores/new").touch()
    used = make("report")
    assert used.returncode == 0, used.stderr
    assert "running" not in used.stderr
    assert make.would_run("report") == []
    assert (make.folder / "work/tiny/report.done").exists()


@pytest.mark.slow
def test_commands_read_a_store_that_may_only_be_read(make):
    make("report")
    for words in (["stores"], ["stores", "verify"], ["status", "--exp", make.experiment], ["stores", "prune", "--yes"]):
        told = s4m(make.folder, *words)
        assert (told.returncode, "Traceback" in told.stderr) == (0, False), told.stderr


@pytest.mark.slow
def test_a_result_that_is_missing_in_a_store_that_may_only_be_read_is_told(make):
    told = make("split", "SET=data.percent=70")
    assert told.returncode == 2
    assert "Traceback" not in told.stderr
    assert f"{make.folder}/stores" in told.stderr
    assert "may only be read" in told.stderr


def s4m(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "s4m"), *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=120)
