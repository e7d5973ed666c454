"""Tables of pages: rows of cells with a value to sort by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from pipeline.presentation import words

NEGLIGIBLE: Final = 0.0005
"""Smaller changes of a share count as no change."""


@dataclass(frozen=True)
class Heading:
    """The heading of a column. note: its meaning, shown as a tooltip."""

    name: str
    is_number: bool = True
    note: str = ""


@dataclass(frozen=True)
class TableCell:
    """A cell. text: what it shows; value: what it is sorted by; tone: `better` or `worse`, for its colour."""

    text: str | Markup
    value: float | str | None = None
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption, which screen readers read out."""

    caption: str
    columns: tuple[Heading, ...]
    rows: tuple[tuple[TableCell, ...], ...]


def text_cell(text: str) -> TableCell:
    """Make a cell that is sorted as text."""
    return TableCell(text, text.casefold())


def points_cell(share: float | None) -> TableCell:
    """Make a cell of a precision, in points."""
    return TableCell(words.points(share), share)


def share_cells(*values: float | None) -> tuple[TableCell, ...]:
    """Make cells of shares or IoUs in 0..1."""
    return tuple(TableCell(words.share(value), value) for value in values)


def change_cell(before: float | None, after: float | None, *, in_points: bool) -> TableCell:
    """Make a cell of the change from one share to another."""
    change = words.difference(before, after)
    shown = words.signed(None if change is None else 100 * change, 1) if in_points else words.signed(change, 3)
    return TableCell(shown, change, tone(change))


def tone(change: float | None) -> str:
    """Return `better` or `worse`, or an empty text for a change that is unknown or negligible."""
    if change is None or abs(change) < NEGLIGIBLE:
        return ""
    return "better" if change > 0 else "worse"
