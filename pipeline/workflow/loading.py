"""Read an experiment file, apply overrides, validate the result and report every problem at once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from pipeline.datasets.settings import SHAPE_PROBLEMS
from pipeline.errors import ExperimentError, Problem
from pipeline.files.reading import require_regular
from pipeline.files.shipped import config_path, experiment_names
from pipeline.settings import MISFIT, FileMarker, FolderMarker, Settings, expanded
from pipeline.workflow import describe
from pipeline.workflow.experiment import AdaptOnly, AnnotateOnly, Experiment, ExperimentFile, RefineOnly
from pipeline.workflow.yaml12 import YamlError, parse_yaml

Model = TypeVar("Model", bound=Settings)

MAX_BYTES = 1_000_000

_UNKNOWN = "unknown key"
_KINDS = {FileMarker.json_format: "file", FolderMarker.json_format: "folder"}


def load_experiment(
    path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ, *, check_files: bool = True
) -> Experiment:
    """Return the experiment in `path`, with `overrides` applied and defaults and presets filled in.

    Raise ExperimentError with every problem, by dotted key. check_files: require that the paths in it exist.
    """
    raw = _read(path)
    raw.setdefault("name", path.stem)
    if environment.get("S4M_STORE"):
        raw["store"] = environment["S4M_STORE"]
    experiment = _resolve(Experiment, str(path), raw, overrides, check_files=check_files)
    experiment._file = ExperimentFile(path)
    return experiment


def refine_only(overrides: Sequence[str]) -> RefineOnly:
    """Return the settings of a refinement without an experiment: the defaults with `overrides` applied.

    Raise ExperimentError with every problem, by dotted key. The weights that they name need not exist.
    """
    return _resolve(RefineOnly, "settings", {}, overrides, check_files=False)


def annotate_only(overrides: Sequence[str]) -> AnnotateOnly:
    """Return the settings of annotating, as `refine_only` does."""
    return _resolve(AnnotateOnly, "settings", {}, overrides, check_files=False)


def adapt_only(overrides: Sequence[str]) -> AdaptOnly:
    """Return the settings of fitting SAM to labels without an experiment, as `refine_only` does."""
    return _resolve(AdaptOnly, "settings", {}, overrides, check_files=False)


def _resolve(
    model: type[Model], source: str, raw: dict[str, Any], overrides: Sequence[str], *, check_files: bool
) -> Model:
    parsed, problems = _parse_overrides(overrides)
    for key, value in parsed:
        problems += _set(raw, key, value)
    resolved, found = _validate(model, raw)
    found_at = {problem.where for problem in found}
    problems += [*found, *(each for each in _unusable_values("", raw) if each.where not in found_at)]
    if check_files:
        wrong = {problem.where for problem in problems}
        problems += [problem for problem in _missing_files(model, raw) if problem.where not in wrong]
    if resolved is None or problems:
        overridden = {key for key, _ in parsed}
        raise ExperimentError(
            source,
            [Problem(f"{p.where} (set over the file)", p.message) if p.where in overridden else p for p in problems],
        )
    return resolved


def _read(path: Path) -> dict[str, Any]:
    try:
        require_regular(path)
        if path.stat().st_size > MAX_BYTES:
            raise ExperimentError(str(path), [Problem("", f"larger than {MAX_BYTES:,} bytes: not an experiment")])
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        message = f"no such file: {path.absolute()}{_known_instead(path)}"
        raise ExperimentError(str(path), [Problem("", message)]) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ExperimentError(str(path), [Problem("", f"cannot be read: {reason}")]) from error
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
    """Return the experiments beside a missing file, in words, those with similar names first."""
    names = experiment_names(path.parent)
    close = get_close_matches(path.stem, names, n=3)
    meant = f"; did you mean {' or '.join(close)}? There are: " if close else "; there are: "
    return f"{meant}{', '.join(names)}" if names else ""


def _parse_overrides(overrides: Sequence[str]) -> tuple[list[tuple[str, Any]], list[Problem]]:
    parsed: list[tuple[str, Any]] = []
    problems: list[Problem] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            problems.append(Problem("", f"cannot set {text!r}: write key=value, as in refine.points=5"))
            continue
        try:
            parsed.append((key.strip(), parse_yaml(value)))
        except YamlError as error:
            problems.append(Problem(key.strip(), f"given {value!r}, which is not a value: {error}"))
    return parsed, problems


def _set(raw: dict[str, Any], key: str, value: Any) -> list[Problem]:
    *sections, leaf = key.split(".")
    # The keys of a detector config are dotted themselves: teacher.overrides.model.backbone.depth=18
    if len(sections) > 2 and sections[1] == "overrides":
        leaf = ".".join([*sections[2:], leaf])
        sections = sections[:2]
    target = raw
    for section in sections:
        if target.get(section) is None:
            target[section] = {}
        if not isinstance(target[section], dict):
            return [Problem(key, f"cannot be set: {section} is not a section in the file")]
        target = target[section]
    target[leaf] = value
    return []


def _unusable_values(key: str, value: Any) -> Iterator[Problem]:
    """Yield a problem for every text and number that JSON cannot hold, also where the schema takes any value."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _unusable_values(f"{key}.{_as_unicode(name)}".removeprefix("."), each)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _unusable_values(f"{key}[{index}]", each)
    elif isinstance(value, str) and value != _as_unicode(value):
        yield Problem(key, f"given {_as_unicode(value)!r}, which is not valid Unicode: rename it")
    elif isinstance(value, float) and not math.isfinite(value):
        yield Problem(key, f"given {value}, which is not a finite number")


