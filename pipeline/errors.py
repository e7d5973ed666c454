"""The errors a user can act on. Anything else that escapes is a defect of this program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class S4MError(Exception):
    """What was wrong, where, and what to do about it: its text is the whole message a user sees."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an input: `where` is a dotted key or a place in a file."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class ProblemsError(S4MError):
    """Everything that is wrong with one input, told at once."""

    shown = 50

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"{source}: {count} problem{'s' if count != 1 else ''}"]
        lines += [f"  {problem}" for problem in self.problems[: self.shown]]
        if count > self.shown:
            lines.append(f"  … and {count - self.shown} more")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[ProblemsError], tuple[str, tuple[Problem, ...]]]:
        return type(self), (self.source, self.problems)  # a worker's error reaches the command whole


class ExperimentError(ProblemsError):
    """An experiment file, or a value set over it, is not what the schema allows."""


class DatasetError(ProblemsError):
    """A COCO annotation file is not what it should be."""


class ImageError(S4MError):
    """An image cannot be used; the text is the reason that is recorded for it."""


class ArrayError(S4MError, ValueError):
    """An array given in Python is not what a call takes."""


class UnreachableError(ImageError):
    """The system does not give an image's file. missing: there is no such file."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing


class StageError(S4MError):
    """A stage cannot run or was refused: the text says why and what to do."""


class OutageError(StageError):
    """A file that was there cannot be read any more: the machine is at fault, not the file."""


class StoreError(S4MError):
    """A store is damaged, or was made by other settings than those asked for."""


NAMES_SHOWN = 3
"""Names shown in a message that could show hundreds."""


def some_of(names: Sequence[str]) -> str:
    """The first few names, and how many more there are: for messages."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
