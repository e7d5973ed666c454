"""The files of an ablation: ablation.md, ablation.json, ablation.svg and ablation.html, all of the same figures.

The same results give the same bytes, whenever they are written.
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
from pipeline.ablation.page import ablation_page
from pipeline.errors import StageError
from pipeline.files.writing import write_atomically
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


_SPREADS: Final = ("ap", "ap_50", "ap_75", "boundary_ap", "label_iou_before", "label_iou_after")


def write_ablation(folder: Path, ablation: Ablation) -> None:
    """Write all files into a folder, over those of an earlier run."""
    write_atomically(folder / MARKDOWN, markdown(ablation))
    write_atomically(folder / ABLATION_FIGURES, json.dumps(_as_json(ablation), indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / CHART, str(chart(ablation)))
    write_atomically(folder / PAGE, ablation_page(ablation))


def read_ablation(path: Path) -> Ablation:
    """The figures as they were written; StageError for a file that holds something else."""
    try:
        text = path.read_bytes()
        given = msgspec.json.decode(text, type=_Header)
        if (given.format, given.version) != (FORMAT, FORMAT_VERSION):
            raise msgspec.ValidationError(f"{given.format!r} {given.version}")
        return msgspec.json.decode(text, type=Ablation)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StageError(
            f"{path}: not an ablation's figures as they are written now ({error}): "
            "remove the file, or give the command `s4m ablation` again"
        ) from error


def markdown(ablation: Ablation) -> str:
    """The tables as Markdown."""
    return "\n".join(_paragraphs(ablation))


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
        yield "## What they share\n"
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
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "experiment": ablation.experiment,
        "settings": ablation.settings,
        "seeds": ablation.seeds,
        "cells": [_cell_as_json(cell) for cell in ablation.cells],
        "sharing": [asdict(each) for each in ablation.sharing],
    }


def _cell_as_json(cell: CellFigures) -> dict[str, Any]:
    """Every figure with mean, standard deviation and count, and of every seed by itself."""
    spreads = {name: cell.spread(name) for name in _SPREADS}
    means = {name: None if spread is None else asdict(spread) for name, spread in spreads.items()}
    return asdict(cell) | {"over_seeds": means}
