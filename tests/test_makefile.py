"""make tells the truth: what would run, that nothing would, and why something did."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.workflow.graph import STAGES
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.workspace import Workspace
from tests.tiny_experiment import environment, make_experiment_files
from tests.tiny_results import make_results

ROOT = Path(__file__).parent.parent


class Make:
    """Runs the project's Makefile on an experiment in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.experiment = make_experiment_files(folder)

    def __call__(self, *words: str, exp: Path | str | None = None) -> subprocess.CompletedProcess[str]:
        inherited = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
        clean = {key: value for key, value in environment(self.folder).items() if key not in inherited}
        command = [
            "make",
            f"EXP={exp or self.experiment}",
            f"BIN={Path(sys.executable).parent}",
            "SETUP=",
            *words,
        ]
        return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=120)

    def would_run(self, target: str, *words: str, exp: Path | str | None = None) -> list[str]:
        """The stages that `make -n` names, in order; `make -q` must agree."""
        dry = self("-n", target, *words, exp=exp)
        assert dry.returncode == 0, dry.stderr
        stages = re.findall(r"s4m ([a-z-]+) --exp", dry.stdout)
        assert self("-q", target, *words, exp=exp).returncode == (1 if stages else 0)
        return stages


@pytest.fixture
def make(tmp_path):
    return Make(tmp_path)


@pytest.mark.slow
def test_every_stage_that_is_missing_would_run_in_order(make):
    adapted = "SET=adapt.enabled=true adapt.for_distillation=true"
    assert make.would_run("report", adapted) == list(STAGES)
    assert make.would_run("refine", adapted) == list(STAGES)[:6]
    assert make.would_run("report") == [stage for stage in STAGES if stage != "adapt"]


@pytest.mark.slow
def test_a_stage_runs_once(make):
    first = make("split")
    assert first.returncode == 0, first.stderr
    assert "split: running, not run before" in first.stderr
    assert "split: done in " in first.stdout
    assert make.would_run("split") == []
    assert "Nothing to be done" in make("split").stdout


@pytest.mark.slow
def test_nothing_runs_again_for_a_touched_image_other_workers_or_another_name(make):
    make("split")
    for image in (make.folder / "images").iterdir():
        os.utime(image, ns=(1, 1))
    assert make.would_run("split") == []
    assert make.would_run("split", "WORKERS=4", "GPUS=2") == []
    assert make.would_run("split", "SET=name=renamed") == []
    renamed = make.experiment.rename(make.folder / "other.yaml")
    assert make.would_run("split", exp=renamed) == []


@pytest.mark.slow
def test_nothing_runs_again_after_everything_was_moved(make):
    make("split")
    moved = make.folder.parent / "moved"
    make.folder.rename(moved)
    text = (moved / "tiny.yaml").read_text().replace(str(make.folder), str(moved))
    (moved / "tiny.yaml").write_text(text)
    make.folder = moved
    assert make.would_run("split", exp=moved / "tiny.yaml") == []


@pytest.mark.slow
def test_a_setting_runs_its_stage_again_and_says_why(make):
    make("split")
    assert make.would_run("split", "SET=data.percent=70") == ["split"]
    again = make("split", "SET=data.percent=70")
    assert "split: running, data.percent changed from 50.0 to 70.0" in again.stderr
    # The result of the first setting is still there: it is taken into use without a run.
    assert make.would_run("split") == []


@pytest.mark.slow
def test_a_changed_annotation_file_runs_the_split_again(make):
    make("split")
    path = make.folder / "annotations.json"
    path.write_text(path.read_text() + " ")
    assert make.would_run("split") == ["split"]


@pytest.mark.slow
def test_a_result_that_was_deleted_is_made_again(make):
    make("split")
    for folder in (make.folder / "stores/split").iterdir():
        for path in folder.iterdir():
            path.unlink() if path.is_file() else [each.unlink() for each in path.iterdir()] and path.rmdir()
        folder.rmdir()
    assert make.would_run("split") == ["split"]


@pytest.mark.slow
def test_a_stage_that_is_left_out_says_why(make):
    assert make.would_run("train-teacher", "SET=teacher.distillation_weight=0") == ["split", "train-teacher"]
    left_out = make("distill", "SET=teacher.distillation_weight=0")
    assert left_out.returncode == 0
    assert "distill: left out, teacher.distillation_weight is 0" in left_out.stdout


@pytest.mark.slow
def test_every_round_is_one_make(make):
    stages = make.would_run("report", "SET=student.rounds=2")
    assert [stages.count(name) for name in ("predict", "refine", "augment", "train-student")] == [2, 2, 2, 2]
    dry = make("-n", "train-student", "SET=student.rounds=2").stdout
    assert "s4m train-student --exp" in dry
    assert dry.rstrip().endswith("--round 2")


@pytest.mark.slow
def test_a_report_ends_with_where_it_is_also_when_nothing_was_to_be_done(make):
    space = Workspace(load_experiment(make.experiment, [f"store={make.folder / 'stores'}"], {}), make.folder / "work")
    make_results(space, make.folder / "annotations.json")
    where = [f"report: {space.folder}/report.html", f"student: {space.folder}/student"]
    first = make("report")
    assert "report: done in " in first.stdout, first.stderr
    assert first.stdout.splitlines()[-2:] == where
    assert "<html" in (space.folder / "report.html").read_text()
    again = make("report")
    assert again.stdout.splitlines() == where
    assert make.would_run("report") == []
    assert make("-n", "report").stdout.count("report.html") == 0
    assert make("refine").stdout.count("report.html") == 0


def test_an_experiment_with_problems_stops_make_with_its_messages(make):
    stopped = make("refine", "SET=refine.pionts=3")
    assert stopped.returncode == 2
    assert "refine.pionts (set over the file): unknown key; did you mean refine.points?" in stopped.stderr
    assert "cannot be used, for the reasons above" in stopped.stderr
    assert "Traceback" not in stopped.stderr


def test_without_an_experiment_and_without_the_demo_one_line_says_what_to_do(tmp_path):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "setup.sh").symlink_to("/bin/true")
    clean = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "EXP")}

    def make(*words: str, **more: str) -> str:
        command = ["make", "SETUP=", "S4M=false", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=clean | more, capture_output=True, text=True, timeout=60
        ).stderr

    (told,) = make("report").splitlines()
    assert re.sub(r"^Makefile:\d+: ", "", told) == (
        "*** no experiment is given: name one (make report EXP=NAME; s4m new NAME writes its file), "
        "or run: make demo.  Stop."
    )
    (tmp_path / "data/generated/demo").mkdir(parents=True)
    (tmp_path / "data/generated/demo/train.json").touch()
    assert "the experiment cannot be used" in make("report")  # the graph was asked for
    assert "the experiment cannot be used" in make("report", "EXP=mine")
    assert "the experiment cannot be used" in make("report", EXP="mine")


@pytest.mark.slow
def test_stages_in_parallel_are_the_same_graph(make):
    assert make("-j4", "split").returncode == 0
    assert make.would_run("split") == []


def test_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?m)^([a-z][a-z-]*):", text))
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {target for target in targets if f"  {target} " not in listed} == {"format-check"}
