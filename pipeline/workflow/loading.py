"""Reads an experiment file, sets values over it, checks all of it and reports every problem at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from pipeline.errors import ExperimentError, Problem
from pipeline.files.shipped import config_path, experiment_names
from pipeline.refinement.presets import REFINE_PRESETS
from pipeline.settings import FolderMarker, expanded
from pipeline.workflow import describe
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.yaml12 import YamlError, parse_yaml

MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Override:
    """One value set over the file: `refine.points=5`."""

    key: str
    value: Any


def load_experiment(
    path: Path,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
    *,
    check_files: bool = True,
) -> Experiment:
    """The experiment in `path` with `overrides` over it and defaults and presets filled in, frozen.

    Raises ExperimentError with every problem, by dotted key. With `check_files=False` the paths it
    names need not exist yet.
    """
    raw = _read(path)
    raw.setdefault("name", path.stem)
    return _resolve(str(path), raw, overrides, environment, check_files=check_files)


def experiment_without_data(overrides: Sequence[str]) -> Experiment:
    """An experiment for commands that bring their own images: what is set, and defaults for the rest."""
    nowhere = {"annotations": "none", "images": "none"}
    raw = {"name": "without-data", "data": {"annotated": nowhere, "percent": 50}}
    return _resolve("settings", raw, overrides, {}, check_files=False)


def _resolve(
    source: str, raw: dict[str, Any], overrides: Sequence[str], environment: Mapping[str, str], *, check_files: bool
) -> Experiment:
    if "S4M_STORE" in environment:
        raw["store"] = environment["S4M_STORE"]
    parsed, problems = _parse_overrides(overrides)
    for override in parsed:
        problems += _set(raw, override)
    _fill_preset(raw)
    experiment, found = _validate(raw)
    problems += found
    if check_files:
        wrong = {problem.where for problem in problems}
        problems += [problem for problem in _missing_files(raw) if problem.where not in wrong]
    if experiment is None or problems:
        overridden = {override.key for override in parsed}
        raise ExperimentError(
            source,
            [Problem(f"{p.where} (set over the file)", p.message) if p.where in overridden else p for p in problems],
        )
    return experiment


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ExperimentError(str(path), [Problem("", f"larger than {MAX_BYTES:,} bytes: no experiment")])
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        message = f"no such file: {path.absolute()}{_known_instead(path)}"
        raise ExperimentError(str(path), [Problem("", message)]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(str(path), [Problem("", f"cannot be read: {error}")]) from error
    try:
        raw = parse_yaml(text)
    except YamlError as error:
        raise ExperimentError(str(path), [Problem("", str(error))]) from error
    if not isinstance(raw, dict):
        raise ExperimentError(
            str(path), [Problem("", f"given {_shown(raw)}; expected keys and values, `data:` among them")]
        )
    return raw


def _known_instead(path: Path) -> str:
    """Return which experiments there are where `path` is missing: those with names close to it, else all."""
    names = experiment_names(path.parent)
    close = get_close_matches(path.stem, names, n=3)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; there are: {', '.join(names)}" if names else ""


def _parse_overrides(overrides: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    parsed: list[Override] = []
    problems: list[Problem] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            problems.append(Problem("", f"cannot set {text!r}: write key=value, as in refine.points=5"))
            continue
        try:
            parsed.append(Override(key.strip(), parse_yaml(value)))
        except YamlError as error:
            problems.append(Problem(key.strip(), f"given {value!r}, which is not a value: {error}"))
    return parsed, problems


def _set(raw: dict[str, Any], override: Override) -> list[Problem]:
    *sections, leaf = override.key.split(".")
    # The keys of a detector config are dotted themselves: teacher.overrides.model.backbone.depth=18
    if len(sections) > 2 and sections[1] == "overrides":
        leaf = ".".join([*sections[2:], leaf])
        sections = sections[:2]
    target = raw
    for section in sections:
        if target.get(section) is None:
            target[section] = {}
        if not isinstance(target[section], dict):
            return [Problem(override.key, f"cannot be set: {section} is no section in the file")]
        target = target[section]
    target[leaf] = override.value
    return []


def _fill_preset(raw: dict[str, Any]) -> None:
    refine = raw.get("refine")
    if refine is None:
        refine = raw["refine"] = {}
    if isinstance(refine, dict):
        name = refine.get("preset", "best")
        preset = REFINE_PRESETS.get(name, {}) if isinstance(name, str) else {}
        raw["refine"] = {**preset, **refine}


def _validate(raw: dict[str, Any]) -> tuple[Experiment | None, list[Problem]]:
    given = _with_empty_sections(raw, Experiment)
    try:
        experiment = Experiment.model_validate_json(json.dumps(given))
    except ValidationError as error:
        problems = _problems(error)
        named = {problem.where for problem in problems}
        # What two keys mean together is told even when another key is wrong.
        data = given.get("data")
        if isinstance(data, dict) and not any(where.split(".")[0] == "data" for where in named):
            problems += _data_problems(data)
        return None, problems
    return experiment, _data_problems(experiment.data.model_dump(exclude_none=True)) + _range_problems(experiment)


def _with_empty_sections(raw: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The same values, where a section with nothing below it (`teacher:` alone) means its defaults."""
    given = dict(raw)
    for name, field in model.model_fields.items():
        section = describe.section_of(field)
        if section is not None and name in given:
            value = given[name]
            if value is None and not describe.is_optional(field):
                value = {}
            given[name] = _with_empty_sections(value, section) if isinstance(value, dict) else value
    return given


