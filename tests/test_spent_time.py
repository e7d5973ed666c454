"""The time of a result counts over all runs that made it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pipeline.errors import StageError
from pipeline.workflow import spent_time
from pipeline.workflow.spent_time import SPENT, SpentTime
from stages import runner
from stages.context import StageContext
from stages.options import workspace
from stages.runner import run_stage
from tests.tiny_experiment import tiny_experiment


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(spent_time, "time", made)
    return made


def test_an_interrupted_run_counts(tmp_path, clock):
    (tmp_path / "half").touch()
    first = SpentTime(tmp_path)
    clock.now += 40
    first.interrupted()
    clock.now += 5000
    second = SpentTime(tmp_path)
    clock.now += 2.5
    assert second.finish() == pytest.approx(42.5)
    assert [path.name for path in tmp_path.iterdir()] == ["half"]


def test_a_killed_run_counts_until_its_last_note(tmp_path, clock):
    first = pickle.loads(pickle.dumps(SpentTime(tmp_path)))
    for _ in range(4):
        clock.now += 8
        first.note()  # at 16 and at 32
    clock.now += 7
    assert SpentTime(tmp_path).seconds == pytest.approx(32)


def test_nothing_is_noted_where_nothing_was_made(tmp_path, clock):
    clock.now += 3
    SpentTime(tmp_path).interrupted()
    SpentTime(tmp_path / "removed").interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", '"3"', "-1", "Infinity", "NaN", "[1]"])
def test_a_damaged_note_counts_as_none(tmp_path, clock, content):
    (tmp_path / SPENT).write_text(content)
    assert SpentTime(tmp_path).seconds == 0


def test_half_a_note_of_a_killed_run_does_not_become_part_of_the_result(tmp_path, clock):
    (tmp_path / f".{SPENT}.host.1.2").write_text("4")
    SpentTime(tmp_path).finish()
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_fails_and_is_run_again_took_the_time_of_both(tmp_path, monkeypatch, clock, capsys):
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))

    def run(context: StageContext) -> dict[str, int]:
        clock.now += 60
        if not (context.folder / "half").exists():
            (context.folder / "half").touch()
            raise StageError("no more")
        return {}

    monkeypatch.setattr(runner.importlib, "import_module", lambda name: type("Fake", (), {"run": staticmethod(run)}))
    experiment = tiny_experiment(tmp_path)
    with pytest.raises(StageError, match="no more"):
        run_stage(experiment, "split", 1)
    run_stage(experiment, "split", 1)
    assert "split: done in 2 min\n" in capsys.readouterr().out
    assert sorted(path.name for path in Path(workspace(experiment).result("split")).iterdir()) == [
        "files.json",
        "half",
        "seal.json",
    ]
