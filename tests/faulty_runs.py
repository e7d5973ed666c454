"""Runs stages of a tiny whole experiment with faults, and compares what they leave with an undisturbed run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

from pipeline.workflow.graph import STAGES
from pipeline.workflow.result_store import StoreRoot
from tests.faults import Call, Fault, start_with_fault
from tests.processes import session_of
from tests.tiny_experiment import environment
from tests.whole_experiment import content_of, make_whole_experiment

SECONDS: Final = 300
NO_FAULT: Final = Fault(Call(0))

UNCOMPARED = ("stores/.locks", "stores/.ref", "work/tiny/student", "work/tiny/report.html")
"""Files of the moment, and links to results, which a copy of a folder does not keep."""

RUN_STAGES = tuple(stage for stage in STAGES if stage != "adapt")
"""The stages of the experiment; it does not adapt SAM, as is the default."""


@dataclass(frozen=True)
class Whole:
    """An experiment that ran undisturbed. folder: its files, with `stores` and `work`."""

    folder: Path

    @property
    def experiment(self) -> Path:
        return self.folder / "tiny.yaml"

    def result(self, stage: str) -> Path:
        (found,) = (self.folder / "stores" / stage).iterdir()
        return found

    def before(self, stage: str, folder: Path) -> Path:
        """Copy store and work folder to where they were before a stage ran."""
        shutil.copytree(self.folder / "stores", folder / "stores")
        shutil.copytree(self.folder / "work", folder / "work")
        for later in list(RUN_STAGES)[list(RUN_STAGES).index(stage) :]:
            shutil.rmtree(folder / "stores" / later)
            (folder / "work/tiny" / f"{later}.done").unlink()
        for references in (folder / "stores/.references").iterdir():
            if not (folder / "stores" / references.name).exists():
                shutil.rmtree(references)
        return folder


def make_whole(folder: Path) -> Whole:
    """Run the whole experiment undisturbed."""
    made = Whole(folder)
    make_whole_experiment(folder)
    for stage in RUN_STAGES:
        run_undisturbed(made, stage, folder)
    return made


def start(whole: Whole, stage: str, folder: Path, fault: Fault, *words: str) -> ForkServerProcess:
    """Run a stage on the store and work folder below `folder`, with a fault there."""
    command = [stage, "--exp", whole.experiment, *words]
    counted = folder.with_name(f"{folder.name}.count")
    return start_with_fault(
        command, environment_of(folder), fault, folder, folder.with_name(f"{folder.name}.txt"), counted
    )


def environment_of(folder: Path, name: str = "") -> dict[str, str]:
    """Return the environment for commands: store, work folder (of that name) and temporary files at a folder."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    temporary.mkdir(exist_ok=True)
    work = {"S4M_WORK": str(folder / f"work-{name}")} if name else {}
    return environment(folder) | work | {"TMPDIR": str(temporary)}


def run_undisturbed(whole: Whole, stage: str, folder: Path) -> str:
    """Run a stage without a fault; give what it said."""
    status, told = end(start(whole, stage, folder, NO_FAULT), folder)
    assert status == 0, told
    return told


def end(process: ForkServerProcess, folder: Path) -> tuple[int, str]:
    """Wait for a process; give its status and what it said. Nothing of it may be left, and no traceback said."""
    process.join(SECONDS)
    assert process.exitcode is not None, "it hangs"
    deadline = time.monotonic() + 5
    while session_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not session_of(process.pid)
    told = folder.with_name(f"{folder.name}.txt").read_text()
    assert "Traceback" not in told, told
    return process.exitcode, told


def files_of(folder: Path) -> set[str]:
    """The files of store and work folder that do not change from run to run."""
    found = (path.relative_to(folder).as_posix() for top in ("stores", "work") for path in (folder / top).rglob("*"))
    return {name for name in found if "tensorboard" not in name and not name.startswith(UNCOMPARED)}


def require_as_undisturbed(whole: Whole, stage: str, folder: Path) -> None:
    """Compare result, store and work folder with those of the undisturbed run."""
    result = folder / "stores" / stage / whole.result(stage).name
    assert _without_times(content_of(result)) == _without_times(content_of(whole.result(stage)))
    assert StoreRoot(folder / "stores").verify(stage, result.name) == []
    later = [each for each in RUN_STAGES if list(RUN_STAGES).index(each) > list(RUN_STAGES).index(stage)]
    expected = {name for name in files_of(whole.folder) if name.split("/")[1] not in later}
    expected -= {f"work/tiny/{each}.done" for each in later}
    assert files_of(folder) == expected, files_of(folder) ^ expected
    hidden = [path for path in (folder / "stores").rglob(".*") if path.parent != folder / "stores"]
    assert hidden == []


def _without_times(content: Mapping[str, Any]) -> dict[str, Any]:
    """Reports say when and how fast results were made; a training's config says where."""
    return {name: None if name in ("report.html", "training.py") else each for name, each in content.items()}


@contextmanager
def folder_for(tmp_path: Path, name: str) -> Iterator[Path]:
    """A folder whose content is removed at the end: there are thousands."""
    folder = tmp_path / name
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder.with_name(f"{name}.tmp"), ignore_errors=True)


@cache
def calls_of(whole: Whole, stage: str, calls: Call) -> int:
    """Count the calls of an undisturbed stage."""
    with folder_for(whole.folder.parent, f"count-{stage}-{int(calls)}-{os.getpid()}") as folder:
        status, told = end(start(whole, stage, whole.before(stage, folder), Fault(calls)), folder)
        assert status == 0, told
        require_as_undisturbed(whole, stage, folder)
        return int(folder.with_name(f"{folder.name}.count").read_text())
