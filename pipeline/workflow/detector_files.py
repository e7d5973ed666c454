"""The content of an MMDetection config, its own base files included, without importing MMDetection."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.errors import S4MError
from pipeline.files.shipped import config_path

BACKBONE: Final = "SamTinyBackbone"


def config_files(config: Path) -> tuple[Path, ...]:
    """A config and the files it inherits from, in order of first mention.

    Bases inside a package (`mmdet::…`) are known by that package's pinned version and left out.
    """
    found: dict[Path, None] = {}
    pending = [config_path(config).absolute()]
    while pending:
        path = pending.pop(0)
        if path in found:
            continue
        found[path] = None
        pending += _bases(path)
    return tuple(found)


def starts_from_sam_tiny(files: Sequence[Path]) -> bool:
    """Whether a detector of these files takes its first weights from the shipped SAM: they count as its content."""
    return any(BACKBONE in file.read_text(encoding="utf-8") for file in files if file.is_file())


def _bases(path: Path) -> list[Path]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []  # known as absent by content; MMDetection names the missing file when it is needed
    except (SyntaxError, ValueError, OSError) as error:
        raise S4MError(f"{path}: not a detector config that can be read: {error}") from error
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "_base_" for target in statement.targets
        ):
            try:
                value = ast.literal_eval(statement.value)
            except ValueError as error:
                raise S4MError(f"{path}: _base_ must be a plain list of file names") from error
            names = [value] if isinstance(value, str) else list(value)
            return [(path.parent / name).resolve() for name in names if "::" not in name]
    return []
