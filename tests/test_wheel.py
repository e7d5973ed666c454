"""What a stranger gets: the wheel, installed away from the checkout, used from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "configs", "pipeline", "s4m", "stages")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "-q")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of what the package is built from: building writes beside it."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(*PIP, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, checkout)
    (made,) = folder.glob("s4m-*.whl")
    return made


@pytest.fixture(scope="module")
def s4m(wheel, tmp_path_factory):
    """Runs the installed command in an empty folder."""
    environment = _environment(tmp_path_factory.mktemp("installed"), wheel)
    folder = tmp_path_factory.mktemp("empty")

    def call(*words: object, expected: int = 0) -> str:
        return run(environment / "bin/s4m", *words, cwd=folder, expected=expected)

    call.folder, call.python = folder, environment / "bin/python"
    return call


def run(*words: object, cwd: Path | None = None, expected: int = 0) -> str:
    """Run a program without what the tests' own environment says of Python or S4M; return what it wrote."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "S4M_", "PIP_"))}
    ended = subprocess.run([*map(str, words)], cwd=cwd, env=kept, capture_output=True, text=True, timeout=300)
    assert ended.returncode == expected, f"{words}: {ended.stdout}{ended.stderr}"
    return ended.stdout + ended.stderr


def _environment(folder: Path, *what: object) -> Path:
    """Make a virtual environment with a package installed and the dependencies of the running one."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Nothing but a path: the .pth files there, which lead to the checkout, are not read.
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    python = folder / "bin/python"
    run(*PIP, "--python", python, "install", "--no-index", "--no-deps", "--no-build-isolation", *what)
    return folder


def test_the_wheel_holds_the_packages_and_the_configs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "pipeline",
        "s4m",
        "stages",
        f"{wheel.stem.split('-py3')[0]}.dist-info",
    }
    shipped = {name.removeprefix("pipeline/") for name in names if name.startswith("pipeline/configs/")}
    assert shipped == {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.*") if path.suffix != ".pyc"}
    assert {
        "pipeline/py.typed",
        "s4m/py.typed",
        "pipeline/sam/tiny/sam_tiny.pt",
        "pipeline/presentation/templates/base.html",
    } < {*names}
    sources = {
        str(path.relative_to(ROOT)) for name in ("pipeline", "s4m", "stages") for path in (ROOT / name).rglob("*.py")
    }
    assert sources == {name for name in names if name.endswith(".py") and "/configs/" not in name}


def test_a_source_distribution_makes_the_same_wheel(checkout, wheel, tmp_path):
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", tmp_path, cwd=checkout)
    (archive,) = tmp_path.glob("*.tar.gz")
    run(*PIP, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, archive)
    (again,) = tmp_path.glob("*.whl")
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


def test_an_editable_install_reads_the_configs_of_its_checkout(checkout, tmp_path):
    environment = _environment(tmp_path / "environment", "-e", checkout)
    where = "from pipeline.files.shipped import shipped_configs; print(shipped_configs())"
    assert run(environment / "bin/python", "-c", where, cwd=tmp_path).strip() == str(checkout / "configs")
    assert not (checkout / "pipeline/configs").exists()


def test_nothing_comes_from_the_checkout(s4m):
    where = "import pipeline, s4m, stages; print(pipeline.__file__); print(stages.__file__); print(s4m.__file__)"
    for line in run(s4m.python, "-c", where, cwd=s4m.folder).splitlines():
        assert Path(line).is_relative_to(s4m.python.parent.parent)


def test_the_command_works_from_an_empty_folder(s4m):
    assert "refine-coco" in s4m("--help")
    s4m("new", "mine")
    assert (s4m.folder / "configs/experiments/mine.yaml").is_file()
    s4m("data", "shapes", "out", "--images", 6, "--validation", 2)
    s4m("refine-coco", "out/train.json", "out/train/images", "refined.json", "--sam", "sam_tiny")
    assert (s4m.folder / "refined.json").stat().st_size > 1000


def test_shipped_experiments_and_detectors_are_found_from_an_empty_folder(s4m):
    assert "; there are: cityscapes_10, " in s4m("config", "--exp", "zzz", expected=1)
    s4m("data", "shapes", "data/generated/demo-smoke", "--classes", 3, "--images", 8, "--validation", 2)
    assert "detector: configs/detectors/mask_rcnn_small.py" in s4m("config", "--exp", "demo-smoke")
    assert "split" in s4m("status", "--exp", "demo-smoke")
    s4m("split", "--exp", "demo-smoke")
    one_step = ("--set", "teacher.iterations=1", "--set", "teacher.distillation_weight=0")
    s4m("train-teacher", "--exp", "demo-smoke", *one_step)
    read = (
        "from pathlib import Path; from pipeline.detection.config import read_detector\n"
        "print(read_detector(Path('configs/detectors/mask2former_r50_cityscapes.py'), {}).path)"
    )
    path = Path(run(s4m.python, "-c", read, cwd=s4m.folder).splitlines()[-1])
    assert path.is_relative_to(s4m.python.parent.parent)
