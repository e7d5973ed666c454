"""The JSON schema of experiment files: the committed file, and what it says in words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.settings import Settings
from pipeline.workflow.describe import SCHEMA_FILE, allowed, keys_of, properties_of, schema_text
from pipeline.workflow.experiment import Experiment

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "configs/experiments").glob("*.yaml"))


def test_the_committed_schema_is_that_of_the_models():
    written = (ROOT / SCHEMA_FILE).read_text(encoding="utf-8")
    assert written == schema_text(), f"write it again: s4m schema > {SCHEMA_FILE}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_experiment_names_the_schema(path):
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(.+)", first)
    assert named is not None
    assert (path.parent / named[1]).resolve() == ROOT / SCHEMA_FILE


def test_every_key_of_the_schema_is_described():
    for key, schema in keys_of(Experiment).items():
        assert re.fullmatch(r"[A-Z`].*\.", schema["description"]), key


def test_the_schema_file_lets_a_section_be_empty_and_a_name_be_left_out():
    schema = json.loads(schema_text())
    assert schema["required"] == ["data"]
    assert {"type": "null"} in schema["properties"]["teacher"]["anyOf"]
    assert len(schema["properties"]["data"]["oneOf"]) == 3


def test_a_section_of_several_shapes_has_the_keys_of_all():
    keys = list(properties_of(keys_of(Experiment)["data"]))
    assert keys == ["labelled", "unlabelled", "validation", "annotated", "percent", "seed", "labelled_list"]


class _Sample(Settings):
    number: int
    """A number."""
    anything: dict[str, int] = {}  # noqa: RUF012  # pydantic copies defaults
    """Anything."""


def test_a_key_without_limits_is_told_in_words():
    assert {key: allowed(schema) for key, schema in keys_of(_Sample).items()} == {
        "number": "a whole number",
        "anything": "keys with values",
    }
