"""HTML for notebooks, which show an object by its `_repr_html_`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table_html(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; all text is escaped. headings: empty for a table of names and values."""
    head = f"<thead>{_row('th', headings)}</thead>" if headings else ""
    body = "".join(_row("td", row) for row in rows)
    title = f'<caption style="text-align: left; font-weight: bold">{escape(caption)}</caption>'
    return f"<table>{title}{head}<tbody>{body}</tbody></table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    inside = "".join(f'<{tag} style="text-align: left">{escape(cell)}</{tag}>' for cell in cells)
    return f"<tr>{inside}</tr>"
