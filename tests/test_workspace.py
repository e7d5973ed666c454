"""An experiment's records: what is done, what is stale and why, and results that are shared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.errors import StageError
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.workspace import State, Workspace, register_references
from tests.tiny_experiment import make_experiment_files, tiny_experiment


@pytest.fixture
def space(tmp_path):
    """Opens the workspace of the tiny experiment with values set over it."""
    return lambda *overrides: Workspace(tiny_experiment(tmp_path, *overrides), tmp_path / "work")


def seal(space: Workspace, *keys: str) -> None:
    """Pretend that nodes have run."""
    for key in keys:
        fingerprint = space.fingerprints[key]
        folder = space.store.partial(fingerprint.stage, fingerprint.id)
        folder.mkdir(parents=True)
        (folder / "out").write_text(key)
        if key == "report":
            (folder / "report.html").write_text(f"page {fingerprint.id}")
        space.store.seal(fingerprint, space.experiment.name, 1.0, {}, {})
        space.point(key)


EVERY = ("split", "distill", "train-teacher", "predict", "refine", "augment", "train-student", "evaluate", "report")


def states(space: Workspace) -> dict[str, str]:
    return {key: space.status(key).state.value for key in space.nodes}


def test_a_node_is_to_do_then_done_then_stale(space):
    seal(space(), "split", "distill")
    assert [states(space())[key] for key in ("split", "distill", "train-teacher")] == [
        "done",
        "done",
        "to do",
    ]
    changed = space("distill.anchors=64")
    assert states(changed)["distill"] == "stale"
    assert changed.status("distill").reasons == ("distill.anchors changed from 1024 to 64",)
    assert states(changed)["split"] == "done"


def test_a_stale_node_names_the_setting_upstream(space):
    seal(space(), "split", "distill", "train-teacher", "predict", "refine")
    changed = space("predict.score_threshold=0.5")
    assert changed.status("refine").reasons == ("predict.score_threshold changed from 0.7 to 0.5",)
    seal(changed, "predict")  # it says so even after what is upstream has run
    assert space("predict.score_threshold=0.5").status("refine").reasons == (
        "predict.score_threshold changed from 0.7 to 0.5",
    )


def test_a_result_that_another_experiment_made_is_taken_into_use(space):
    seal(space(), "split")
    other = space("name=other")
    assert other.status("split").state is State.READY
    assert other.status("split").reasons == ("made by tiny",)
    other.refresh()
    assert other.is_done("split")
    (result,) = other.store.results()
    assert set(result.references) == {"tiny", "other"}


def test_a_result_that_is_gone_is_withdrawn(space):
    here = space()
    seal(here, "split")
    shutil.rmtree(here.result("split"))
    assert here.why("split") == ("result no longer in the store",)
    here.refresh()
    assert here.record("split") is None
    assert here.status("split").state is State.MISSING


def test_going_back_to_an_earlier_setting_needs_no_run(space):
    here = space()
    seal(here, "split")
    here.refresh()
    space("data.percent=70").refresh()
    back = space()
    back.refresh()
    assert back.is_done("split")
    record, fingerprint = back.record_path("split"), back.folder / "split.fingerprint"
    assert record.stat().st_mtime_ns >= fingerprint.stat().st_mtime_ns


def test_a_fingerprint_file_is_only_written_when_it_changes(space):
    here = space()
    here.refresh()
    before = {path.name: path.stat().st_mtime_ns for path in here.folder.iterdir()}
    space("compute.workers=9").refresh()
    assert {path.name: path.stat().st_mtime_ns for path in here.folder.iterdir()} == before
    space("refine.points=9").refresh()
    touched = {path.name for path in here.folder.iterdir() if path.stat().st_mtime_ns != before[path.name]}
    assert touched == {f"{name}.fingerprint" for name in ("refine", "augment", "train-student", "evaluate", "report")}


def test_a_round_that_is_no_more_leaves_no_record(space):
    two = space("student.rounds=2")
    two.refresh()
    assert (two.folder / "refine-2.fingerprint").exists()
    space().refresh()
    assert not (two.folder / "refine-2.fingerprint").exists()


def test_a_record_that_cannot_be_read_counts_as_none(space):
    here = space()
    seal(here, "split")
    here.record_path("split").write_text("{")
    assert here.record("split") is None
    here.refresh()  # the result is still in the store
    assert here.is_done("split")


def test_an_interrupted_stage_says_how_to_go_on(space):
    here = space()
    fingerprint = here.fingerprints["split"]
    here.store.partial("split", fingerprint.id).mkdir(parents=True)
    assert here.status("split").reasons == ("interrupted, to continue: make split EXP=tiny",)
    here.forget_empty("split")
    assert here.status("split").reasons == ()


def test_a_stale_stage_that_was_interrupted_says_so_too(space):
    seal(space(), "split")
    changed = space("data.seed=5")
    partial = changed.store.partial("split", changed.fingerprints["split"].id)
    partial.mkdir(parents=True)
    (partial / "begun").touch()
    changed.forget_empty("split")  # something is there: it stays
    assert changed.status("split").state is State.STALE
    assert changed.status("split").reasons == (
        "data.seed changed from 0 to 5",
        "interrupted, to continue: make split EXP=tiny",
    )


def test_a_stage_that_runs_elsewhere_is_seen(space):
    here = space()
    with here.store.locks.making("split", here.fingerprints["split"].id, "theirs"):
        status = here.status("split")
    assert status.state is State.RUNNING
    assert "made by theirs (process" in status.reasons[0]


def test_records_of_a_moved_checkout_are_known_again(space, tmp_path):
    here = space()
    seal(here, "split")
    shutil.rmtree(here.store.root / ".references")
    register_references(tmp_path / "work", here.store)
    (result,) = here.store.results()
    assert result.references == ("tiny",)


def test_records_hold_their_fingerprint(space):
    here = space()
    seal(here, "split")
    record = json.loads(here.record_path("split").read_text())
    assert record["fingerprint"] == here.fingerprints["split"].to_dict()


def of_file(path: Path, root: Path, *overrides: str) -> Workspace:
    return Workspace(load_experiment(path, [f"store={root / 'stores'}", *overrides], {}), root / "work")


def test_two_experiment_files_of_one_name_do_not_share_a_folder(tmp_path):
    first = make_experiment_files(tmp_path)
    of_file(first, tmp_path).refresh()
    second = tmp_path / "other" / first.name
    second.parent.mkdir()
    shutil.copy(first, second)
    with pytest.raises(StageError) as caught:
        of_file(second, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'work/tiny'} belongs to {first}, and {second} has the same name, tiny. Give one of them another: "
        f"set `name: …` in it. If {first} is no longer used, delete {tmp_path / 'work/tiny/experiment.json'}"
    )
    of_file(second, tmp_path, "name=another").refresh()
    of_file(first, tmp_path, "predict.score_threshold=0.5").refresh()
    (tmp_path / "linked.yaml").symlink_to(first)
    of_file(tmp_path / "linked.yaml", tmp_path, "name=tiny").refresh()


def test_an_experiment_file_that_was_moved_keeps_its_folder(tmp_path):
    first = make_experiment_files(tmp_path)
    of_file(first, tmp_path).refresh()
    second = tmp_path / "other" / first.name
    second.parent.mkdir()
    first.rename(second)
    of_file(second, tmp_path).refresh()
    (tmp_path / "work/tiny/experiment.json").write_text("[")
    of_file(second, tmp_path).refresh()
    owner = json.loads((tmp_path / "work/tiny/experiment.json").read_text())
    assert owner == {"file": str(second)}


def test_the_file_of_an_experiment_is_no_part_of_its_value(tmp_path):
    first = make_experiment_files(tmp_path)
    second = tmp_path / "other" / first.name
    second.parent.mkdir()
    shutil.copy(first, second)
    here, there = (load_experiment(path, (), {}) for path in (first, second))
    assert here == there
    assert (here.source, there.source) == (first, second)


def test_links_lead_to_the_newest_report_and_student_and_move_with_them(space, tmp_path):
    here = space()
    seal(here, *EVERY)
    page, student = here.folder / "report.html", here.folder / "student"
    assert page.read_text() == f"page {here.fingerprints['report'].id}"
    assert (student / "out").read_text() == "train-student"
    assert not page.readlink().is_absolute()
    assert (here.where("report"), here.where("train-student")) == (page, student)
    assert here.where("refine") == here.result("refine")
    assert here.status("report").path == page
    away = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(away)
    moved = away / "work/tiny"
    assert (moved / "report.html").read_text().startswith("page ")
    assert (moved / "student/out").exists()
    away.rename(tmp_path)


def test_links_follow_the_settings_in_use_and_stay_until_there_is_a_newer_result(space):
    here = space()
    seal(here, *EVERY)
    first = (here.folder / "report.html").read_text()
    changed = space("student.iterations=9")
    changed.refresh()
    assert (changed.folder / "report.html").read_text() == first  # nothing newer yet
    assert changed.where("report") == changed.result("report") / "report.html"
    seal(changed, "train-student", "evaluate", "report")
    second = (changed.folder / "report.html").read_text()
    assert second != first
    here.refresh()
    assert (here.folder / "report.html").read_text() == first
    shutil.rmtree(here.result("report"))
    here.refresh()
    assert not (here.folder / "report.html").is_symlink()


def test_the_student_is_that_of_the_last_round(space):
    two = space("student.rounds=2")
    seal(two, "train-student")
    assert not (two.folder / "student").exists()
    seal(two, "train-student-2")
    assert (two.folder / "student/out").read_text() == "train-student-2"
    none = space("student.rounds=0")
    none.refresh()
    assert none.where("train-teacher") == none.result("train-teacher")


def test_a_file_of_ones_own_in_the_place_of_a_link_stays(space):
    here = space()
    here.folder.mkdir(parents=True)
    (here.folder / "report.html").write_text("mine")
    seal(here, "report")
    assert (here.folder / "report.html").read_text() == "mine"
    assert here.where("report") == here.result("report") / "report.html"
