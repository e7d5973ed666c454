"""Modules in layers: no circle among them, imports inside functions included, and a check that finds violations."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "s4m", "stages")


def modules(root: Path) -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    paths = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(root: Path) -> dict[str, set[str]]:
    """The project's modules that each module imports, anywhere in it."""
    known = modules(root)
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None and not node.level, f"{path}: relative imports are not followed"
                named |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        graph[name] = (named & known.keys()) - {name}
    return graph


def circle(root: Path) -> list[str]:
    """The modules of a circle of imports; empty where there is none."""
    try:
        TopologicalSorter(imports(root)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.slow
def test_no_module_imports_itself_by_way_of_others():
    assert len(imports(ROOT)) > 200
    assert circle(ROOT) == []


@pytest.fixture
def copied(tmp_path) -> Path:
    """A copy of the code, to plant violations in."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.pt"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def plant(path: Path, statement: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n\ndef planted() -> None:\n    {statement}\n")


@pytest.mark.slow
def test_a_circle_by_an_import_inside_a_function_is_found(copied):
    assert circle(copied) == []
    plant(copied / "pipeline/workflow/fingerprint.py", "from pipeline.workflow.graph import STAGES")
    assert set(circle(copied)) == {"pipeline.workflow.fingerprint", "pipeline.workflow.graph"}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the check of layers on the code in a folder."""
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("pipeline/files/writing.py", "from pipeline.workflow.graph import STAGES"),
        ("pipeline/masks/distances.py", "import pipeline.compute.shards"),
        ("pipeline/workflow/finding.py", "import stages.runner"),
        ("stages/runner.py", "import s4m.door"),
    ],
    ids=["upward", "sideways", "library", "commands"],
)
def test_the_check_of_layers_fails_on_an_import_that_is_not_allowed(copied, path, statement):
    kept = lint_imports(copied)
    assert (kept.returncode, "2 kept, 0 broken" in kept.stdout) == (0, True), kept.stdout + kept.stderr
    plant(copied / path, statement)
    broken = lint_imports(copied)
    assert (broken.returncode, "1 kept, 1 broken" in broken.stdout) == (1, True), broken.stdout + broken.stderr
    module = path.removesuffix(".py").replace("/", ".")
    assert f"{module} -> {statement.split()[1]}" in broken.stdout
