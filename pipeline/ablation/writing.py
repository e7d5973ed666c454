"""Writes the files of an ablation: ablation.md, ablation.json, ablation.svg and ablation.html.

The same figures always give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.ablation import tables
from pipeline.ablation.chart import chart
from pipeline.ablation.figures import Ablation, CellFigures
from pipeline.errors import StageError
from pipeline.files.writing import write_atomically
from pipeline.presentation.page import render
from pipeline.presentation.tables import Table
from pipeline.workflow.workspace import ABLATION_FIGURES

MARKDOWN: Final = "ablation.md"
CHART: Final = "ablation.svg"
PAGE: Final = "ablation.html"

FORMAT: Final = "s4m-ablation"
FORMAT_VERSION: Final = 2


class _Header(msgspec.Struct):
    format: str
    version: int


_SPREADS: Final = ("ap", "ap_50", "ap_75", "boundary_ap", "label_iou_before", "label_iou_after", "cityscapes_ap")


def write_ablation(folder: Path, ablation: Ablation) -> None:
    """Write all files into a folder; replace those of an earlier run."""
    write_atomically(folder / MARKDOWN, markdown(ablation))
    write_atomically(folder / ABLATION_FIGURES, json.dumps(_as_json(ablation), indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / CHART, str(chart(ablation)))
    write_atomically(folder / PAGE, _page(ablation))


def read_ablation(path: Path) -> Ablation:
    """Read the figures of an ablation; raise StageError for a file with other content."""
    try:
        text = path.read_bytes()
        given = msgspec.json.decode(text, type=_Header)
        if (given.format, given.version) != (FORMAT, FORMAT_VERSION):
            raise msgspec.ValidationError(f"{given.format!r} {given.version}")
        return msgspec.json.decode(text, type=Ablation)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StageError(
            f"{path}: not the figures of an ablation in format {FORMAT} {FORMAT_VERSION} ({error}): "
            "remove the file, or run `s4m ablation` again"
        ) from error


def markdown(ablation: Ablation) -> str:
    """Return the tables as Markdown."""
    return "\n".join(_paragraphs(ablation))


def ablation_values(ablation: Ablation) -> dict[str, Any]:
    """Return the values with which templates show the accuracy of an ablation."""
    return {
        "about": tables.about(ablation),
        "chart": chart(ablation),
        "accuracy": tables.accuracy_table(ablation),
        "missing": tables.missing_sentences(ablation),
    }


def _page(ablation: Ablation) -> str:
    values = {
        "name": ablation.experiment,
        "cells": tables.cell_table(ablation),
        "sharing": tables.sharing_table(ablation),
        "saved": tables.sharing_sentence(ablation),
    }
    return render("ablation.html", values | ablation_values(ablation))


def _paragraphs(ablation: Ablation) -> Iterator[str]:
    yield f"# Ablation of {ablation.experiment}\n"
    yield f"{tables.about(ablation)}\n"
    yield f"![Mask AP of every cell]({CHART})\n"
    yield _markdown_table(tables.accuracy_table(ablation))
    for sentence in tables.missing_sentences(ablation):
        yield f"{sentence}\n"
    yield "## The cells\n"
    yield _markdown_table(tables.cell_table(ablation))
    if ablation.sharing:
        yield "## Shared results\n"
        yield f"{tables.sharing_sentence(ablation)}\n"
        yield _markdown_table(tables.sharing_table(ablation))


def _markdown_table(table: Table) -> str:
    rows = [
        [column.name for column in table.columns],
        ["--:" if column.is_number else "---" for column in table.columns],
    ]
    rows += [[str(cell.text) for cell in row] for row in table.rows]
    return "".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |\n" for row in rows)


def _as_json(ablation: Ablation) -> dict[str, Any]:
    cells = [_cell_as_json(cell) for cell in ablation.cells]
    return {"format": FORMAT, "version": FORMAT_VERSION} | asdict(ablation) | {"cells": cells}


def _cell_as_json(cell: CellFigures) -> dict[str, Any]:
    spreads = {name: cell.spread(name) for name in _SPREADS}
    means = {name: None if spread is None else asdict(spread) for name, spread in spreads.items()}
    return asdict(cell) | {"over_seeds": means}
