"""Tables of pages: rows of cells that know what to be sorted by."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from pipeline.presentation import words

Sortable = float | str | None


@dataclass(frozen=True)
class Heading:
    """A column. note: what it means, for those who ask."""

    name: str
    is_number: bool = True
    note: str = ""


@dataclass(frozen=True)
class TableCell:
    """What a cell shows and what it is sorted by; tone colours a change for better or worse."""

    text: str | Markup
    value: Sortable = None
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption for those who cannot see what is around it."""

    caption: str
    columns: tuple[Heading, ...]
    rows: tuple[tuple[TableCell, ...], ...]


def text_cell(text: str) -> TableCell:
    """A cell that is sorted as text."""
    return TableCell(text, text.casefold())


def points_cell(share: float | None) -> TableCell:
    """A precision, in points."""
    return TableCell(words.points(share), share)


def share_cells(*values: float | None) -> tuple[TableCell, ...]:
    """Shares, as of IoU."""
    return tuple(TableCell(words.share(value), value) for value in values)


def change_cell(before: float | None, after: float | None, *, in_points: bool) -> TableCell:
    """The change from one share to another."""
    change = words.difference(before, after)
    shown = words.signed(None if change is None else 100 * change, 1) if in_points else words.signed(change, 3)
    return TableCell(shown, change, tone(change))


def tone(change: float | None, smallest: float = 0.0005) -> str:
    """`better`, `worse`, or nothing where there is hardly a change."""
    if change is None or abs(change) < smallest:
        return ""
    return "better" if change > 0 else "worse"
