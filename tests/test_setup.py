"""`setup.sh` where something is missing: a clear word, and what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GPU = "#!/bin/bash\necho 'GPU 0: a card (UUID: GPU-1)'\n"
COMPILER = "#!/bin/bash\nexit 0\n"
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


# Says what it is called with; a build and a check of GPUs are noted.
NOTING = PYTHON.replace(
    'case "$*" in',
    """case "$*" in
    *"-v --no-build-isolation onedl-mmcv"*)
        echo "built FORCE_CUDA=$FORCE_CUDA hidden=${CUDA_VISIBLE_DEVICES-no}" >>noted ;;
    *require_gpu_operators*) echo checked >>noted; $CHECK ;;""",
)


@pytest.fixture
def tool(tmp_path):
    """Put a program among the tools of `setup`."""

    def put(name: str, text: str) -> None:
        path = tmp_path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    return put


def noted(tmp_path: Path) -> list[str]:
    path = tmp_path / "checkout/noted"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("gpu", "asked", "expected"),
    [
        (False, None, ["built FORCE_CUDA= hidden=no"]),
        (True, None, ["built FORCE_CUDA=1 hidden=no", "checked"]),
        (False, "1", ["built FORCE_CUDA=1 hidden=no"]),
        (True, "0", ["built FORCE_CUDA= hidden="]),
    ],
)
def test_mmcv_is_built_for_what_the_machine_has_unless_it_is_said(setup, tool, tmp_path, gpu, asked, expected):
    tool("c++", COMPILER)
    tool("nvcc", COMPILER)
    if gpu:
        tool("nvidia-smi", GPU)
    told = setup(NOTING, **({} if asked is None else {"MMCV_WITH_CUDA": asked}))
    assert told.returncode == 0, told.stderr
    assert noted(tmp_path) == expected


@pytest.mark.parametrize(("gpu", "asked"), [(True, None), (False, "1")])
def test_without_a_cuda_compiler_it_says_what_to_do(setup, tool, tmp_path, gpu, asked):
    tool("c++", COMPILER)
    if gpu:
        tool("nvidia-smi", GPU)
    nowhere = {"SETUP_USUAL_CUDA": str(tmp_path / "nowhere")}
    told = setup(NOTING, **nowhere, **({} if asked is None else {"MMCV_WITH_CUDA": asked}))
    assert told.returncode == 1
    assert noted(tmp_path) == []
    assert "setup: mmcv is to be built for GPUs, and there is no CUDA compiler (nvcc)" in told.stderr
    for remedy in ("CUDA_HOME", "PIP_EXTRA_INDEX_URL=", "MMCV_WITH_CUDA=0"):
        assert remedy in told.stderr


def test_a_cuda_compiler_elsewhere_is_found(setup, tool, tmp_path):
    tool("c++", COMPILER)
    tool("nvidia-smi", GPU)
    (tmp_path / "cuda/bin").mkdir(parents=True)
    tool("../cuda/bin/nvcc", COMPILER)
    told = setup(NOTING, CUDA_HOME=str(tmp_path / "cuda"))
    assert told.returncode == 0, told.stderr


def test_a_ready_mmcv_without_operators_for_the_gpu_is_told(setup, tool, tmp_path):
    tool("nvidia-smi", GPU)
    told = setup(NOTING.replace("exit 1", "exit 0"), CHECK="eval echo the operator NMS does not run; exit 1")
    assert told.returncode == 1
    assert noted(tmp_path) == ["checked"]
    assert "the operator NMS does not run" in told.stderr
    assert not (tmp_path / "checkout/.venv/ready").exists()  # the next setup looks again


def test_another_wish_than_0_and_1_is_refused(setup, tool):
    tool("c++", COMPILER)
    told = setup(NOTING, MMCV_WITH_CUDA="yes")
    assert told.returncode == 1
    assert "setup: MMCV_WITH_CUDA=yes: give 1 (build mmcv for GPUs) or 0 (for CPUs only)" in told.stderr
