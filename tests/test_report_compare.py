"""`s4m compare`: experiments side by side, with what differs and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.errors import StageError
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.workspace import Workspace
from stages.cli import app
from tests.test_report_page import Page
from tests.tiny_experiment import make_experiment_files
from tests.tiny_results import make_results


@pytest.fixture
def experiments(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Two experiments that share all that comes before refinement; of the second nothing is made yet."""
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    first = make_experiment_files(tmp_path, {"refine": {"seed": 0}}, name="first")
    second = make_experiment_files(
        tmp_path, {"refine": {"seed": 7}, "compute": {"workers": 2}, "student": {"iterations": 500}}, name="second"
    )
    make_results(Workspace(load_experiment(first), tmp_path / "work"), tmp_path / "annotations.json")
    return first, second


def compare(*arguments: str | Path):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def table(html: str, caption: str) -> list[list[str]]:
    """The texts of a table's rows."""
    part = html.split(f"<caption>{caption}</caption>")[1].split("</table>")[0]
    return [
        [Page(f"<td>{cell.split('>', 1)[1].split('</td>')[0]}</td>").text for cell in row.split("<td")[1:]]
        for row in part.split("<tbody>")[1].split("<tr>")[1:]
    ]


def test_only_what_differs_and_can_matter_is_listed(experiments, tmp_path):
    output = tmp_path / "page.html"
    done = compare(*experiments, "--output", output)
    assert done.exit_code == 0, done.output
    html = output.read_text()
    assert table(html, "Settings that differ") == [["refine.seed", "0", "7"], ["student.iterations", "2000", "500"]]


def test_figures_stand_side_by_side_and_what_is_missing_is_said(experiments, tmp_path):
    output = tmp_path / "page.html"
    compare(*experiments, "--output", output)
    html = output.read_text()
    assert table(html, "Mask AP of the last students")[0][:4] == ["first", "29.4", "+4.4", "33.8"]
    assert "second has not been evaluated: make evaluate EXP=second" in Page(html).text
    times = {row[0]: row[1:] for row in table(html, "Time by stage")}
    assert times["predict"] == ["12 s", "12 s", "the same"]
    assert times["refine"] == ["12 s", "–", ""]


def test_of_two_that_are_done_both_are_shown(experiments, tmp_path):
    space = Workspace(load_experiment(experiments[1]), tmp_path / "work")
    for key in ("split", "distill", "train-teacher", "predict"):
        del space.fingerprints[key]  # they are there already
    make_results(space, tmp_path / "annotations.json", gain=-0.1)
    output = tmp_path / "page.html"
    compare(*experiments, "--output", output)
    html = output.read_text()
    assert [row[:4] for row in table(html, "Mask AP of the last students")] == [
        ["first", "29.4", "+4.4", "33.8"],
        ["second", "29.4", "−10.0", "19.4"],
    ]
    assert [row[1:4] for row in table(html, "Mask quality of the pseudo-labels")] == [["0.712", "0.777", "+0.065"]] * 2
    assert "has not been evaluated" not in html


def test_one_experiment_or_one_twice_is_refused(experiments, tmp_path):
    for arguments, message in (
        (experiments[:1], "a comparison needs two experiments or more"),
        ([experiments[0], experiments[0]], "first: the name of more than one experiment"),
        ([], None),
    ):
        done = compare(*arguments, "--output", tmp_path / "page.html")
        assert done.exit_code != 0
        if message is not None:
            assert isinstance(done.exception, StageError)
            assert message in str(done.exception)
    assert not (tmp_path / "page.html").exists()
