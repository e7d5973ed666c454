"""A trained detector as a folder: its weights, its config, and a card that describes it.

weights.pth     the state dict and the names of the classes: tensors and text only, for `weights_only`
detector.json   MMEngine config: the model and the transforms of its images
model.json      the card: classes, what the model was made from, its last losses
detector.py     a config for MMDetection's own functions
README.md       how to use the folder

The config that this program reads is JSON: reading it executes nothing, unlike Python configs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pipeline.coco.model import CocoCategory
from pipeline.compute.settings import Device, Precision
from pipeline.errors import StageError
from pipeline.files.reading import read_file
from pipeline.files.writing import open_atomically, write_atomically

if TYPE_CHECKING:
    from mmengine import Config
    from torch import Tensor, nn

WEIGHTS, CONFIG, CARD = "weights.pth", "detector.json", "model.json"
MMDETECTION_CONFIG, README = "detector.py", "README.md"
FORMAT: Final = "s4m-detector"
FORMAT_VERSION: Final = 1


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Describes a trained detector. categories: in the order of its labels. losses: the last ones of training."""

    format: str
    version: int
    experiment: str
    stage: str
    iterations: int
    categories: tuple[CocoCategory, ...]
    losses: dict[str, float]
    made_from: dict[str, Any]


@dataclass(frozen=True)
class DetectorChoice:
    """A trained detector, and how a worker runs it. flip: predict on the mirror image too."""

    folder: Path
    device: Device
    precision: Precision
    batch_images: int
    flip: bool = False


@dataclass(frozen=True)
class PublishedDetector:
    """The folder of a trained detector, with its card and its config."""

    folder: Path
    card: ModelCard
    config: Config


def publish(folder: Path, weights: Mapping[str, Tensor], config: Config, card: ModelCard) -> None:
    """Write a trained detector into a folder, the card last."""
    import torch

    from pipeline.detection.for_mmdetection import config_text, mmdetection_config, readme_text

    content = config.to_dict()
    outside = mmdetection_config(content["model"], content["test_transforms"], card.categories)
    with open_atomically(folder / WEIGHTS) as file:
        # The keys under which MMEngine looks for weights, and MMDetection for the names of the classes.
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        classes = outside["test_dataloader"]["dataset"]["metainfo"]
        torch.save({"state_dict": tensors, "meta": {"dataset_meta": classes}}, file)
    write_atomically(folder / CONFIG, json.dumps(content, indent=1))
    write_atomically(folder / MMDETECTION_CONFIG, config_text(outside))
    write_atomically(folder / README, readme_text(card.experiment, card.stage, card.iterations, outside))
    write_atomically(folder / CARD, msgspec.json.format(msgspec.json.encode(card)).decode())


def read_published(folder: Path) -> PublishedDetector:
    """Read the card and the config of a trained detector. Raise StageError if there is none."""
    from mmengine import Config

    path = folder / CARD
    try:
        card = msgspec.json.decode(read_file(path), type=ModelCard)
        content = json.loads(read_file(folder / CONFIG))
        config = Config(content | {"test_transforms": _sizes_as_tuples(content["test_transforms"])})
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StageError(f"{folder}: there is no trained detector ({error.filename} is missing)") from error
    except (ValueError, LookupError, TypeError, msgspec.DecodeError) as error:
        raise StageError(f"{folder}: {CARD} or {CONFIG} is damaged ({error}): train again") from error
    if (card.format, card.version) != (FORMAT, FORMAT_VERSION):
        raise StageError(
            f"{path}: holds {card.format} {card.version}, this program reads {FORMAT} {FORMAT_VERSION}: train again"
        )
    return PublishedDetector(folder, card, config)


def _sizes_as_tuples(value: Any) -> Any:
    """Return a value from JSON with lists of numbers as tuples, which transforms expect for a size."""
    if isinstance(value, dict):
        return {key: _sizes_as_tuples(each) for key, each in value.items()}
    if isinstance(value, list):
        numbers = all(isinstance(each, int | float) for each in value)
        return tuple(value) if numbers else [_sizes_as_tuples(each) for each in value]
    return value


def build_published(published: PublishedDetector, device: str = "cpu") -> nn.Module:
    """Build the detector with its weights, ready to predict.

    Raise StageError if the weights do not fit, or if the config names more than parts of a detector.
    """
    from pipeline.detection.known_types import require_known_types
    from pipeline.detection.weights import load_weights, read_weights

    require_known_types(str(published.folder / CONFIG), published.config.to_dict())
    with refused_if_damaged(published.folder):
        model = build_model(published.config)
    load_weights(model, read_weights(published.folder / WEIGHTS), str(published.folder / WEIGHTS))
    return model.to(device).eval()


@contextmanager
def refused_if_damaged(folder: Path) -> Iterator[None]:
    """Raise StageError if the parts of a trained detector cannot be built from its config."""
    from pipeline.detection.config import BUILD_FAILURES

    try:
        yield
    except (*BUILD_FAILURES, ArithmeticError, RuntimeError, MemoryError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise StageError(
            f"{folder / CONFIG}: damaged, no detector can be built from it ({reason}): train again"
        ) from error


def build_model(config: Config) -> nn.Module:
    """Build the model of a config, with random weights; its types are looked up in MMDetection's scope."""
    from mmengine.registry import MODELS, init_default_scope

    import pipeline.detection.registered  # noqa: F401

    init_default_scope("mmdet")
    model: nn.Module = MODELS.build(config["model"], default_args=None)
    return model
