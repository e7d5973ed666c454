"""What the terminal says of work under way, and of a command that is stopped."""

from __future__ import annotations

import io
import os
import pickle
import signal

import pytest
from rich.console import Console

from pipeline.compute.execution import ShardProgress
from pipeline.compute.shards import ShardReport
from pipeline.detection.hooks import LoggedStep
from pipeline.presentation.words import figures
from stages import progress
from stages.progress import ProgressDisplay, TrainingDisplay
from stages.stopping import stoppable

STEPS = [
    ShardProgress("refine", 100, 40, 40),
    ShardProgress("refine", 100, 70, 40, ShardReport(30, {"sam": 52, "teacher": 7, "dropped": 3}, {"a.png": "empty"})),
    ShardProgress("refine", 100, 100, 40, ShardReport(30, {"sam": 8}, {})),
]


def test_figures_are_named_in_words():
    decisions = {"images": 1200, "sam": 52, "teacher": 7, "dropped": 3}
    assert figures(decisions) == "images: 1,200, masks from SAM: 52, kept from teacher: 7, dropped: 3"
    assert figures({"instances": 9, "teacher": 9}, "predict") == "instances: 9, labels from teacher: 9"
    assert figures({"loss": 1.25, "page": "report.html"}) == "loss: 1.25, page: report.html"
    assert figures({}) == ""


def test_lines_say_how_far_it_is(monkeypatch, capsys):
    times = iter([0.0, 30.0, 35.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    with ProgressDisplay() as display:
        for step in STEPS:
            display(step)
    assert capsys.readouterr().err.splitlines() == [
        "refine: 40 of 100 images were done before",
        "a.png: empty",
        "refine: 70 of 100 images, 30 s to go, "
        "1.0 images/s, masks from SAM: 52, kept from teacher: 7, dropped: 3, failed: 1",
    ]


def trained_step(iteration: int, seconds: float = 0.5) -> LoggedStep:
    return LoggedStep(iteration, 0.01, seconds, 0.0, {"loss": 2.0})


RECENT = {"loss_cls": 0.25, "loss": 1.5, "loss_mask": 1.25}


def test_a_training_says_its_mean_losses_on_one_line(monkeypatch, capsys):
    times = iter([10.0, 10.0, 15.0, 30.0, 31.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    with TrainingDisplay("train-teacher", 60) as display:
        for iteration in (11, 20, 50, 60):
            display(trained_step(iteration), RECENT)
    losses = "loss 1.500, loss_cls 0.250, loss_mask 1.250"
    assert capsys.readouterr().err.splitlines() == [
        "train-teacher: continuing after iteration 10",
        f"train-teacher: 50 of 60 iterations, 5.1 s to go, 2.0 iterations/s, {losses}",
        f"train-teacher: 60 of 60 iterations, 0.0 s to go, 2.3 iterations/s, {losses}",
    ]


@pytest.mark.parametrize("stops", [False, True])
def test_a_training_has_the_same_bar_and_its_losses_stay_on_one_line(monkeypatch, stops):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=90)
    monkeypatch.setattr(progress, "err", terminal)
    many = RECENT | {f"loss_of_part_{number}": 0.5 for number in range(30)}
    try:
        with pickle.loads(pickle.dumps(TrainingDisplay("train-student", 4))) as display:
            for iteration in range(1, 3 if stops else 5):
                display(trained_step(iteration), many)
            if stops:
                raise KeyboardInterrupt
            assert terminal._live_stack == []
    except KeyboardInterrupt:
        assert stops
    assert terminal._live_stack == []
    shown = terminal.file.getvalue()
    assert shown.endswith("\x1b[?25h")  # the cursor is back
    assert ("4/4" in shown) != stops
    frames = [line for line in shown.splitlines() if "train-student" in line]
    assert all("…" in line for line in frames[1:])
    assert "loss_of_part_29" not in shown


def test_the_cursor_comes_back_where_another_process_showed_the_bar(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=90)
    monkeypatch.setattr(progress, "err", terminal)
    with pytest.raises(KeyboardInterrupt), TrainingDisplay("train-student", 4):
        raise KeyboardInterrupt
    assert terminal.file.getvalue() == "\x1b[?25h"


@pytest.mark.parametrize("stops", [False, True])
def test_a_bar_in_a_terminal_is_ended_whatever_happens(monkeypatch, stops):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=200)
    monkeypatch.setattr(progress, "err", terminal)
    try:
        with ProgressDisplay() as display:
            for step in STEPS[: 2 if stops else 3]:
                display(step)
            if stops:
                raise KeyboardInterrupt
            assert terminal._live_stack == []  # ended with the last shard
    except KeyboardInterrupt:
        assert stops
    assert terminal._live_stack == []
    shown = terminal.file.getvalue()
    assert f"masks from SAM: {52 if stops else 60}, kept from teacher: 7, dropped: 3, failed: 1" in shown
    assert ("100/100" in shown) != stops


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_says_how_to_continue(capsys, number, status):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped, stoppable("refine"):
        os.kill(os.getpid(), number)
    assert stopped.value.code == status
    assert capsys.readouterr().err == ("\nrefine: stopped, finished work is kept. Give the same command to continue.\n")
    assert signal.getsignal(signal.SIGTERM) is before
