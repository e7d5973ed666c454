"""What the terminal says of work under way, and of a command that is stopped."""

from __future__ import annotations

import io
import os
import signal

import pytest
from rich.console import Console

from pipeline.compute.execution import ShardProgress
from pipeline.compute.shards import ShardReport
from stages import progress
from stages.console import figures
from stages.progress import ProgressDisplay
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
