"""The page on the label store says what is so: its examples run, its table is the format's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.labels.label_columns import LABEL_FORMAT
from tests.tiny_labels import tiny_row, tiny_store

PAGE = (Path(__file__).parent.parent / "docs" / "label-store.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TABLE_LETTERS = {
    "image": "I",
    "file name byte": "F",
    "message byte": "E",
    "instance": "N",
    "mask byte": "M",
    "uncertain mask byte": "U",
    "soft mask": "S",
}


def run_example(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_the_examples_give_the_masks_of_the_first_image(tmp_path, monkeypatch):
    rows = [tiny_row(image_id) for image_id in (13, 1, 2)]
    tiny_store(tmp_path / "labels.zarr", rows)
    expected = [rows[0].mask(instance) for instance in rows[0].instances]
    assert len(EXAMPLES) == 2
    assert len(expected) > 1
    for example in EXAMPLES:
        names = run_example(example, tmp_path, monkeypatch)
        assert len(names["masks"]) == len(expected)
        assert all(np.array_equal(*pair) for pair in zip(names["masks"], expected, strict=True))
    scores = run_example(EXAMPLES[0], tmp_path, monkeypatch)["scores"]
    assert scores.tolist() == [instance.score for instance in rows[0].instances]


def test_the_table_has_every_column_as_the_format_has_it():
    expected = []
    for column in LABEL_FORMAT.columns:
        first = TABLE_LETTERS[column.table] + (" + 1" if column.points_into else "")
        shape = ", ".join([first, *map(str, column.row_shape)])
        expected.append(f"| `{column.name}` | {column.dtype} | {shape} | {column.meaning} |")
    assert [line for line in PAGE.splitlines() if line.startswith(("| `images/", "| `instances/"))] == expected


def test_the_page_is_of_the_version_that_is_written():
    assert f"Format: `{LABEL_FORMAT.name}`, version **{LABEL_FORMAT.version}**." in PAGE
    assert f"\n| {LABEL_FORMAT.version} | " in PAGE
