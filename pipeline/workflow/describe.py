"""The JSON schema of settings: all keys, the values that each allows in words, and the schema file for editors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Final

from pipeline.settings import Settings
from pipeline.workflow.experiment import Experiment

Schema = Mapping[str, Any]
"""A JSON schema without references: each is replaced by its definition."""

SCHEMA_FILE: Final = Path("configs/experiment.schema.json")
"""The schema of experiment files, for editors."""

_UNION: Final = ("anyOf", "oneOf")
_PATHS: Final = {"file-path": "the path of a file", "directory-path": "the path of a folder", "path": "a path"}


@cache
def schema_of(model: type[Settings]) -> Schema:
    """Return the JSON schema of settings."""
    schema = model.model_json_schema()
    expanded: Schema = _expanded(schema, schema.get("$defs", {}))
    return expanded


def _expanded(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_expanded(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    given = {key: _expanded(value, definitions) for key, value in node.items() if key not in ("$defs", "$ref")}
    if "$ref" in node:
        return {**_expanded(definitions[node["$ref"].rpartition("/")[2]], definitions), **given}
    return given


@cache
def keys_of(model: type[Settings]) -> dict[str, Schema]:
    """Return the schema of every key by dotted key, sections before the keys in them."""
    return dict(_walk(schema_of(model), ""))


def _walk(schema: Schema, prefix: str) -> Iterator[tuple[str, Schema]]:
    for name, inner in properties_of(schema).items():
        yield f"{prefix}{name}", inner
        yield from _walk(inner, f"{prefix}{name}.")


def properties_of(schema: Schema) -> dict[str, Schema]:
    """Return the keys of a section, over all its shapes; empty for a key that is not a section."""
    found: dict[str, Schema] = dict(schema.get("properties", {}))
    for shape in _alternatives(schema):
        found |= shape.get("properties", {})
    return found


def is_nullable(schema: Schema) -> bool:
    """Return whether null is allowed."""
    return any(each.get("type") == "null" for each in _alternatives(schema))


def path_format(schema: Schema) -> str | None:
    """Return the format of a path (`file-path`, `directory-path`, `path`), None for a key that is not a path."""
    formats = (each.get("format") for each in (schema, *_alternatives(schema)))
    return next((each for each in formats if each in _PATHS), None)


def _alternatives(schema: Schema) -> list[Schema]:
    return [alternative for word in _UNION for alternative in schema.get(word, ())]


def nearest_key(key: str, model: type[Settings]) -> str | None:
    """Return the dotted key of a model that an unknown key most likely means."""
    known = list(keys_of(model))
    section, _, leaf = key.rpartition(".")
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    for candidates, wanted in (
        ({name.rpartition(".")[2]: name for name in siblings}, leaf),
        ({name: name for name in known}, key),
        ({name.rpartition(".")[2]: name for name in reversed(known)}, leaf),
    ):
        close = get_close_matches(wanted, candidates, n=1, cutoff=0.7)
        if close:
            return candidates[close[0]]
    return None


def allowed(schema: Schema) -> str:
    """Return the values that a key allows, in words: `a whole number from 0 to 64`."""
    properties = properties_of(schema)
    if properties:
        return f"a section with {', '.join(properties)}"
    if alternatives := _alternatives(schema):
        kinds = [each.get("description", allowed(each)) for each in alternatives if each.get("type") != "null"]
        return " or ".join([*kinds, *(["null"] if is_nullable(schema) else [])])
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    match schema.get("type"):
        case "boolean":
            return "true or false"
        case "integer":
            return f"a whole number{_range(schema)}"
        case "number":
            return f"a number{_range(schema)}"
        case "array" if "prefixItems" in schema:
            return f"a list of {len(schema['prefixItems'])}, each {allowed(schema['prefixItems'][0])}"
        case "array":
            return f"a list, each {allowed(schema['items'])}"
        case "string" if "pattern" in schema:
            return "letters, digits, '.', '_' and '-', at most 64 of them"
        case "string":
            return _PATHS.get(schema.get("format", ""), "text")
    return "keys with values"


def _range(schema: Schema) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if schema["type"] == "integer" and below is not None:
        high, below = below - 1, None
    if low is not None and high is not None:
        return f" from {low} to {high}"
    limits = {"above": above, "of at least": low, "below": below, "at most": high}
    parts = [f"{word} {limit}" for word, limit in limits.items() if limit is not None]
    return " " + " and ".join(parts) if parts else ""


def schema_text() -> str:
    """Return the text of `SCHEMA_FILE`: the schema of an experiment file."""
    schema = Experiment.model_json_schema()
    schema["required"].remove("name")  # it has the file's name as default
    for definition in [schema, *schema["$defs"].values()]:
        for name, key in definition["properties"].items():
            if "$ref" in key and "default" in key:  # a section, which may be empty
                reference = {"$ref": key["$ref"]}
                about = {"description": key["description"]} if "description" in key else {}
                definition["properties"][name] = {"anyOf": [reference, {"type": "null"}], **about}
            else:
                key.pop("title", None)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"
