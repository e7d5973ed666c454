"""Reads weights of detectors from untrusted files, and loads them into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from pipeline.errors import S4MError, StageError, some_of
from pipeline.sam.build import read_state


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file by name, executing nothing. Raise StageError if it holds anything else."""
    try:
        return read_state(path)
    except S4MError as error:
        raise StageError(str(error)) from error


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load exactly these weights into a model. Raise StageError if names or shapes differ."""
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is not of this model" for name in weights if name not in own]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        raise StageError(f"{source}: does not fit the detector: {some_of(problems)}")
    model.load_state_dict(dict(weights))


def start_from(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> tuple[str, ...]:
    """Load the weights that fit a model, such as another detector's; return the names of its tensors left as they were.

    Weights of a backbone alone, such as torchvision's, are loaded as the model's backbone. Raise StageError if no
    tensor fits.
    """
    own = model.state_dict()
    of_backbone = {f"backbone.{name}": tensor for name, tensor in weights.items()}
    fitting = _fitting(own, weights) or _fitting(own, of_backbone)
    if not fitting:
        raise StageError(
            f"{source}: none of its {len(weights)} tensors fits the detector, whose tensors are {some_of(list(own))}"
        )
    model.load_state_dict(fitting, strict=False)
    return tuple(name for name in own if name not in fitting)


def _fitting(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