def _problems(error: ValidationError) -> list[Problem]:
    problems: list[Problem] = []
    for item in error.errors(include_url=False):
        names = [str(part) for part in item["loc"]]
        key, field = _field_at(names)
        if item["type"] == "extra_forbidden":
            problems.append(Problem(".".join(names), _unknown(".".join(names))))
        elif item["type"] == "missing":
            problems.append(Problem(key, f"missing; expected {describe.allowed(field) if field else 'a value'}"))
        elif item["type"] == "path":
            problems.append(Problem(key, f"given {_shown(item['input'])}, which {item['msg']}"))
        else:
            wanted = describe.allowed(field) if field else item["msg"]
            problems.append(Problem(key, f"given {_shown(item['input'])}; expected {wanted}"))
    unique = dict.fromkeys(problems)
    return list(unique)


def _field_at(names: Sequence[str]) -> tuple[str, Any]:
    """The dotted key of the schema that a place in an error leads to, and its field."""
    model: type[BaseModel] | None = Experiment
    field = None
    walked: list[str] = []
    for name in names:
        if model is None or name not in model.model_fields:
            break
        field = model.model_fields[name]
        walked.append(name)
        model = describe.section_of(field)
    return ".".join(walked), field


def _unknown(key: str) -> str:
    nearest = describe.nearest_key(key)
    if nearest is not None:
        return f"unknown key; did you mean {nearest}?"
    section = key.rpartition(".")[0]
    siblings = [name for name, _ in describe.walk_fields(Experiment) if name.rpartition(".")[0] == section]
    return f"unknown key; known here: {', '.join(name.rpartition('.')[2] for name in siblings)}"


def _shown(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False, default=str), 60)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _data_problems(data: Mapping[str, Any]) -> list[Problem]:
    """What the keys of `data` say together: exactly one of the two ways to name the images."""
    given = {name for name, value in data.items() if value is not None}
    pair, pool = given & {"labelled", "unlabelled"}, "annotated" in given
    problems: list[Problem] = []
    if pair and pool:
        problems.append(
            Problem("data.annotated", "given beside data.labelled or data.unlabelled; keep one of the two ways")
        )
    elif pool:
        if len(given & {"percent", "labelled_list"}) != 1:
            problems.append(
                Problem("data.annotated", "needs exactly one of data.percent and data.labelled_list to split it")
            )
    else:
        problems += [
            Problem(f"data.{name}", "missing; give data.labelled and data.unlabelled, or data.annotated")
            for name in ("labelled", "unlabelled")
            if name not in given
        ]
        problems += [
            Problem(f"data.{name}", "splits data.annotated, which is not given")
            for name in ("percent", "labelled_list")
            if name in given
        ]
    return problems


def _range_problems(experiment: Experiment) -> list[Problem]:
    problems: list[Problem] = []
    low, high = experiment.augment.scale
    if low > high:
        problems.append(Problem("augment.scale", f"given [{low}, {high}]; expected the smaller number first"))
    mixture = experiment.student.mixture
    if mixture.labelled + mixture.pseudo + mixture.composites == 0:
        problems.append(Problem("student.mixture", "all amounts are 0; a batch needs images of some kind"))
    refine = experiment.refine
    prompted = refine.points or refine.center_point or refine.box != "none" or refine.mask_prompt
    if not prompted:
        problems.append(Problem("refine", "no prompt for SAM; give points, center_point, box or mask_prompt"))
    if refine.gate == "calibrated":
        problems += _calibration_problems(experiment)
    if experiment.sam.input_side is not None and experiment.sam.model != "sam_tiny":
        problems.append(
            Problem("sam.input_side", f"only sam_tiny takes other sizes, sam.model is {experiment.sam.model}")
        )
    return problems


def _calibration_problems(experiment: Experiment) -> list[Problem]:
    """A gate is fitted on labelled images that the teacher has not learned by heart."""
    if experiment.predict.results is not None:
        return [Problem("refine.gate", "calibrated needs a teacher of this experiment, but predict.results is given")]
    if experiment.teacher.held_out == 0:
        return [
            Problem("refine.gate", "calibrated needs labelled images to be fitted on; set teacher.held_out, say 0.2")
        ]
    return []


def _missing_files(raw: Mapping[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    for key, field in describe.walk_fields(Experiment):
        kind = describe.path_kind(field)
        value = _raw_at(raw, key) or field.default
        if kind is None or not isinstance(value, str | Path):
            continue
        try:
            path = config_path(expanded(Path(value))).absolute()
        except PydanticCustomError:
            continue  # the schema tells of it
        if not _is_there(path, kind):
            what = "folder" if kind is FolderMarker else "file"
            problems.append(Problem(key, f"no such {what}: {_cut(str(path), 300)}"))
    return problems


def _is_there(path: Path, kind: type) -> bool:
    try:
        return path.is_dir() if kind is FolderMarker else path.is_file()
    except OSError:  # a name too long, a folder that may not be looked into
        return False


def _raw_at(raw: Mapping[str, Any], key: str) -> Any:
    value: Any = raw
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def value_at(experiment: Experiment, key: str) -> Any:
    """The value under a dotted key; None below a section that is not given."""
    value: Any = experiment
    for name in key.split("."):
        if value is None:
            return None
        value = getattr(value, name)
    return value


def to_yaml(experiment: Experiment) -> str:
    """The resolved experiment as YAML that `load_experiment` reads back to the same."""
    resolved: str = yaml.safe_dump(
        json.loads(experiment.model_dump_json()), sort_keys=False, allow_unicode=True, width=100
    )
    return resolved
