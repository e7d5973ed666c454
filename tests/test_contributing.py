"""CONTRIBUTING.md names files, functions and layers that exist."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# In backticks: a path with a slash or a suffix, and maybe a name in it. NAME stands for one that is to be chosen.
NAMED = sorted({each for each in re.findall(r"`([\w./-]+\.\w+(?:::[\w.]+)?)`", TEXT) if "NAME" not in each})


def names_in(path: Path) -> set[str]:
    """Names at the top of a module, and those of its classes as `Class.name`."""
    found: set[str] = set()
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        found |= names_of(statement)
        if isinstance(statement, ast.ClassDef):
            found |= {f"{statement.name}.{name}" for inner in statement.body for name in names_of(inner)}
    return found


def names_of(statement: ast.stmt) -> set[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


@pytest.mark.parametrize("named", [each for each in NAMED if "/" in each or (ROOT / each.split("::")[0]).exists()])
def test_what_is_named_exists(named):
    file, _, name = named.partition("::")
    assert (ROOT / file).is_file()
    assert not name or name in names_in(ROOT / file)


def test_the_page_names_what_it_should():
    assert len([each for each in NAMED if "::" in each]) > 50


def test_the_layers_are_those_that_are_checked():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    drawn = re.findall(r"^    ([a-z]+(?: \| [a-z]+)*)  +\S", TEXT, re.MULTILINE)
    assert drawn[drawn.index("stages") + 1 :] == contract["layers"]
