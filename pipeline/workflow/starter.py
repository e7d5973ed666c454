"""Write a commented experiment to start from. Its keys, defaults and comments come from the schema."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline.errors import ExperimentError, Problem
from pipeline.workflow.describe import SCHEMA_FILE, Schema, allowed, keys_of, properties_of, schema_of
from pipeline.workflow.experiment import Experiment

_DATA: Final = """\
# yaml-language-server: $schema={schema}
# An experiment of the S4M pipeline. Run it with: make report EXP={name}
# Every path starts from the folder that make runs in; ~ and $VARIABLES are filled in.

data:
  # Labelled images: COCO instance annotations, and the folder that their file names are relative to.
  # Check them first: s4m data check ANNOTATIONS.json IMAGE_FOLDER
  labelled:
    annotations: path/to/labelled.json
    images: path/to/images
  # Unlabelled images. A folder is enough. With `annotations:`, the COCO file says which images are used;
  # its instances only measure the pseudo-labels, and nothing learns from them.
  unlabelled:
    images: path/to/unlabelled
  # Images on which teacher and student are measured.
  validation:
    annotations: path/to/validation.json
    images: path/to/images

  # Instead of `labelled` and `unlabelled`: one annotated set, of which a part is labelled.
  #annotated:
  #  annotations: path/to/all.json
  #  images: path/to/images
  # Which part: a percentage of its images, chosen at random by the seed; or a list of images.
  #percent: 10
  #seed: 0
  #labelled_list: path/to/list.txt

# Below, every key stands with its default behind a #. Remove the # to change one.
"""


def starter_text(name: str, folder: Path) -> str:
    """Return the text of a new experiment file in a folder."""
    about_name = keys_of(Experiment)["name"]
    if not re.search(about_name["pattern"], name):
        raise ExperimentError("s4m new", [Problem("name", f"given {json.dumps(name)}; expected {allowed(about_name)}")])
    lines = [_DATA.format(name=name, schema=Path(os.path.relpath(SCHEMA_FILE, folder)).as_posix())]
    sections = properties_of(schema_of(Experiment))
    for key, section in sections.items():
        if key != "data" and properties_of(section):
            lines += [*_lines(key, section, ""), ""]
    lines += _lines("store", sections["store"], "")
    return "\n".join(lines) + "\n"


def _lines(key: str, schema: Schema, indent: str) -> Iterator[str]:
    inner = properties_of(schema)
    if inner:
        yield f"{indent}# {schema['description']}"
        yield f"{indent}{key}:"
        for name, each in inner.items():
            yield from _lines(name, each, f"{indent}  ")
    else:
        default = schema["default"]
        yield f"{indent}# {schema['description']} ({allowed(schema)})"
        yield f"{indent}#{key}: {default if isinstance(default, str) else json.dumps(default)}"
