"""Read a JSON file as the JSON text of its parts, and say where it cannot be parsed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pipeline.coco.foreign import foreign_hint
from pipeline.errors import DatasetError, Problem
from pipeline.files.reading import read_file

# What Python writes for a float that is not a number, and any string, so that "NaN" inside a string stays.
# A string that does not end matches too, up to the end: a search from each of its quotes would take quadratic time.
_STRING_OR_NO_NUMBER = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|-?Infinity|NaN', re.DOTALL)

# Replaces NaN and Infinity: a value no longer than they are (so that byte offsets stay right), which no
# field accepts and nobody writes.
_NO_NUMBER = b"{\t}"

_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])

_TYPE_NAMES = {
    "int": "an integer",
    "float": "a number",
    "str": "text",
    "bool": "true/false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def read_json_object(path: Path) -> dict[str, msgspec.Raw]:
    """Return the JSON text of every key of the file's top-level object; DatasetError where the file has no such object.

    NaN and Infinity, which are not JSON but which Python writes, become problems of the fields that hold them. For
    annotations in another format, the error says what to do with them.
    """
    try:
        top = _read_object(path)
    except DatasetError:
        _refuse_other_format(path, ())
        raise
    if "images" not in top:
        _refuse_other_format(path, top)
    return top


def _refuse_other_format(path: Path, keys: Iterable[str]) -> None:
    hint = foreign_hint(path, keys)
    if hint is not None:
        raise DatasetError(str(path), [Problem("", hint)])


def _read_object(path: Path) -> dict[str, msgspec.Raw]:
    try:
        data = read_file(path)
    except OSError as error:
        raise DatasetError(str(path), [Problem("", f"cannot be read: {error.strerror}")]) from error
    if not data.strip():
        raise DatasetError(str(path), [Problem("", "is empty")])
    if data.startswith(b"\xef\xbb\xbf"):
        raise DatasetError(str(path), [Problem("byte 0", "begins with a byte order mark: save it as plain UTF-8")])
    try:
        return _object_decoder.decode(data)
    except (ValueError, RecursionError) as error:
        first_error = error
    if b"NaN" in data or b"Infinity" in data:
        patched = bytearray(data)
        for found in _STRING_OR_NO_NUMBER.finditer(data):
            if not found[0].startswith(b'"'):
                patched[slice(*found.span())] = _NO_NUMBER.ljust(len(found[0]))
        try:
            return _object_decoder.decode(patched)
        except (ValueError, RecursionError) as error:
            first_error = error
    raise DatasetError(str(path), [_parse_problem(first_error, path.stat().st_size)]) from first_error


def _parse_problem(error: Exception, size: int) -> Problem:
    text = str(error)
    if isinstance(error, RecursionError):
        return Problem("", "is nested too deeply to be a COCO file")
    if isinstance(error, UnicodeDecodeError):
        return Problem("", f"has a key that is not UTF-8: {error.reason}")
    if isinstance(error, msgspec.ValidationError):
        return Problem("", f"must be a JSON object with images, annotations and categories: {plain_message(text)[1]}")
    if "truncated" in text:
        return Problem(f"byte {size}", "not JSON: the file ends in the middle")
    found = re.fullmatch(r"JSON is malformed: (.*) \(byte (\d+)\)", text)
    return Problem(f"byte {found[2]}", f"not JSON: {found[1]}") if found else Problem("", f"not JSON: {text}")


def field_problem(field: str, text: msgspec.Raw, error: Exception) -> tuple[str, str]:
    """Return the field and the plain words for an error of msgspec in it."""
    if isinstance(error, RecursionError):
        return field, "is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return field, f"is not UTF-8: {error.reason}"
    if bytes(text) == _NO_NUMBER:
        return field, "is NaN or Infinity"
    below, message = plain_message(str(error))
    if _NO_NUMBER in bytes(text) and message.endswith("got an object"):
        message = "is NaN or Infinity"
    return field + below, message


def plain_message(text: str) -> tuple[str, str]:
    """Return where below the field (`[2]`) and what is wrong, from a message of msgspec."""
    message, _, below = text.partition(" - at `$")
    below = below.removesuffix("`")
    message = re.sub(r"`([a-z |]+)`", lambda found: _plain_types(found[1]), message)
    if message.startswith("Number out of range"):
        message = "is a number too large"
    if missing := re.fullmatch(r"Object missing required field (\w+)", message):
        message, below = "is missing", f"{below}.{missing[1]}"
    return below, message[:1].lower() + message[1:]


def _plain_types(names: str) -> str:
    return " or ".join(_TYPE_NAMES.get(name, name) for name in names.split(" | "))
