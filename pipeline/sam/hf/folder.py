"""Check a folder of transformers before it is loaded: what it must hold, and what is refused. Needs no transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.errors import S4MError, some_of
from pipeline.sam.files import CONFIG_FILES, hf_name

MODEL_TYPES: Final = frozenset(
    {"sam", "sam2", "sam2_video", "sam_hq", "edgetam", "edgetam_video", "sam3_tracker", "sam3_video"}
)
"""The `model_type` of configs that transformers loads as a SAM for single images."""

INDEX: Final = "model.safetensors.index.json"
WEIGHTS: Final = "model.safetensors"

_REFUSED: Final = {
    "auto_map": "names code of its own, which is never run",
    "quantization_config": "is quantised, which is not supported",
    "attn_implementation": "names code for attention, which may be fetched and run",
    "_attn_implementation": "names code for attention, which may be fetched and run",
    "backbone": "names a backbone to fetch; write its config out as backbone_config",
}
"""Keys of configs, and why they are refused wherever they have a value."""

_TIMM_ARCHITECTURE: Final = re.compile(r"\w+(\.\w+)?", re.ASCII)
_TIMM_ARGUMENTS: Final = frozenset({"in_chans", "features_only", "out_indices"})
"""Arguments of timm's models that no file or address can hide in."""


def check_folder(folder: Path, model: str) -> None:
    """Raise S4MError for a folder that is not a SAM in the layout of `save_pretrained`. model: its name, for messages.

    Whether the tensors fit is checked when they are loaded.
    """
    if not (folder / CONFIG_FILES[0]).is_file():
        raise S4MError(_missing(folder, model))
    config = _read_json(folder / CONFIG_FILES[0])
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise S4MError(
            f"{folder / CONFIG_FILES[0]}: model_type is {model_type}, which is no SAM that can be asked about single "
            f"images; those are {', '.join(sorted(MODEL_TYPES))}"
        )
    _refuse(folder / CONFIG_FILES[0], config)
    processors = [path for name in CONFIG_FILES[1:] if (path := folder / name).is_file()]
    if not processors:
        raise S4MError(
            f"{folder}: {' or '.join(CONFIG_FILES[1:])} is missing: it says how images are resized and normalised. "
            "Copy it from the model that yours comes from"
        )
    for path in processors:
        _refuse(path, _read_json(path))
    _check_weights(folder)


def _missing(folder: Path, model: str) -> str:
    if folder.is_dir():
        return f"{folder}: no config.json: expected a folder as transformers' save_pretrained writes it"
    name = hf_name(model)
    fetch = f"`s4m weights get hf:{name}` fetches it" if name else "check sam.model"
    return f"{folder}: no such folder, for sam.model {model}: {fetch}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise S4MError(f"{path}: cannot be read as JSON ({error}): fetch it again") from error
    if not isinstance(value, dict):
        raise S4MError(f"{path}: expected keys and values: fetch it again")
    return value


def _refuse(path: Path, config: Mapping[str, Any]) -> None:
    """Raise S4MError for a config that asks for code or for files elsewhere."""
    for section in _sections(config):
        for key, reason in _REFUSED.items():
            if section.get(key) is not None:
                raise S4MError(f"{path}: {key} is refused: it {reason}")
        if section.get("model_type") == "timm_wrapper":
            _refuse_timm(path, section)


def _refuse_timm(path: Path, section: Mapping[str, Any]) -> None:
    architecture, arguments = section.get("architecture"), section.get("model_args") or {}
    if not isinstance(architecture, str) or not _TIMM_ARCHITECTURE.fullmatch(architecture):
        raise S4MError(f"{path}: architecture {architecture!r} is refused: expected the name of one of timm's models")
    if not isinstance(arguments, dict) or (unknown := sorted(arguments.keys() - _TIMM_ARGUMENTS)):
        told = some_of(unknown) if isinstance(arguments, dict) else repr(arguments)
        raise S4MError(f"{path}: model_args {told} is refused: only {', '.join(sorted(_TIMM_ARGUMENTS))} are passed on")


def _sections(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every object in a JSON value, the outermost first."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _sections(inner)


def _check_weights(folder: Path) -> None:
    if (folder / WEIGHTS).is_file():
        return
    if (folder / INDEX).is_file():
        parts = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise S4MError(f"{folder / INDEX}: expected weight_map, the file of each tensor: fetch it again")
        absent = sorted({part for part in parts.values() if "/" in part or not (folder / part).is_file()})
        if absent:
            raise S4MError(f"{folder}: weights named in {INDEX} are missing: {some_of(absent)}: fetch them again")
        return
    others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    found = f", which {some_of(others)} is not: such files can run programs. Convert them" if others else ": fetch it"
    raise S4MError(f"{folder}: no {WEIGHTS}: only safetensors are read{found}")
