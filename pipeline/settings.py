"""The base of all settings: strict, frozen, every key documented; kinds of paths and numbers that they share."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


class FileMarker:
    """The path must lead to a file."""


class FolderMarker:
    """The path must lead to a folder."""


def expanded(path: Path) -> Path:
    """A path with `~` and environment variables filled in; a PydanticCustomError where that cannot be."""
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
FolderPath = Annotated[AnyPath, FolderMarker()]

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the experiment: unknown keys are refused, nothing is coerced, nothing changes afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
