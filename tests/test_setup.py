"""`setup.sh` where something is missing: a clear word, and what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("bash", "cat", "cksum", "dirname", "env", "grep", "mkdir", "nproc", "rm", "sed", "sleep", "tail", "tr")

# A Python that makes virtual environments of itself, installs everything but mmcv, and has no compiler beside it.
PYTHON = """#!/bin/bash
case "$*" in
    --version) echo "Python 3.11.0" ;;
    "-m venv --clear .venv")
        mkdir -p .venv/bin
        cp "$0" .venv/bin/python
        echo "VIRTUAL_ENV=$PWD/.venv" >.venv/bin/activate
        ;;
    *"--only-binary onedl-mmcv"*) exit 1 ;;
esac
"""


@pytest.fixture
def setup(tmp_path):
    """Runs setup.sh in a checkout of its own, with nothing but the named tools."""
    checkout, tools = tmp_path / "checkout", tmp_path / "bin"
    checkout.mkdir()
    tools.mkdir()
    for name in ("setup.sh", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    for name in (*TOOLS, "cp"):
        (tools / name).symlink_to(shutil.which(name))

    def run(python: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        if python is not None:
            shutil.rmtree(checkout / ".venv/bin", ignore_errors=True)
            (tools / "python3.11").write_text(python)
            (tools / "python3.11").chmod(0o755)
        return subprocess.run(
            ["bash", "setup.sh"],
            cwd=checkout,
            env={"PATH": str(tools)} | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_without_python_it_says_which_one_is_needed(setup):
    told = setup()
    assert told.returncode == 1
    assert "setup: Python 3.11 or 3.12 is needed and was not found" in told.stderr
    assert "make setup PYTHON=" in told.stderr


def test_without_a_compiler_it_says_so(setup):
    told = setup(PYTHON)
    assert told.returncode == 1
    assert "setup: no C++ compiler (c++): mmcv is built from source" in told.stderr
    assert "run make setup again" in told.stderr


def test_a_step_that_fails_shows_the_end_of_its_output(setup):
    told = setup(
        PYTHON.replace('--only-binary onedl-mmcv"', 'raw torch torchvision numpy"').replace("exit", "echo lost; exit")
    )
    assert told.returncode == 1
    assert (
        "lost\nsetup: failed: .venv/bin/python -m pip install --progress-bar raw torch torchvision numpy" in told.stderr
    )
    assert ".venv.setup.log" in told.stderr


def test_a_half_finished_setup_is_begun_again_and_a_finished_one_is_left_alone(setup):
    working = PYTHON.replace("exit 1", "exit 0")
    assert setup(PYTHON).returncode == 1
    first = setup(working)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "setup: done"
    assert setup().stdout == "set up already: .venv\n"


# Downloads and builds as slowly as the real ones, by the interval of the test.
SLOW = """#!/bin/bash
case "$*" in
    --version) echo "Python 3.11.0" ;;
    "-m venv --clear .venv")
        mkdir -p .venv/bin
        cp "$0" .venv/bin/python
        echo "VIRTUAL_ENV=$PWD/.venv" >.venv/bin/activate
        ;;
    *"--progress-bar raw torch"*)
        echo "Downloading torch.whl (530.7 MB)"
        sleep 1.5
        printf 'Progress 0 of 530000000\\nProgress 271000000 of 530000000\\n'
        sleep 1.5
        ;;
    *"--only-binary onedl-mmcv"*) exit 1 ;;
    *"-v --no-build-isolation onedl-mmcv"*)
        [ "$MMCV_WITH_OPS" = 1 ] || exit 1
        printf '  [12/150] c++ -c a.cpp\\n  a.cpp:1: warning: %s\\n' x y z
        sleep 1.5
        printf '  [150/150] c++ -c b.cpp\\n  c++ -shared -o ops.so\\n'
        sleep 1.5
        ;;
esac
"""


@pytest.mark.slow
def test_nothing_slow_is_silent(setup, tmp_path):
    (tmp_path / "bin/c++").symlink_to("/bin/true")
    told = setup(SLOW, SETUP_SECONDS_BETWEEN_LINES="1")
    assert told.returncode == 0, told.stderr
    lines = [re.sub(r"\d+ s: ", "", line) for line in told.stdout.splitlines()]
    for line in (
        "setup:   Downloading torch.whl (530.7 MB)",
        "setup:   downloaded 271 of 530 MB",
        "setup:   compiled 12 of 150 files",
        "setup:   linking 150 compiled files",
    ):
        assert line in lines, told.stdout
    assert lines[-1] == "setup: done"


def test_a_failed_download_is_told_without_its_progress(setup):
    failing = SLOW.replace("sleep 1.5", "true").replace("530000000\\n'", "530000000\\nlost\\n'; exit 1")
    told = setup(failing)
    assert told.returncode == 1
    assert "lost\nsetup: failed: .venv/bin/python -m pip install --progress-bar raw torch" in told.stderr
    assert "Progress" not in told.stderr


def test_extras_are_installed_and_stay(setup, tmp_path):
    checkout = tmp_path / "checkout"
    remembering = PYTHON.replace('case "$*" in', 'echo "$*" >>asked\ncase "$*" in').replace("exit 1", "exit 0")
    assert setup(remembering, EXTRAS="hf").returncode == 0
    assert "install --no-build-isolation -e .[dev,hf]" in (checkout / "asked").read_text()
    assert setup().stdout == "set up already: .venv\n"
    (checkout / "asked").unlink()
    (checkout / ".venv/ready").unlink()
    assert setup().returncode == 0
    assert "install --no-build-isolation -e .[dev,hf]" in (checkout / "asked").read_text()


def test_an_extra_that_there_is_not(setup):
    told = setup(PYTHON, EXTRAS="hf,hg")
    assert told.returncode == 1
    assert "setup: EXTRAS=hf,hg: there is no extra hg\nsetup: those that there are: dev, hf" in told.stderr
