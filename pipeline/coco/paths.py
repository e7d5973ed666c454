"""Find the file of an image by its file name, inside the image folder and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import ImageError

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE_LETTER = re.compile(r"[A-Za-z]:")


def text_problem(text: str) -> str | None:
    """Say why a text cannot be a name, or None where it can."""
    if not text.strip():
        return "is empty"
    return f"{text!r} holds a control character" if _CONTROL_CHARACTER.search(text) else None


def file_name_problem(file_name: str) -> str | None:
    """Say why a file name must not be used, or None where it stays inside any folder it is joined to."""
    if (problem := text_problem(file_name)) is not None:
        return problem
    if "\\" in file_name:
        return f"{file_name!r} holds a backslash: separate folders by '/'"
    if file_name.startswith("/") or _DRIVE_LETTER.match(file_name):
        return f"{file_name!r} is absolute: file names are relative to the image folder"
    if ".." in file_name.split("/"):
        return f"{file_name!r} leaves the image folder by '..'"
    try:
        file_name.encode("utf-8")
    except UnicodeEncodeError:
        return f"{file_name!r} is not valid Unicode"
    return None


def resolve_image_path(root: Path, file_name: str) -> Path:
    """Join the image folder and an annotation's file name; ImageError where the name would leave the folder.

    Links inside the folder are followed: whoever owns the folder made them, an annotation file cannot.
    """
    if (problem := file_name_problem(file_name)) is not None:
        raise ImageError(f"file name {problem}")
    return root / file_name
