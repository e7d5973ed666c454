"""Says in words what the schema allows under a key, and which keys there are."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.settings import FileMarker, FolderMarker


def walk_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a model with its field, sections before what is in them, by dotted key."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        yield key, field
        section = section_of(field)
        if section is not None:
            yield from walk_fields(section, f"{key}.")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model behind a field that is a section (optional ones included), else None."""
    for kind in _alternatives(field.annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def is_optional(field: FieldInfo) -> bool:
    """Whether null is allowed."""
    return type(None) in _alternatives(field.annotation)


def path_kind(field: FieldInfo) -> type[FileMarker | FolderMarker] | None:
    """Whether a field's path must lead to a file or to a folder."""
    for item in _metadata(field.annotation, tuple(field.metadata)):
        if isinstance(item, FileMarker | FolderMarker):
            return type(item)
    return None


def allowed(field: FieldInfo) -> str:
    """What may stand under a key, in words: `a whole number from 0 to 64`."""
    return _allowed(field.annotation, tuple(field.metadata))


def nearest_key(key: str, model: type[BaseModel]) -> str | None:
    """Return the dotted key of a model that an unknown one most likely means."""
    known = [name for name, _ in walk_fields(model)]
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


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _metadata(annotation: Any, metadata: tuple[Any, ...]) -> tuple[Any, ...]:
    for kind in _alternatives(annotation):
        if typing.get_origin(kind) is typing.Annotated:
            metadata = (*metadata, *kind.__metadata__)
    return metadata


def _allowed(annotation: Any, metadata: tuple[Any, ...]) -> str:
    kinds = _alternatives(annotation)
    if type(None) in kinds:
        rest = [_allowed(kind, metadata) for kind in kinds if kind is not type(None)]
        return f"{rest[0]} or null"
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, *extra = typing.get_args(annotation)
        return _allowed(inner, (*metadata, *extra))
    if origin is Literal:
        return "one of " + ", ".join(str(value) for value in typing.get_args(annotation))
    if origin is tuple:
        items: tuple[Any, ...] = typing.get_args(annotation)
        how_many = "" if items[-1] is Ellipsis else f" of {len(items)}"
        return f"a list{how_many}, each {_allowed(items[0], ())}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a section with {', '.join(annotation.model_fields)}"
    return _plain(annotation, metadata)


def _plain(annotation: Any, metadata: tuple[Any, ...]) -> str:
    if annotation is bool:
        return "true or false"
    if annotation is int:
        return f"a whole number{_range(metadata, whole=True)}"
    if annotation is float:
        return f"a number{_range(metadata, whole=False)}"
    if annotation is Path:
        if any(isinstance(item, FolderMarker) for item in metadata):
            return "the path of a folder"
        return "the path of a file" if any(isinstance(item, FileMarker) for item in metadata) else "a path"
    if annotation is str:
        named = any(getattr(item, "pattern", None) for item in metadata)
        return "letters, digits, '.', '_' and '-', at most 64 of them" if named else "text"
    return "keys with values"


def _range(metadata: tuple[Any, ...], *, whole: bool) -> str:
    constraints: dict[type, Any] = {}
    for item in metadata:
        for constraint in item if isinstance(item, annotated_types.GroupedMetadata) else (item,):
            constraints[type(constraint)] = constraint
        nested = getattr(item, "metadata", None)  # a pydantic FieldInfo inside Annotated
        for constraint in nested or ():
            constraints[type(constraint)] = constraint
    low = constraints.get(annotated_types.Ge)
    above = constraints.get(annotated_types.Gt)
    high = constraints.get(annotated_types.Le)
    below = constraints.get(annotated_types.Lt)
    if whole and below is not None:
        high = annotated_types.Le(below.lt - 1)
        below = None
    if low is not None and high is not None:
        return f" from {low.ge} to {high.le}"
    parts = []
    if above is not None:
        parts.append(f"above {above.gt}")
    if low is not None:
        parts.append(f"of at least {low.ge}")
    if below is not None:
        parts.append(f"below {below.lt}")
    if high is not None:
        parts.append(f"at most {high.le}")
    return " " + " and ".join(parts) if parts else ""
