"""docs/structural-targets.md says what the format is, and its examples work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.structure.target_columns import TARGET_FORMAT
from tests.test_structure_store import make, targets

PAGE = (Path(__file__).parent.parent / "docs" / "structural-targets.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TABLE_LETTERS = {"image": "I", "anchor": "A", "file name byte": "F", "message byte": "E"}


def test_the_examples_give_the_targets_of_the_first_image(tmp_path, monkeypatch):
    make(tmp_path, [13, 1, 2])
    monkeypatch.chdir(tmp_path)
    expected = targets(13)
    assert len(EXAMPLES) == 2
    for example in EXAMPLES:
        names: dict[str, Any] = {}
        exec(example, names)
        np.testing.assert_array_equal(names["anchors_xy"], expected.anchors_xy)
        np.testing.assert_array_equal(names["windows_xyxy"], expected.windows_xyxy)
        np.testing.assert_allclose(names["similarity"], expected.maps / 127.5 - 1)


def test_the_table_has_every_column_as_the_format_has_it():
    expected = []
    for column in TARGET_FORMAT.columns:
        first = TABLE_LETTERS[column.table] + (" + 1" if column.points_into else "")
        shape = ", ".join([first, *map(str, column.row_shape)])
        expected.append(f"| `{column.name}` | {column.dtype} | {shape} | {column.meaning} |")
    assert re.findall(r"^\| `[\w/]+` \| (?:u?int|float).*$", PAGE, re.MULTILINE) == expected


def test_the_page_is_of_the_version_that_is_written():
    assert f"Format: `{TARGET_FORMAT.name}`, version **{TARGET_FORMAT.version}**." in PAGE
    assert f"\n| {TARGET_FORMAT.version} | " in PAGE
