"""Reads a detector's config file and makes the config of a training from it.

The file is MMDetection's: `model`, `optim_wrapper`, `schedule`, `train_transforms`, `test_transforms`
(see configs/detectors/README.md). Iterations, batch, learning rate, crop and data are the experiment's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from mmengine import Config

from pipeline.coco.model import CocoCategory
from pipeline.detection.known_types import require_known_types
from pipeline.detection.registry import IMPORTS, SCOPE
from pipeline.detection.settings import TrainSettings
from pipeline.errors import StageError
from pipeline.files.shipped import config_path

KEYS: Final = ("model", "optim_wrapper", "schedule", "train_transforms", "test_transforms")

BUILD_FAILURES: Final = (TypeError, ValueError, LookupError, AttributeError, AssertionError, ImportError)
"""What building the parts of a config may raise."""
# Configs are programs: reading one may also raise these.
_READ_FAILURES: Final = (*BUILD_FAILURES, OSError, SyntaxError, NameError, ArithmeticError, RuntimeError)

# MMDetection's classes that ours replace: they weight instances, ignore instances and distil.
_OURS: Final = ("MaskRCNN", "RPNHead", "StandardRoIHead", "Mask2Former", "Mask2FormerHead")
_FAMILIES: Final = ("MaskRCNN", "Mask2Former")


@dataclass(frozen=True)
class Detector:
    """A detector's config with the experiment's overrides applied."""

    path: Path
    content: Mapping[str, Any]

    @property
    def test_transforms(self) -> list[dict[str, Any]]:
        """Return the transforms that resize images for predicting."""
        return list(deepcopy(self.content["test_transforms"]))

    def train_transforms(self, crop_px: int | None) -> list[dict[str, Any]]:
        """Return the geometric transforms of training; `crop_px` replaces the size of the config's crops."""
        transforms: list[dict[str, Any]] = deepcopy(self.content["train_transforms"])
        if crop_px is not None:
            crops = [each for each in transforms if each["type"].endswith("RandomCrop")]
            if not crops:
                raise StageError(f"{self.path}: crop_px is {crop_px}, but train_transforms has no RandomCrop")
            for each in crops:
                each["crop_size"] = (crop_px, crop_px)
        return transforms


def read_detector(path: Path, overrides: Mapping[str, Any]) -> Detector:
    """Read a detector's config, which is a program and is executed. Raise StageError if no detector can be trained."""
    path = config_path(path)
    try:
        config = Config.fromfile(str(path), import_custom_modules=False)
        parts = config.get("model")
        for key in overrides:
            _require_known(path, key, parts if isinstance(parts, dict) else {})
        if overrides:
            config.merge_from_dict(dict(overrides))
    except _READ_FAILURES as error:
        raise StageError(f"{path}: not a detector config that can be read: {error}") from error
    content = config.to_dict()
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise StageError(
            f"{path}: not a detector config: {', '.join(missing)} missing; see configs/detectors/README.md"
        )
    for key in KEYS:
        _require_shape(path, key, content[key])
    family = content["model"].get("type")
    if family not in _FAMILIES:
        raise StageError(f"{path}: model.type is {family}; supported are {' and '.join(_FAMILIES)}")
    content = {key: content[key] for key in KEYS}
    require_known_types(str(path), content)
    return Detector(path, content)


def _require_known(path: Path, key: str, parts: Mapping[str, Any]) -> None:
    """Raise StageError for an override of a key that detectors do not have: it would change nothing."""
    first, _, rest = key.partition(".")
    if first in KEYS:
        return
    close = get_close_matches(first, KEYS, n=1)
    meant = f"model.{key}" if first in parts else ".".join([*close, rest] if rest else close)
    raise StageError(
        f"{path}: an override of {key} changes nothing: a detector has {', '.join(KEYS)}"
        + (f"; did you mean {meant}?" if close or first in parts else "")
    )


def _require_shape(path: Path, key: str, value: Any) -> None:
    if not key.endswith("transforms"):
        if not isinstance(value, dict):
            raise StageError(f"{path}: {key} must be a dict, it is {value!r}")
        return
    if not isinstance(value, list | tuple):
        raise StageError(f"{path}: {key} must be a list of transforms, it is {value!r}")
    for index, transform in enumerate(value):
        if not isinstance(transform, dict) or "type" not in transform:
            raise StageError(f"{path}: {key}[{index}] must be a dict with a type, it is {transform!r}")


def model_config(detector: Detector, classes: int) -> dict[str, Any]:
    """Return the model config for a number of classes, with our types instead of MMDetection's."""
    model: dict[str, Any] = _adapted(detector.content["model"], classes)
    return model


