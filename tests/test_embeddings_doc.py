"""The page on kept embeddings says what is so: its examples run, its table is the format's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.embeddings.embedding_columns import EMBEDDING_FORMAT, ImageRow, embedding_bytes, format_of_shape
from pipeline.embeddings.embedding_store import embeddings_in, prepare_embeddings, write_embeddings
from pipeline.sam.build import embedding_shape

PAGE = (Path(__file__).parent.parent / "docs" / "embeddings.md").read_text(encoding="utf-8")
SHAPE = (4, 2, 3)


def test_the_examples_give_the_features(tmp_path, monkeypatch):
    features = np.arange(24, dtype=np.float16).reshape(SHAPE)
    prepare_embeddings(tmp_path, [[1]], SHAPE)
    write_embeddings(tmp_path, 0, 0, [ImageRow(1, 64, 48, features)], SHAPE)
    embeddings_in(tmp_path, SHAPE).seal([[1]], {}, {})
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(first, names)
    np.testing.assert_array_equal(names["features"], features)
    exec(second, names)
    np.testing.assert_array_equal(names["encoded"].features, features)


def test_the_table_has_every_column_as_the_format_has_it():
    expected = [
        f"| `{column.name}` | {column.dtype} | {'N, C, h, w' if column.row_shape else 'N'} | {column.meaning} |"
        for column in format_of_shape(SHAPE).columns
    ]
    assert re.findall(r"^\| `\w+` \| (?:u?int|float).*$", PAGE, re.MULTILINE) == expected


@pytest.mark.slow
def test_the_page_has_the_sizes_of_models_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra hf: make setup EXTRAS=hf")
    for config in (transformers.Sam2Config(), transformers.SamHQConfig(), transformers.Sam3TrackerConfig()):
        config.save_pretrained(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text("{}")
        (tmp_path / "model.safetensors").touch()
        shape = embedding_shape(f"hf:{tmp_path}")
        assert f"| {' x '.join(map(str, shape))} | {embedding_bytes(shape):,} |" in PAGE


def test_the_page_has_the_version_and_the_sizes():
    assert f"`{EMBEDDING_FORMAT.name}`, version **{EMBEDDING_FORMAT.version}**" in PAGE
    for model, side in (("sam_tiny", None), ("sam_tiny", 256), ("vit_b", None)):
        shape = embedding_shape(model, side)
        assert f"| {' x '.join(map(str, shape))} | {embedding_bytes(shape):,} |" in PAGE
