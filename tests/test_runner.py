"""Running a stage: why, one at a time, stopped and failing with a way to go on."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.compute.execution import Execution
from pipeline.compute.settings import ComputeSettings
from pipeline.errors import ImageError, StageError
from pipeline.workflow import result_locks
from pipeline.workflow.graph import STAGES
from pipeline.workflow.workspace import State
from stages import runner
from stages.context import StageContext
from stages.options import workspace
from stages.runner import run_stage
from tests.tiny_experiment import environment, make_experiment_files, tiny_experiment


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    return tmp_path


@pytest.fixture
def stage(monkeypatch):
    """Put a function in the place of a stage's module."""

    def put(name: str, function) -> None:
        monkeypatch.setitem(runner.MODULES, name, f"fake.{name}")
        monkeypatch.setitem(sys.modules, f"fake.{name}", SimpleNamespace(run=function))

    return put


def test_a_stage_runs_once_and_is_then_up_to_date(folder, stage, capsys):
    calls: list[str] = []

    def run(context: StageContext):
        calls.append(context.node.key)
        (context.folder / "out").write_text("x")
        return {"images": 3}

    stage("split", run)
    experiment = tiny_experiment(folder)
    run_stage(experiment, "split", 1)
    run_stage(experiment, "split", 1)
    assert calls == ["split"]
    told = capsys.readouterr()
    assert "split: running, not run before\n" in told.err
    assert f"split: up to date, {workspace(experiment).result('split')}\n" in told.err
    assert "s, images: 3\n" in told.out
    assert (workspace(experiment).result("split") / "out").read_text() == "x"


def test_a_failing_stage_names_what_it_holds_back(folder, stage):
    def run(context: StageContext):
        raise ImageError("nothing to see")

    stage("split", run)
    with pytest.raises(StageError) as caught:
        run_stage(tiny_experiment(folder), "split", 1)
    blocked = ", ".join(stage for stage in list(STAGES)[1:] if stage != "adapt")
    assert str(caught.value) == f"nothing to see\nblocked by this: {blocked}"
    assert not list((folder / "stores" / "split").glob("*.partial"))


def test_a_stage_whose_upstream_is_missing_says_what_to_run(folder, stage):
    stage("distill", lambda context: {})
    with pytest.raises(StageError, match="distill needs split first: make split EXP=tiny"):
        run_stage(tiny_experiment(folder), "distill", 1)


