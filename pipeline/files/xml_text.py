"""Read XML files that anybody may have written: no entities, no document types, nothing is fetched."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final
from xml.parsers import expat

from pipeline.errors import DatasetError, Problem

_DEEPEST: Final = 50


def read_xml(path: Path) -> ET.Element:
    """Return the root of an XML file; DatasetError where it cannot be read, or declares a document type.

    Entities can only be declared in a document type: without one, none can expand.
    """
    builder = ET.TreeBuilder()
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise _problem(path, "is nested too deeply to be an annotation file")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: object) -> None:
        raise _problem(path, "declares a document type, which no annotation tool writes: remove the line <!DOCTYPE …>")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except OSError as error:
        raise _problem(path, f"cannot be read: {error.strerror}") from error
    except (expat.ExpatError, ValueError, LookupError) as error:  # the last two: an encoding that Python does not know
        raise _problem(path, f"not XML: {error}") from error
    return builder.close()


def _problem(path: Path, message: str) -> DatasetError:
    return DatasetError(str(path), [Problem("", message)])
