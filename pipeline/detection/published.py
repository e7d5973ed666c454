"""A trained detector as a folder: weights that are tensors alone, its config, and a card that says what it is.

weights.pth     the state dict, loads with `weights_only`
detector.json   MMEngine config: the model and how images come to it
model.json      the card: classes, what made it, how it fared

Configs are JSON: unlike Python ones, reading them runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pipeline.coco.model import CocoCategory
from pipeline.errors import StageError
from pipeline.files.writing import open_atomically, write_atomically

if TYPE_CHECKING:
    from mmengine import Config
    from torch import Tensor, nn

WEIGHTS, CONFIG, CARD = "weights.pth", "detector.json", "model.json"
FORMAT: Final = "s4m-detector"
FORMAT_VERSION: Final = 1


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a trained detector is. `categories`: in the order of its labels. `losses`: the last ones of training."""

    format: str
    version: int
    experiment: str
    stage: str
    iterations: int
    categories: tuple[CocoCategory, ...]
    losses: dict[str, float]
    made_from: dict[str, Any]


@dataclass(frozen=True)
class PublishedDetector:
    """A folder of a trained detector, its card and its config read."""

    folder: Path
    card: ModelCard
    config: Config


def publish(folder: Path, weights: Mapping[str, Tensor], config: Config, card: ModelCard) -> None:
    """Write a trained detector into a folder; the card comes last."""
    import torch

    with open_atomically(folder / WEIGHTS) as file:
        # Under this key all that loads checkpoints in MMEngine finds them.
        torch.save({"state_dict": {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}}, file)
    write_atomically(folder / CONFIG, json.dumps(config.to_dict(), indent=1))
    write_atomically(folder / CARD, msgspec.json.format(msgspec.json.encode(card)).decode())


def read_published(folder: Path) -> PublishedDetector:
    """The detector of a folder, its weights not yet read; StageError where there is none."""
    from mmengine import Config

    path = folder / CARD
    try:
        card = msgspec.json.decode(path.read_bytes(), type=ModelCard)
        content = json.loads((folder / CONFIG).read_bytes())
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
    """Transforms tell a size from several sizes by the type, which JSON does not keep."""
    if isinstance(value, dict):
        return {key: _sizes_as_tuples(each) for key, each in value.items()}
    if isinstance(value, list):
        numbers = all(isinstance(each, int | float) for each in value)
        return tuple(value) if numbers else [_sizes_as_tuples(each) for each in value]
    return value


def build_published(published: PublishedDetector, device: str = "cpu") -> nn.Module:
    """The detector with its weights, ready to predict; StageError where the weights are not what they should be."""
    from pipeline.detection.weights import load_weights, read_weights

    model = build_model(published.config)
    load_weights(model, read_weights(published.folder / WEIGHTS), str(published.folder / WEIGHTS))
    return model.to(device).eval()


def build_model(config: Config) -> nn.Module:
    """The model of a config, with random weights; its classes are looked up in MMDetection's scope."""
    from mmengine.registry import MODELS, init_default_scope

    import pipeline.detection.registered  # noqa: F401

    init_default_scope("mmdet")
    model: nn.Module = MODELS.build(config["model"], default_args=None)
    return model