def published_config(detector: Detector, categories: Sequence[CocoCategory]) -> Config:
    """Return the config that is published with trained weights: model and transforms; it fetches no weights."""
    return Config(
        {
            "default_scope": "mmdet",
            "custom_imports": {"imports": list(IMPORTS)},
            "model": without_pretrained(model_config(detector, len(categories))),
            "test_transforms": detector.test_transforms,
        }
    )


def with_mmdetection_types(model: Any) -> Any:
    """Return a model config with MMDetection's types instead of ours, which differ from them in training alone."""
    if isinstance(model, list | tuple):
        return [with_mmdetection_types(value) for value in model]
    if not isinstance(model, dict):
        return model
    plain = {key: with_mmdetection_types(value) for key, value in model.items()}
    name = str(plain.get("type")).removeprefix(f"{SCOPE}.")
    return plain | ({"type": name} if name in _OURS else {})


def without_pretrained(model: Any) -> Any:
    """Return a model config in which no part starts from pretrained weights."""
    if isinstance(model, list):
        return [without_pretrained(value) for value in model]
    if not isinstance(model, dict):
        return model
    init = model.get("init_cfg")
    pretrained = isinstance(init, dict) and init.get("type") == "Pretrained"
    kept = {key: without_pretrained(value) for key, value in model.items() if not (pretrained and key == "init_cfg")}
    return kept | ({"pretrained": False} if kept.get("pretrained") is True else {})


def optimizer_config(detector: Detector, settings: TrainSettings) -> dict[str, Any]:
    """Return the optimizer config, with the experiment's learning rate if it sets one."""
    wrapper: dict[str, Any] = deepcopy(detector.content["optim_wrapper"])
    if not isinstance(wrapper.get("optimizer"), dict):
        raise StageError(f"{detector.path}: optim_wrapper has no optimizer; found {wrapper}")
    if settings.learning_rate is not None:
        wrapper["optimizer"]["lr"] = settings.learning_rate
    return wrapper


def schedule_config(detector: Detector, iterations: int) -> list[dict[str, Any]]:
    """Return the learning rate schedule of a number of iterations: a warm-up, then steps or a cosine."""
    schedule = detector.content["schedule"]
    if not _is_schedule(schedule):
        raise StageError(
            f"{detector.path}: schedule has warmup_iterations, decay (step or cosine), and for steps decay_at, shares "
            f"of all iterations, and factor; found {schedule}"
        )
    # A short training has a shorter warm-up.
    warmup = min(int(schedule.get("warmup_iterations", 0)), iterations // 4)
    parts: list[dict[str, Any]] = []
    if warmup:
        parts.append({"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": warmup})
    if schedule["decay"] == "cosine":
        decay = {"type": "CosineAnnealingLR", "T_max": max(iterations - warmup, 1), "eta_min_ratio": 0.01}
    else:
        milestones = [max(int(share * iterations), 1) for share in schedule["decay_at"]]
        decay = {"type": "MultiStepLR", "milestones": milestones, "gamma": schedule.get("factor", 0.1)}
    begin = warmup if schedule["decay"] == "cosine" else 0
    parts.append({**decay, "by_epoch": False, "begin": begin, "end": iterations})
    return parts


def _is_schedule(schedule: Mapping[str, Any]) -> bool:
    known = set(schedule) <= {"warmup_iterations", "decay", "decay_at", "factor"}
    shares = schedule.get("decay_at", ())
    numbers = [schedule.get("warmup_iterations", 0), schedule.get("factor", 0.1)]
    numbers += shares if isinstance(shares, list | tuple) else [None]
    complete = schedule.get("decay") == "cosine" or (schedule.get("decay") == "step" and "decay_at" in schedule)
    return known and complete and all(isinstance(number, int | float) for number in numbers)


def _adapted(value: Any, classes: int) -> Any:
    """Return a part of a model config with class counts filled in and types replaced by ours."""
    if isinstance(value, list | tuple):
        return [_adapted(each, classes) for each in value]
    if not isinstance(value, dict):
        return value
    adapted = {key: _adapted(each, classes) for key, each in value.items()}
    if adapted.get("type") in _OURS:
        adapted["type"] = f"{SCOPE}.{adapted['type']}"
    if "num_classes" in adapted:
        adapted["num_classes"] = classes
    if "num_things_classes" in adapted:
        adapted |= {"num_things_classes": classes, "num_stuff_classes": 0}
    if isinstance(adapted.get("class_weight"), list):
        adapted["class_weight"] = [1.0] * classes + adapted["class_weight"][-1:]  # the last is for no object
    return adapted