def test_a_full_disk_is_told_with_the_way_to_go_on(folder, stage):
    def run(context: StageContext):
        (context.folder / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/shard")

    stage("split", run)
    experiment = tiny_experiment(folder)
    with pytest.raises(
        StageError, match=r"the disk is full \(/somewhere/shard\).*make room, then give the same command"
    ):
        run_stage(experiment, "split", 1)
    space = workspace(experiment)
    fingerprint = space.fingerprints["split"]
    assert (space.store.partial("split", fingerprint.id) / "half").exists()


def test_the_record_says_which_precision_models_computed_in(folder, stage):
    def run(context: StageContext):
        (context.folder / "out").write_text(context.execution.settled.precision)
        return {}

    stage("split", run)
    experiment = tiny_experiment(folder).model_copy(update={"compute": ComputeSettings(precision="bf16")})
    run_stage(experiment, "split", 1)
    space = workspace(experiment)
    fingerprint = space.fingerprints["split"]
    assert space.store.seal_of("split", fingerprint.id).made_by["precision"] == "bf16"
    assert "precision" not in str(fingerprint.to_dict())


def test_another_round_than_there_are_is_refused(folder):
    with pytest.raises(StageError, match=r"student.rounds is 1, there is no round 2"):
        run_stage(tiny_experiment(folder), "refine", 2)


@pytest.mark.slow
def test_two_at_once_share_the_work(folder, stage, monkeypatch):
    monkeypatch.setattr(result_locks, "WAIT_SECONDS", 0.02)
    calls: list[str] = []

    def run(context: StageContext):
        calls.append("run")
        time.sleep(0.5)
        return {}

    stage("split", run)
    experiment = tiny_experiment(folder)
    monkeypatch.setattr(signal, "signal", lambda *_: signal.SIG_DFL)  # only the main thread may set handlers
    threads = [threading.Thread(target=run_stage, args=(experiment, "split", 1)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["run"]
    assert workspace(experiment).is_done("split")


def test_only_what_measures_sees_the_truth_of_unlabelled_images(folder):
    experiment = tiny_experiment(folder)
    space = workspace(experiment)
    truth = folder / "measuring_only/unlabelled_truth.json"
    truth.parent.mkdir()
    truth.write_text("{}")
    for key, node in space.nodes.items():
        context = StageContext(experiment, node, {}, folder, {}, folder, Execution(experiment.compute))
        if key in ("evaluate", "report"):
            assert context.unlabelled_truth() == truth
        else:
            with pytest.raises(StageError, match="may not see the truth of unlabelled images"):
                context.unlabelled_truth()


def test_no_module_but_those_that_write_or_measure_it_names_the_truth():
    root = Path(__file__).parent.parent
    naming = {
        path.relative_to(root).as_posix()
        for package in ("pipeline", "s4m", "stages", "configs")
        for path in (root / package).rglob("*.py")
        if any(word in path.read_text() for word in ("TRUTH", "measuring_only", "unlabelled_truth"))
    }
    writing = {"pipeline/datasets/split.py", "pipeline/datasets/lists.py", "pipeline/datasets/split_off.py"}
    assert naming <= writing | {"stages/context.py", "stages/evaluate.py", "stages/report.py"}


SLOW = """
import signal
import sys
from types import SimpleNamespace
import time
from stages import runner
# As in a terminal: what is started in the background has Ctrl-C ignored from its parent on.
signal.signal(signal.SIGINT, signal.default_int_handler)
def run(context):
    (context.folder / "begun").write_text("x")
    context.say("under way")
    time.sleep(60)
sys.modules["slow"] = SimpleNamespace(run=run)
runner.MODULES["split"] = "slow"
sys.argv = ["s4m", "split", "--exp", sys.argv[1]]
from stages.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_stage_keeps_what_is_done_and_says_how_to_go_on(folder, number, status):
    path = make_experiment_files(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(path)], stderr=subprocess.PIPE, text=True, env=environment(folder)
    )
    said = ""
    while "under way" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(number)
    _, rest = process.communicate(timeout=20)
    assert process.returncode == status
    assert "\nsplit: stopped, finished work is kept. Give the same command to continue.\n" in rest
    assert "Traceback" not in rest
    (partial,) = (folder / "stores/split").glob("*.partial")
    assert (partial / "begun").exists()


def made_twice(stage, calls: list[str]) -> None:
    """Stages split and distill that write a file."""

    def run(context: StageContext):
        calls.append(context.node.key)
        (context.folder / "out").write_text("whole")
        return {}

    stage("split", run)
    stage("distill", run)


def test_a_damaged_input_stops_a_stage_before_it_makes_anything_of_it(folder, stage):
    calls: list[str] = []
    made_twice(stage, calls)
    experiment = tiny_experiment(folder)
    run_stage(experiment, "split", 1)
    out = workspace(experiment).result("split") / "out"
    out.write_text("whole"[::-1])
    with pytest.raises(StageError, match=r"out: content changed\nNothing was made from it. Remove this folder"):
        run_stage(experiment, "distill", 1)
    assert calls == ["split"]
    out.write_text("whole")
    run_stage(experiment, "distill", 1)
    assert calls == ["split", "distill"]


def test_a_result_records_what_it_was_made_from(folder, stage):
    made_twice(stage, [])
    experiment = tiny_experiment(folder)
    run_stage(experiment, "split", 1)
    run_stage(experiment, "distill", 1)
    space = workspace(experiment)
    split, distill = space.fingerprints["split"], space.fingerprints["distill"]
    assert space.store.seal_of("distill", distill.id).consumed == {
        f"split/{split.id}": space.store.seal_of("split", split.id).digest
    }


@pytest.mark.parametrize("content", ["", "{}"])
def test_a_broken_record_is_no_result_for_any_command(folder, stage, content):
    calls: list[str] = []
    made_twice(stage, calls)
    experiment = tiny_experiment(folder)
    run_stage(experiment, "split", 1)
    record = workspace(experiment).result("split") / "seal.json"
    record.write_text(content)
    space = workspace(experiment)
    assert space.status("split").state is State.MISSING
    assert f"Remove the folder {record.parent}" in space.status("split").reasons[0]
    with pytest.raises(StageError, match=f"Remove the folder {record.parent} to make the result again"):
        run_stage(experiment, "split", 1)
    shutil.rmtree(record.parent)
    run_stage(experiment, "split", 1)
    assert calls == ["split", "split"]
