"""The command line: what people type, what they read, and that nothing heavy is imported for it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest

from pipeline.compute.settings import Device
from pipeline.datasets.settings import ShapesDifficulty
from pipeline.refinement.settings import RefinePreset
from pipeline.review.review_format import ReviewFormat
from pipeline.workflow.graph import STAGES
from pipeline.workflow.loading import load_experiment
from tests.tiny_coco import tiny_coco, write_json
from tests.tiny_experiment import make_experiment_files


@pytest.fixture
def experiment(tmp_path):
    return make_experiment_files(tmp_path)


def test_config_prints_the_resolved_experiment(s4m, experiment, tmp_path):
    told = s4m("config", "--exp", experiment, "--set", "refine.preset=s4m", "--set", "refine.passes=4")
    assert told.status == 0
    resolved = tmp_path / "tiny2.yaml"
    resolved.write_text(told.out)
    again = load_experiment(resolved)
    assert (again.refine.preset, again.refine.passes, again.refine.box) == ("s4m", 4, "none")


def test_an_experiment_is_found_by_name(s4m, experiment, tmp_path):
    folder = tmp_path / "configs/experiments"
    folder.mkdir(parents=True)
    experiment.rename(folder / "tiny.yaml")
    assert s4m("config", "--exp", "tiny").status == 0
    missing = s4m("config", "--exp", "other")
    assert missing.status == 1
    assert "configs/experiments/other.yaml: 1 problem" in missing.err


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_without_spinning_unless_told_otherwise(given, expected):
    program = (
        "import os, sys; from stages import cli; sys.argv[1:] = ['--version']; cli.app = lambda **_: print("
        "os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules); cli.main()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert told.stdout == f"{expected} False\n"


def test_problems_end_in_their_messages_and_status_1(s4m, experiment):
    told = s4m("refine", "--exp", experiment, "--set", "refine.pionts=5", "--set", "teacher.iterations=0")
    assert told.status == 1
    assert told.err.splitlines()[0] == f"{experiment}: 2 problems"
    assert "did you mean refine.points?" in told.err


def test_a_wrong_command_line_says_so(s4m):
    told = s4m("refine")
    assert told.status == 2
    assert "Missing option '--exp'" in told.err
    assert s4m("refien").status == 2


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_a_plain_command_that_requires_an_experiment(s4m, stage):
    without = s4m(stage)
    assert without.status == 2
    assert "Missing option '--exp'" in without.err
    told = " ".join(s4m(stage, "--help").out.split())
    assert f"{STAGES[stage].purpose[1:]}. Options: --exp FILE|NAME The experiment" in told
    assert "configs/experiments. [required]" in told
    assert "Commands:" not in told


def test_the_version_names_the_libraries_that_results_depend_on(s4m):
    told = s4m("--version")
    assert told.status == 0
    lines = dict(line.split() for line in told.out.splitlines())
    assert lines["s4m"] == version("s4m")
    assert lines["torch"] == version("torch")
    extra = ["transformers"] if find_spec("transformers") else []
    assert list(lines) == ["s4m", "torch", "onedl-mmdetection", "segment-anything", *extra, "zarr", "numpy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "option", "choices"),
    [
        (["refine-coco", "a", "b", "c"], "--preset", get_args(RefinePreset)),
        (["refine-coco", "a", "b", "c"], "--device", get_args(Device)),
        (["data", "shapes", "a"], "--difficulty", get_args(ShapesDifficulty)),
        (["labels", "review", "a", "--images", "b", "--output", "c"], "--format", tuple(ReviewFormat)),
    ],
)
def test_choices_are_listed_completed_and_checked(s4m, words, option, choices):
    commands = words[: 1 + (words[0] in ("data", "labels"))]
    assert f"{option} <{'|'.join(choices)}>" in " ".join(s4m(*commands, "--help").out.split())
    wrong = s4m(*words, option, "absurd")
    assert wrong.status == 2
    assert f"'absurd' is not one of {', '.join(map(repr, map(str, choices)))}" in " ".join(wrong.err.split())
    assert completed(" ".join(["s4m", *words, option, ""])) == list(choices)


@pytest.mark.slow
def test_models_are_completed():
    assert completed("s4m weights get v") == ["vit_b", "vit_l", "vit_h"]
    assert completed("s4m refine-coco a b c --sam s") == ["sam_tiny"]


def completed(line: str, folder: Path = Path()) -> list[str]:
    """What the shell is offered after a line."""
    program = "from stages.cli import main; import sys; sys.argv = ['s4m']; main()"
    environment = {
        "PATH": "",
        "_S4M_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=folder, check=True
    )
    return told.stdout.split()


@pytest.mark.slow
def test_experiments_and_settings_are_completed(experiment, tmp_path):
    folder = tmp_path / "configs/experiments"
    folder.mkdir(parents=True)
    for name in ("mine", "minor", "other"):
        (folder / f"{name}.yaml").touch()
    assert completed("s4m refine --exp mi", tmp_path) == ["mine", "minor"]
    assert completed("s4m compare o", tmp_path) == ["other"]
    assert completed("s4m refine --set refine.po") == ["refine.points="]
    assert completed("s4m refine --set student.mixture.p") == ["student.mixture.pseudo="]


def test_new_writes_a_starter_and_leaves_what_is_there_alone(s4m, tmp_path):
    told = s4m("new", "mine")
    path = tmp_path / "configs/experiments/mine.yaml"
    assert told.status == 0
    assert "make report EXP=mine" in told.out
    before = path.read_text()
    assert before.startswith(
        "# yaml-language-server: $schema=../experiment.schema.json\n"
        "# An experiment of the S4M pipeline. Run it with: make report EXP=mine\n"
    )
    refused = s4m("new", "mine")
    assert refused.status == 1
    assert "already there and was left alone" in refused.err
    assert path.read_text() == before
    assert s4m("new", "../x").status == 1


def test_status_tells_done_stale_and_to_do(s4m, experiment, tmp_path):
    s4m("split", "--exp", experiment)
    done = s4m("status", "--exp", experiment).out.splitlines()
    assert done[0] == f"tiny: records in {tmp_path / 'work' / 'tiny'}, results in {tmp_path}/stores"
    assert done[1].split()[:2] == ["split", "done"]
    assert done[1].endswith("  labelled: 3, unlabelled: 3")
    assert done[2].strip().startswith(f"{tmp_path}/stores/split/")
    assert done[3].split(maxsplit=3) == ["adapt", "left", "out", "adapt.enabled is false"]
    assert done[4].split() == ["distill", "to", "do"]
    stale = s4m("status", "--exp", experiment, "--set", "data.percent=70").out.splitlines()
    assert stale[1].split(maxsplit=2) == ["split", "stale", "data.percent changed from 50.0 to 70.0"]
    left_out = s4m("status", "--exp", experiment, "--set", "teacher.distillation_weight=0").out
    assert "left out" in left_out


def test_status_looks_at_images_when_asked(s4m, experiment, tmp_path):
    s4m("split", "--exp", experiment)
    (tmp_path / "images/0001.png").write_bytes(b"changed")
    assert s4m("status", "--exp", experiment).status == 0
    assert s4m("status", "--exp", experiment, "--look").status == 0


def test_stores_lists_what_made_each_result_and_who_uses_it(s4m, experiment):
    assert "0 results" in s4m("stores").out
    s4m("split", "--exp", experiment)
    s4m("split", "--exp", experiment, "--set", "name=second")
    told = s4m("stores").out
    assert "used by second, tiny" in told
    assert "data.percent: 50.0" in told


def test_prune_asks_and_removes_only_what_nobody_uses(s4m, experiment, tmp_path, monkeypatch):
    s4m("split", "--exp", experiment)
    s4m("split", "--exp", experiment, "--set", "data.percent=70")
    folder = tmp_path / "stores/split"
    assert len(list(folder.iterdir())) == 2
    monkeypatch.setattr("typer.confirm", lambda question: False)
    assert "nothing was removed" in s4m("stores", "prune", "--older-than", "0").out
    assert len(list(folder.iterdir())) == 2
    assert "removed 1 results" in s4m("stores", "prune", "--older-than", "0", "--yes").out
    assert len(list(folder.iterdir())) == 1
    assert "every result is in use" in s4m("stores", "prune", "--older-than", "0", "--yes").out
    used = s4m("status", "--exp", experiment, "--set", "data.percent=70").out.splitlines()
    assert used[1].split()[:2] == ["split", "done"]


def test_prune_spares_what_a_moved_work_folder_uses(s4m, experiment, tmp_path, monkeypatch):
    s4m("split", "--exp", experiment)
    (tmp_path / "work").rename(tmp_path / "moved")
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "moved"))
    assert "every result is in use" in s4m("stores", "prune", "--yes").out


@pytest.mark.slow
def test_verify_names_a_damaged_file(s4m, experiment, tmp_path):
    s4m("split", "--exp", experiment)
    assert "1 results are whole" in s4m("stores", "verify").out
    (result,) = (tmp_path / "stores/split").iterdir()
    content = bytearray((result / "labelled.json").read_bytes())
    content[10] ^= 1
    (result / "labelled.json").write_bytes(bytes(content))
    told = s4m("stores", "verify")
    assert told.status == 1
    assert f"{result}/labelled.json: content changed" in told.err
    assert "Remove the damaged folders" in told.err


def test_data_check_reports_and_fails_on_errors(s4m, tmp_path):
    made = tiny_coco(tmp_path / "set")
    good = s4m("data", "check", made.annotations, made.image_root)
    assert good.status == 0
    assert "  images      4, 0 of them without instances" in good.out
    assert "0 errors" in good.out
    (made.image_root / "0002.png").unlink()
    made.content["annotations"][0]["category_id"] = 99
    write_json(made.annotations, made.content)
    bad = s4m("data", "check", made.annotations, made.image_root)
    assert bad.status == 1
    assert "1 error:" in bad.out
    assert "1 bad image:" in bad.out
    assert s4m("data", "check", made.annotations, tmp_path / "nowhere").status == 2


def test_data_shapes_makes_a_dataset_and_a_sheet(s4m, tmp_path):
    first = s4m("data", "shapes", "made", "--images", 3, "--validation", 1, "--sheet", "sheet.png")
    assert "made: made, 3 + 1 images" in first.out
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert "made: up to date, 3 + 1 images" in s4m("data", "shapes", "made", "--images", 3, "--validation", 1).out
    other = s4m("data", "shapes", "made", "--images", 4, "--validation", 1)
    assert other.status == 1
    assert s4m("data", "shapes", "x", "--difficulty", "absurd").status == 2


def test_data_coco_split_writes_a_list_that_split_takes(s4m, experiment, tmp_path):
    assert s4m("data", "coco-split", tmp_path / "annotations.json", tmp_path / "list.json", "--percent", 34).status == 0
    assert len(json.loads((tmp_path / "list.json").read_text())) == 2
    told = s4m("split", "--exp", experiment, "--set", "data.percent=null", "--set", "data.labelled_list=list.json")
    assert told.status == 0, told.err
    assert "labelled: 2, unlabelled: 4\n" in told.out


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["status", "--exp", "EXPERIMENT"], ["graph", "--exp", "EXPERIMENT"]]
)
def test_light_commands_import_nothing_heavy(experiment, tmp_path, words):
    words = [str(experiment) if word == "EXPERIMENT" else word for word in words]
    program = (
        "import sys; from stages.cli import main\n"
        f"sys.argv = ['s4m', *{words!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'mmdet', 'mmengine', 'mmcv', 'dask', 'distributed', 'zarr', 'cv2', 'numpy', 'PIL'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    environment = {"S4M_WORK": str(tmp_path / "work"), "S4M_STORE": str(tmp_path / "stores"), "PATH": ""}
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert told.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOENT, "No such file or directory", "x/y"), "x/y: No such file or directory"),
        (OSError(errno.EISDIR, "Is a directory", "x/.aside", None, "x/y"), "x/y: Is a directory"),
        (OSError(errno.EEXIST, "File exists", b"x"), "x: is a file, but a folder is needed"),
        (OSError(errno.EACCES, "Permission denied", "x"), "x: Permission denied"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "x"), "x: Too many levels of symbolic links"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full (No space left on device)"),
    ],
)
def test_what_the_system_says_of_a_path_is_told_in_a_line(s4m, monkeypatch, error, said):
    def fails(**_):
        raise error

    monkeypatch.setattr("stages.cli.app", fails)
    told = s4m("config")
    assert (told.status, told.err) == (1, f"{said}\n")


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "Bad file descriptor", "x"), OSError(errno.ENOENT, "no name")])
def test_other_errors_of_the_system_are_not_taken_for_a_users(s4m, monkeypatch, error):
    def fails(**_):
        raise error

    monkeypatch.setattr("stages.cli.app", fails)
    with pytest.raises(OSError, match=error.strerror):
        s4m("config")
