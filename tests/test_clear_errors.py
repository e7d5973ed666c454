"""What people and machines put in the way ends in one clear message, soon: no traceback, and no waiting without end."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import socket
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch

from pipeline.ablation.cells import CELLS, overrides_of
from pipeline.coco.checking import check_coco
from pipeline.coco.reading import read_coco
from pipeline.detection.checkpoints import checkpoints, save_checkpoint
from pipeline.errors import DatasetError, ExperimentError, StageError
from pipeline.files import digest_memory
from pipeline.files.identity import ABSENT, IdentityCache, ImageList, hash_file
from pipeline.files.reading import read_file
from pipeline.files.writing import open_atomically
from pipeline.labels.coco_import import is_results_list
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.workspace import work_root
from stages import cli
from stages.runner import run_stage
from tests.test_makefile import Make
from tests.tiny_coco import tiny_coco
from tests.tiny_experiment import make_experiment_files
from tests.tiny_training import TEACHER, training_experiment

SOON = 20


@pytest.fixture(autouse=True)
def soon():
    """Fail a test that waits: no try of these takes long."""

    def stop(number, frame):
        raise AssertionError(f"nothing happened for {SOON} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SOON)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=["pipe", "link to a pipe", "socket", "link to a device", "device without end"])
def no_file(request, tmp_path, monkeypatch):
    """A path that can be opened, but at which there is no file."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.png"
    os.mkfifo(tmp_path / "pipe")
    match request.param:
        case "pipe":
            return tmp_path / "pipe"
        case "link to a pipe":
            path.symlink_to("pipe")
        case "socket":
            with closing(socket.socket(socket.AF_UNIX)) as server:
                server.bind("x.png")
        case "link to a device":
            path.symlink_to("/dev/zero")
        case "device without end":
            return Path("/dev/urandom")
    return path


# ---- pipes and devices ------------------------------------------------------------------------------


def test_what_is_no_file_is_not_waited_for(no_file, tmp_path):
    with pytest.raises(OSError, match=f"not a regular file, but a pipe, a socket or a device: '{no_file}'"):
        read_file(no_file)
    assert not is_results_list(no_file)
    assert not check_coco(no_file).ok
    with pytest.raises(ExperimentError, match="not a regular file|No such device"):
        load_experiment(no_file)
    if "dev" not in str(no_file):
        assert hash_file(no_file) == ABSENT
        assert IdentityCache(tmp_path / "memory").file(no_file) == ABSENT


@pytest.mark.parametrize(
    "words",
    [
        ["config", "--exp", "PATH"],
        ["graph", "--exp", "PATH"],
        ["data", "check", "PATH"],
        ["data", "check", "PATH", "."],
        ["refine-coco", "PATH", ".", "out.json"],
        ["labels", "export", "PATH", "out.json"],
        ["compare", "PATH"],
        *(
            ["config", "--exp", "EXPERIMENT", "--set", f"{key}=PATH"]
            for key in ("teacher.detector", "teacher.init_weights", "predict.results", "sam.checkpoint")
        ),
        ["config", "--exp", "EXPERIMENT", "--set", "data.annotated.annotations=PATH"],
        ["config", "--exp", "EXPERIMENT", "--set", "data.annotated.images=PATH"],
    ],
    ids=" ".join,
)
def test_commands_do_not_wait_for_what_is_no_file(s4m, no_file, tmp_path, words):
    experiment = make_experiment_files(tmp_path)
    told = s4m(*(word.replace("PATH", str(no_file)).replace("EXPERIMENT", str(experiment)) for word in words))
    assert told.status == 1
    assert str(no_file) in told.out + told.err or "not a regular file" in told.out


@pytest.mark.slow
def test_pipes_and_devices_among_images_are_rows(s4m, tmp_path):
    experiment = make_experiment_files(tmp_path)
    folder = tmp_path / "unlabelled"
    shutil.copytree(tmp_path / "images", folder)
    for path in folder.iterdir():  # other content: copies of labelled images would be left out
        path.write_bytes(path.read_bytes() + b"\0")
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "folder.png").mkdir()
    (folder / "nowhere.png").symlink_to("nowhere")
    (folder / os.fsdecode(b"not-\xff-utf8.png")).write_bytes(b"x")
    keys = {"annotated": "null", "percent": "null", "unlabelled.images": folder}
    keys |= {"labelled.annotations": tmp_path / "annotations.json", "labelled.images": tmp_path / "images"}
    settings = [word for key, value in keys.items() for word in ("--set", f"data.{key}={value}")]
    told = s4m("split", "--exp", experiment, *settings)
    assert told.status == 0, told.err
    assert "unlabelled: 6" in told.out
    (reasons,) = (tmp_path / "stores").glob("split/*/unreadable.txt")
    text = reasons.read_text()
    for name in ("pipe.png", "link.png", "zero.png"):
        assert f"{name}: not a regular file" in text
    assert "not-\\udcff-utf8.png: " in text


