"""From a detector's config file to the whole config of a training.

A detector's file is MMDetection's: `model`, `optim_wrapper`, `schedule`, `train_transforms`, `test_transforms`
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
from pipeline.detection.registry import IMPORTS, SCOPE
from pipeline.detection.settings import TrainSettings
from pipeline.errors import StageError
from pipeline.files.shipped import config_path

KEYS: Final = ("model", "optim_wrapper", "schedule", "train_transforms", "test_transforms")

# Configs are programs: reading one may fail in any of these ways.
_FAILURES: Final = (
    OSError,
    SyntaxError,
    ImportError,
    NameError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
)

# MMDetection's classes that have a counterpart of ours: it weighs, ignores and distils.
_OURS: Final = ("MaskRCNN", "RPNHead", "StandardRoIHead", "Mask2Former", "Mask2FormerHead")
_FAMILIES: Final = ("MaskRCNN", "Mask2Former")


@dataclass(frozen=True)
class Detector:
    """A detector's config, read and with the experiment's overrides in it."""

    path: Path
    content: Mapping[str, Any]

    @property
    def test_transforms(self) -> list[dict[str, Any]]:
        """How images are resized for predicting."""
        return list(deepcopy(self.content["test_transforms"]))

    def train_transforms(self, crop_px: int | None) -> list[dict[str, Any]]:
        """The geometry of training samples; `crop_px` takes the place of the config's own crops."""
        transforms: list[dict[str, Any]] = deepcopy(self.content["train_transforms"])
        if crop_px is not None:
            crops = [each for each in transforms if each["type"].endswith("RandomCrop")]
            if not crops:
                raise StageError(f"{self.path}: crop_px is {crop_px}, but train_transforms has no RandomCrop")
            for each in crops:
                each["crop_size"] = (crop_px, crop_px)
        return transforms


def read_detector(path: Path, overrides: Mapping[str, Any]) -> Detector:
    """Read a detector's config; StageError where it is none that we can train."""
    path = config_path(path)
    try:
        config = Config.fromfile(str(path), import_custom_modules=False)
        parts = config.get("model")
        for key in overrides:
            _require_known(path, key, parts if isinstance(parts, dict) else {})
        if overrides:
            config.merge_from_dict(dict(overrides))
    except _FAILURES as error:
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
    return Detector(path, {key: content[key] for key in KEYS})


def _require_known(path: Path, key: str, parts: Mapping[str, Any]) -> None:
    """StageError for an override of what is no part of a detector: it would change nothing."""
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
    """StageError where one of the five keys does not hold what it should."""
    if not key.endswith("transforms"):
        if not isinstance(value, dict):
            raise StageError(f"{path}: {key} must be a dict, it is {value!r}")
        return
    if not isinstance(value, list | tuple):
        raise StageError(f"{path}: {key} must be a list of transforms, it is {value!r}")
    for place, transform in enumerate(value):
        if not isinstance(transform, dict) or "type" not in transform:
            raise StageError(f"{path}: {key}[{place}] must be a dict with a type, it is {transform!r}")


def model_config(detector: Detector, classes: int) -> dict[str, Any]:
    """The model for this many classes, with our classes in place of MMDetection's."""
    model: dict[str, Any] = _adapted(detector.content["model"], classes)
    return model


def published_config(detector: Detector, categories: Sequence[CocoCategory]) -> Config:
    """What goes with trained weights: the model, how to predict with it, and nothing to fetch."""
    return Config(
        {
            "default_scope": "mmdet",
            "custom_imports": {"imports": list(IMPORTS)},
            "model": without_pretrained(model_config(detector, len(categories))),
            "test_transforms": detector.test_transforms,
        }
    )


def without_pretrained(model: Any) -> Any:
    """The same model config, but nothing in it starts from weights of its own."""
    if isinstance(model, list):
        return [without_pretrained(value) for value in model]
    if not isinstance(model, dict):
        return model
    init = model.get("init_cfg")
    pretrained = isinstance(init, dict) and init.get("type") == "Pretrained"
    kept = {key: without_pretrained(value) for key, value in model.items() if not (pretrained and key == "init_cfg")}
    return kept | ({"pretrained": False} if kept.get("pretrained") is True else {})


def optimizer_config(detector: Detector, settings: TrainSettings, *, bf16: bool) -> dict[str, Any]:
    """The optimizer, with the experiment's learning rate if it gives one."""
    wrapper: dict[str, Any] = deepcopy(detector.content["optim_wrapper"])
    if not isinstance(wrapper.get("optimizer"), dict):
        raise StageError(f"{detector.path}: optim_wrapper has no optimizer; found {wrapper}")
    if settings.learning_rate is not None:
        wrapper["optimizer"]["lr"] = settings.learning_rate
    if bf16:
        wrapper |= {"type": "AmpOptimWrapper", "dtype": "bfloat16"}
    return wrapper


def schedule_config(detector: Detector, iterations: int) -> list[dict[str, Any]]:
    """The learning rate's course over this many iterations: a warm-up, then steps or a cosine."""
    schedule = detector.content["schedule"]
    if not _is_schedule(schedule):
        raise StageError(
            f"{detector.path}: schedule has warmup_iterations, decay (step or cosine), and for steps decay_at, shares "
            f"of all iterations, and factor; found {schedule}"
        )
    # A warm-up that a short training would not outlast is shortened with it.
    warmup = min(int(schedule.get("warmup_iterations", 0)), iterations // 4)
    parts: list[dict[str, Any]] = []
    if warmup:
        parts.append({"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": warmup})
    if schedule["decay"] == "cosine":
        parts.append(
            {
                "type": "CosineAnnealingLR",
                "T_max": max(iterations - warmup, 1),
                "eta_min_ratio": 0.01,
                "by_epoch": False,
                "begin": warmup,
                "end": iterations,
            }
        )
    else:
        parts.append(
            {
                "type": "MultiStepLR",
                "milestones": [max(int(share * iterations), 1) for share in schedule["decay_at"]],
                "gamma": schedule.get("factor", 0.1),
                "by_epoch": False,
                "begin": 0,
                "end": iterations,
            }
        )
    return parts


def _is_schedule(schedule: Mapping[str, Any]) -> bool:
    known = set(schedule) <= {"warmup_iterations", "decay", "decay_at", "factor"}
    shares = schedule.get("decay_at", ())
    numbers = [schedule.get("warmup_iterations", 0), schedule.get("factor", 0.1)]
    numbers += shares if isinstance(shares, list | tuple) else [None]
    complete = schedule.get("decay") == "cosine" or (schedule.get("decay") == "step" and "decay_at" in schedule)
    return known and complete and all(isinstance(number, int | float) for number in numbers)


def _adapted(value: Any, classes: int) -> Any:
    """A part of a model config with class counts filled in and types replaced by ours."""
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
