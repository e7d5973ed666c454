"""The base of all settings: strict, frozen, right by construction; kinds of paths and numbers that they share.

The annotated types say which keys are paths, and to what each leads. Fingerprints, input digests, the check of
missing files and the JSON schema all read it from there.
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

MISFIT = "misfit"
"""Type of a validation error whose message is complete: it needs neither the value nor what is allowed."""


class PathMarker:
    """What the path of a key leads to. `json_format` names it in the JSON schema."""

    json_format: ClassVar[str]

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the JSON schema of the path with our format."""
        return {**handler(core), "format": self.json_format}


class FileMarker(PathMarker):
    """The path must lead to a file, which is known by its content."""

    json_format = "file-path"


class ConfigMarker(FileMarker):
    """The path must lead to a config of MMDetection, which is known by its content and that of its base configs."""


class FolderMarker(PathMarker):
    """The path must lead to a folder of images."""

    json_format = "directory-path"


def expanded(path: Path) -> Path:
    """Return a path with `~` and environment variables filled in. Raise PydanticCustomError where that cannot be."""
    text = os.path.expandvars(str(path))
    unknown = re.search(r"\$(\w+|\{\w+\})", text)
    if unknown:
        raise PydanticCustomError(
            "path", "names the environment variable {name}, which is not set", {"name": unknown[0]}
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise PydanticCustomError("path", "names a user who has no home folder here") from None


AnyPath = Annotated[Path, AfterValidator(expanded)]
FilePath = Annotated[AnyPath, FileMarker()]
ConfigPath = Annotated[AnyPath, ConfigMarker()]
FolderPath = Annotated[AnyPath, FolderMarker()]

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

ScoreKind = Literal["class", "mask", "product"]
"""The scores of a detected instance: that of its class, that of its mask, or their product."""

ClassCheckAction = Literal["off", "flag", "weight", "correct", "drop"]
"""What becomes of labels whose class similar labelled instances do not have (see `pipeline.labels.class_check`)."""


class Settings(BaseModel):
    """A section of settings: unknown keys are refused, nothing is coerced, nothing changes afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values, which are validated. `deep` makes no difference: settings are frozen."""
        del deep
        return type(self).model_validate({**dict(self), **(update or {})})

    def misfit(self, message: str, *key: str) -> ValidationError:
        """Return the error for values that do not fit together, told under `key`; raise it from a validator."""
        told = PydanticCustomError(MISFIT, "{message}", {"message": message})
        return ValidationError.from_exception_data(
            type(self).__name__, [InitErrorDetails(type=told, loc=key, input=self)]
        )


def marker_of(field: FieldInfo) -> PathMarker | None:
    """Return what the path of a field must lead to; None for a field that holds no such path."""
    for part in (*field.metadata, *_parts(field.annotation)):
        if isinstance(part, PathMarker):
            return part
    return None


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in typing.get_args(annotation):
        yield from _parts(inner)


def named_paths(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Path, PathMarker]]:
    """Yield every path that the settings name, with its dotted key and what it leads to."""
    for name, field in type(settings).model_fields.items():
        value, marker = getattr(settings, name), marker_of(field)
        if isinstance(value, Settings):
            yield from named_paths(value, f"{prefix}{name}.")
        elif marker is not None and value is not None:
            yield f"{prefix}{name}", value, marker
