"""Fixtures that several tests use, and what every process of a test run has: one thread, temporary files apart."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from stages.cli import main
from tests.faulty_runs import Whole, make_whole
from tests.made_once import made_once
from tests.processes import forked, swept

# Test processes run side by side, a core each. Nothing above imports torch, which reads this once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A shell that runs tests in the background has Ctrl-C ignored, which every process that they start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
# torch keeps what it compiles: from one run to the next, not among the temporary files.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "torchinductor"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="run the tests marked torture, and only these")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--torture")
    others = [item for item in items if (item.get_closest_marker("torture") is not None) != wanted]
    config.hook.pytest_deselected(items=others)
    left_out = set(others)
    items[:] = [item for item in items if item not in left_out]


@dataclass(frozen=True)
class Told:
    status: int
    out: str
    err: str


@pytest.fixture
def s4m(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder of its own."""
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Told:
        monkeypatch.setattr(sys, "argv", ["s4m", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return Told(ended.value.code or 0, told.out, told.err)

    return run


@pytest.fixture
def forked_workers() -> Iterator[None]:
    """Has Dask fork its workers: they need not import torch again."""
    import dask
    import distributed  # noqa: F401  its settings must be there before one of them is changed

    forked()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Put temporary files of this process, and of those that it starts, below pytest's own; fail if some are left."""
    folder = tmp_path_factory.mktemp("tmp", numbered=False)
    with pytest.MonkeyPatch.context() as patch:
        # Waiting for the disk is a large part of the time of small stores, and no test switches the power off.
        patch.setattr(os, "fsync", os.fstat)
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder
    left = swept(folder)
    assert not left, f"temporary files that nothing removes: {', '.join(left)}"


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An experiment whose every stage ran undisturbed; not to be changed."""
    return Whole(made_once(tmp_path_factory, "whole", make_whole))


@pytest.fixture
def record_tries(capsys):
    """Counts tries and those that failed, tells both, and fails at the end, with the reasons."""

    @contextmanager
    def counting(tries: Sized) -> Iterator[Callable[[str], AbstractContextManager[None]]]:
        failed: list[str] = []

        @contextmanager
        def attempt(name: str) -> Iterator[None]:
            try:
                yield
            except AssertionError as error:
                failed.append(f"{name}: {error}"[:2000])

        yield attempt
        with capsys.disabled():
            print(f"tries: {len(tries)}, failures: {len(failed)}")
        assert not failed, "\n".join(failed)

    return counting
