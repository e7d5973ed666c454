"""A commented experiment to start from, written from the schema itself so that the two never differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from pipeline.errors import ExperimentError, Problem
from pipeline.refinement.presets import REFINE_PRESETS
from pipeline.workflow.describe import allowed, section_of
from pipeline.workflow.experiment import Experiment

NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

_DATA: Final = """\
# An experiment of the S4M pipeline. Run it with: make report EXP={name}
# Every path starts from the folder that make runs in; ~ and $VARIABLES are filled in.

data:
  # COCO instance annotations, and the folder that their file names start from.
  # Check them first: s4m data check ANNOTATIONS.json IMAGE_FOLDER
  labelled:
    annotations: path/to/labelled.json
    images: path/to/images
  # A folder is enough here. With `annotations:` the COCO file says which images are meant; instances
  # in it are kept aside and only ever used to measure the pseudo-labels.
  unlabelled:
    images: path/to/unlabelled
  # Where teacher and student are measured.
  validation:
    annotations: path/to/validation.json
    images: path/to/images

  # Instead of `labelled` and `unlabelled`: one annotated set, a part of which plays the labelled images.
  #annotated:
  #  annotations: path/to/all.json
  #  images: path/to/images
  # How much of it, in percent of its images; or a published list of them.
  #percent: 10
  #seed: 0
  #labelled_list: path/to/list.txt

# Below, every key stands with its default behind a #. Take it away to change one.
"""


def starter_text(name: str) -> str:
    """The text of a new experiment file."""
    if not re.fullmatch(NAME_PATTERN, name):
        wanted = allowed(Experiment.model_fields["name"])
        raise ExperimentError("s4m new", [Problem("name", f"given {json.dumps(name)}; expected {wanted}")])
    lines = [_DATA.format(name=name)]
    for key, field in Experiment.model_fields.items():
        section = section_of(field)
        if section is None or key == "data":
            continue
        lines.append(f"# {(section.__doc__ or '').splitlines()[0]}")
        lines.append(f"{key}:")
        lines += _keys(section, "  ", REFINE_PRESETS["best"] if key == "refine" else {})
        lines.append("")
    store = Experiment.model_fields["store"]
    lines += [f"# {store.description}", f"#store: {store.default}"]
    return "\n".join(lines) + "\n"


def _keys(section: type[BaseModel], indent: str, preset: dict[str, Any]) -> Iterator[str]:
    for key, field in section.model_fields.items():
        inner = section_of(field)
        if inner is not None:
            yield f"{indent}# {field.description}"
            yield f"{indent}{key}:"
            yield from _keys(inner, f"{indent}  ", {})
        else:
            default = preset.get(key, field.default)
            shown = default if isinstance(default, str | Path) else json.dumps(default)
            yield f"{indent}# {field.description} ({allowed(field)})"
            yield f"{indent}#{key}: {shown}"
