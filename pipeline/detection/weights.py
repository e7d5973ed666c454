"""Weights of detectors from files that are not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from pipeline.errors import S4MError, StageError, some_of
from pipeline.sam.build import read_state


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name; StageError for whatever else it may hold. Nothing in it is run."""
    try:
        return read_state(path)
    except S4MError as error:
        raise StageError(str(error)) from error


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Give a model exactly these weights; StageError where names or shapes differ."""
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
    """Give a model what fits of these weights, as when another detector's are a start; gives what stays as it was.

    Weights of a backbone alone, such as torchvision's, fit as the model's backbone. StageError where nothing fits.
    """
    own = model.state_dict()
    of_backbone = {f"backbone.{name}": tensor for name, tensor in weights.items()}
    fitting = _fitting(own, weights) or _fitting(own, of_backbone)
    if not fitting:
        raise StageError(
            f"{source}: none of its {len(weights)} tensors fits the detector, such as {some_of(list(own))}"
        )
    model.load_state_dict(fitting, strict=False)
    return tuple(name for name in own if name not in fitting)


def _fitting(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of these weights has the name and the shape of one of the model's own."""
    return {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