def _as_unicode(value: Any) -> Any:
    """Return a value in whose texts and keys bytes of names that are not UTF-8 are written as their codes."""
    if isinstance(value, Mapping):
        return {_as_unicode(name): _as_unicode(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_unicode(each) for each in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _validate(model: type[Model], raw: dict[str, Any]) -> tuple[Model | None, list[Problem]]:
    try:
        return model.model_validate_json(json.dumps(_without_empty(_as_unicode(raw), describe.schema_of(model)))), []
    except ValidationError as error:
        return None, _problems(error, model)


def _without_empty(raw: Mapping[str, Any], schema: describe.Schema) -> dict[str, Any]:
    """Return the values with an empty section (`teacher:` alone) as a section of defaults.

    In a section with several shapes, drop keys that are null, so that an override can remove a key of another shape.
    """
    given = {key: value for key, value in raw.items() if value is not None or "oneOf" not in schema}
    for name, inner in describe.properties_of(schema).items():
        if name in given and describe.properties_of(inner):
            value = {} if given[name] is None and not describe.is_nullable(inner) else given[name]
            given[name] = _without_empty(value, inner) if isinstance(value, dict) else value
    return given


def _problems(error: ValidationError, model: type[Settings]) -> list[Problem]:
    problems: list[Problem] = []
    of_shape: list[Problem] = []
    for item in error.errors(include_url=False):
        names, shape = _without_shape([str(part) for part in item["loc"]], model)
        known = SHAPE_PROBLEMS.get((shape, names[1], item["type"])) if shape and len(names) == 2 else None
        if known is not None:
            of_shape.append(Problem(f"{names[0]}.{known[0]}", known[1]))
        else:
            problems.append(_problem(names, item, model))
    # A misspelt key makes its section look like another shape: report the key alone.
    misspelt = {problem.where.rpartition(".")[0] for problem in problems if problem.message.startswith(_UNKNOWN)}
    problems += [problem for problem in of_shape if problem.where.rpartition(".")[0] not in misspelt]
    return list(dict.fromkeys(problems))


def _without_shape(names: list[str], model: type[Settings]) -> tuple[list[str], str]:
    """Return the keys of an error without the shape that pydantic names among them, and that shape."""
    if len(names) > 1 and "oneOf" in describe.keys_of(model).get(names[0], {}):
        return [names[0], *names[2:]], names[1]
    return names, ""


def _problem(names: Sequence[str], item: ErrorDetails, model: type[Settings]) -> Problem:
    keys = describe.keys_of(model)
    key = next((key for end in range(len(names), 0, -1) if (key := ".".join(names[:end])) in keys), "")
    wanted = describe.allowed(keys[key]) if key else item["msg"]
    if item["type"] == MISFIT:
        return Problem(key, item["msg"])
    match item["type"]:
        case "extra_forbidden":
            return Problem(".".join(names), _unknown(".".join(names), model))
        case "missing":
            return Problem(key, f"missing; expected {wanted}")
        case "path":
            return Problem(key, f"given {_shown(item['input'])}, which {item['msg']}")
    return Problem(key, f"given {_shown(item['input'])}; expected {wanted}")


def _unknown(key: str, model: type[Settings]) -> str:
    nearest = describe.nearest_key(key, model)
    if nearest is not None:
        return f"{_UNKNOWN}; did you mean {nearest}?"
    section = key.rpartition(".")[0]
    siblings = [name for name in describe.keys_of(model) if name.rpartition(".")[0] == section]
    return f"{_UNKNOWN}; known keys: {', '.join(name.rpartition('.')[2] for name in siblings)}"


def _shown(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False, default=str), 60)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _missing_files(model: type[Settings], raw: Mapping[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    for key, schema in describe.keys_of(model).items():
        kind = describe.path_format(schema)
        value = _raw_at(raw, key) or schema.get("default")
        if kind not in _KINDS or not isinstance(value, str):
            continue
        try:
            path = config_path(expanded(Path(value))).absolute()
        except PydanticCustomError:
            continue  # validation reports it
        if not _exists(path, kind):
            problems.append(Problem(key, f"no such {_KINDS[kind]}: {_cut(str(path), 300)}"))
    return problems


def _exists(path: Path, kind: str) -> bool:
    try:
        return path.is_dir() if kind == FolderMarker.json_format else path.is_file()
    except OSError:  # a name too long, a folder without permission
        return False


def _raw_at(raw: Mapping[str, Any], key: str) -> Any:
    value: Any = raw
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def to_yaml(experiment: Experiment) -> str:
    """Return the resolved experiment as YAML, from which `load_experiment` reads the same experiment."""
    resolved: str = yaml.safe_dump(
        json.loads(experiment.model_dump_json()), sort_keys=False, allow_unicode=True, width=100
    )
    return resolved