# ---- names and numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "teacher.learning_rate=1e300",
            "teacher.learning_rate (set over the file): given 1e+300; expected a number above",
        ),
        (
            "teacher.overrides.optim_wrapper.optimizer.lr=.nan",
            "lr (set over the file): given nan, which is not a finite",
        ),
        (
            "teacher.overrides.model.x=[1, {y: -.inf}]",
            "teacher.overrides.model.x[1].y: given -inf, which is not a finite",
        ),
        ("student.overrides={a: .inf}", "student.overrides.a: given inf, which is not a finite number"),
        (f"teacher.iterations=0x{'f' * 100_000}", "a number of 100,002 digits"),
        (f"teacher.overrides.x={'9' * 5000}", "a number of 5,000 digits"),
        ("name=x\udcff", "given"),
        ("data.annotated.images=/\udcff/x", "data.annotated.images: given "),
    ],
    ids=lambda text: text[:40].encode("ascii", "replace").decode(),
)
def test_numbers_and_names_that_cannot_be_are_told_with_their_key(s4m, tmp_path, setting, message):
    told = s4m("config", "--exp", make_experiment_files(tmp_path), "--set", setting)
    assert told.status == 1
    assert message in told.err


@pytest.mark.slow
def test_text_that_never_ends_is_searched_in_linear_time(tmp_path):
    path = tmp_path / "set.json"
    for unit in ('"\\', '"\\"', 'NaN"\\"', '"', "NaN", '"NaN', "\\", 'NaN"\\"\\'):
        for begin in ("NaN", '{"images": NaN, "a": "'):
            path.write_text(begin + unit * (1_000_000 // len(unit)))
            before = time.monotonic()
            with pytest.raises(DatasetError):
                read_coco(path)
            assert time.monotonic() - before < 5, unit
            path.unlink()


def test_a_folder_named_as_an_experiment_does_not_hide_it(s4m, tmp_path):
    path = make_experiment_files(tmp_path)
    (tmp_path / "configs/experiments").mkdir(parents=True)
    path.rename(tmp_path / "configs/experiments/tiny.yaml")
    (tmp_path / "tiny").mkdir()
    assert s4m("config", "--exp", "tiny").status == 0
    assert "no such file" in s4m("config", "--exp", "images").err


@pytest.mark.parametrize("given", [(), ("refine.points=5",)])
def test_cells_of_an_experiment_with_the_longest_name_have_names_of_their_own(tmp_path, given):
    path = make_experiment_files(tmp_path)
    names = set()
    for name in ("a" * 63 + "x", "a" * 63 + "y", "a" * 50, "b"):
        experiment = load_experiment(path, [f"name={name}"], {})
        for cell in CELLS.values():
            if cell.key != "ceiling":  # it needs validation images
                overrides = overrides_of(cell, experiment, 12, given)
                (own,) = (each.removeprefix("name=").strip('"') for each in overrides if each.startswith("name="))
                load_experiment(path, [f"name={own}"], {})
                assert own.endswith(f"-{cell.key}-12")
                names.add(own)
    assert len(names) == 4 * (len(CELLS) - 1)


# ---- the work folder --------------------------------------------------------------------------------


def test_an_empty_variable_counts_as_not_set(tmp_path, monkeypatch):
    assert work_root({"S4M_WORK": ""}) == Path("work")
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment(make_experiment_files(tmp_path), (), {"S4M_STORE": ""})
    assert experiment.store == Path("stores")


@pytest.mark.parametrize("name", [*":#$%;|&=\\*?[]()~ \t", "$(shell touch RAN)", "é\x1b"])
def test_a_work_folder_that_make_cannot_name_is_refused(s4m, tmp_path, monkeypatch, name):
    monkeypatch.setenv("S4M_WORK", str(tmp_path / f"a{name}b"))
    told = s4m("graph", "--exp", make_experiment_files(tmp_path))
    assert told.status == 1
    assert "in names; set S4M_WORK to another folder" in told.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a,b'c\"d!e", "é日+@{}<>`"])
def test_a_work_folder_of_any_other_name_works_with_make(tmp_path, name):
    signal.alarm(300)
    (tmp_path / name).mkdir()
    make = Make(tmp_path / name)
    done = make("split")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name / "work/tiny/split.done").is_file()
    assert "Nothing to be done" in make("split").stdout


# ---- the memory of digests --------------------------------------------------------------------------


LISTED = ImageList("list", lambda: [f"{number}\t{name}" for number, name in enumerate(["a.png", "b.png"])])


@pytest.fixture
def remembered(tmp_path):
    """A memory that has been filled, with a digest to get from it."""
    tiny_coco(tmp_path / "set")
    folder = tmp_path / "set/images"
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(name.encode() * 1000)
    path = tmp_path / "memory.sqlite"
    digest = IdentityCache(path).images(folder, LISTED)
    return path, lambda: IdentityCache(path).images(folder, LISTED), digest


def is_sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_a_memory_damaged_anywhere_is_begun_anew(remembered):
    path, ask, digest = remembered
    sound = path.read_bytes()
    for place in (*range(0, 200, 7), *range(200, len(sound), 501)):
        damaged = bytearray(sound)
        damaged[place : place + 500] = bytes(each ^ 0x5A for each in sound[place : place + 500])
        path.write_bytes(damaged)
        assert ask() == digest
        assert ask() == digest
    for content in (b"", b"SQLite format 3\0", sound[:1000], sound[:5000], b"x" * 9000):
        path.write_bytes(content)
        assert ask() == digest
        assert is_sound(path)


def test_a_memory_of_other_tables_is_begun_anew(remembered):
    path, ask, digest = remembered
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE files (a, b); CREATE VIEW sets AS SELECT 1;")
    assert ask() == digest
    assert is_sound(path)


def test_a_journal_of_a_damaged_memory_is_not_played_back(remembered):
    path, ask, digest = remembered
    path.with_name(f"{path.name}-journal").write_bytes(path.read_bytes())
    path.write_bytes(b"no database" * 1000)
    assert ask() == digest
    assert is_sound(path)


def test_a_locked_memory_is_done_without(remembered, monkeypatch):
    path, ask, digest = remembered
    monkeypatch.setattr(digest_memory, "WAIT_SECONDS", 0.2)
    before = path.read_bytes()
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert ask() == digest
        other.rollback()
    assert path.read_bytes() == before


def test_a_memory_that_is_a_folder_is_done_without(remembered):
    path, ask, digest = remembered
    path.unlink()
    path.mkdir()
    (path / "x").touch()
    assert ask() == digest


@contextmanager
def largest_file(size_bytes):
    """Let no file grow beyond a size: the error is one of the system, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_memory_without_room_is_done_without(remembered):
    path, ask, digest = remembered
    path.unlink()
    with largest_file(1000):
        assert ask() == digest


def test_names_that_are_not_utf_8_are_remembered(tmp_path):
    folder = tmp_path / os.fsdecode(b"folder-\xff")
    folder.mkdir()
    name = os.fsdecode(b"a-\xfe.png")
    (folder / name).write_bytes(b"x")
    listed = ImageList("", lambda: [f"1\t{name}"])
    first = IdentityCache(tmp_path / "memory").images(folder, listed)
    assert IdentityCache(tmp_path / "memory").images(folder, listed) == first
    (folder / name).write_bytes(b"other")
    assert IdentityCache(tmp_path / "memory").images(folder, listed) != first


# ---- a full disk ------------------------------------------------------------------------------------


def test_torch_that_cannot_write_says_why(tmp_path):
    state = {"model": {"weight": torch.zeros(100_000)}}
    with largest_file(50_000), pytest.raises(OSError, match="File too large") as caught:
        save_checkpoint(tmp_path, 2, state)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "iteration-00000002.pt")
    assert list(tmp_path.iterdir()) == []
    save_checkpoint(tmp_path, 2, state)
    assert len(checkpoints(tmp_path)) == 1


def test_an_error_of_whoever_writes_stays_his(tmp_path):
    with pytest.raises(ZeroDivisionError), open_atomically(tmp_path / "a") as file:
        file.write(b"x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_thread_that_cannot_write_ends_in_a_line(capsys, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", cli._thread_failed)

    def fails():
        raise OSError(errno.ENOSPC, "No space left on device", "curves")

    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()
    assert capsys.readouterr().err == "curves: the disk is full (No space left on device)\n"


# ---- trainings --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim_wrapper.optimizer.lr=1e300", "is too large to train with"),
        ("schedule.factor=1e300", "is too large to train with"),
        ("model.backbone.base_channels=-1", "no detector can be built from it and the overrides"),
    ],
)
def test_numbers_that_no_training_can_use_end_in_a_message(tmp_path, monkeypatch, override, message):
    signal.alarm(300)
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    experiment = training_experiment(tmp_path, {"teacher": TEACHER}, f"teacher.overrides.{override}")
    run_stage(experiment, "split", 1)
    with pytest.raises(StageError, match=message):
        run_stage(experiment, "train-teacher", 1)
