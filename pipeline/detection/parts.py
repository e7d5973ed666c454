"""Trains on the images of a step in parts, one after the other, where all at once do not fit into a GPU's memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import Tensor

from pipeline.detection.registry import MODEL_WRAPPERS


def step_in_parts(
    runs: Any, detector: Any, data: Mapping[str, list[Any]], optimizer: OptimWrapper
) -> dict[str, Tensor]:
    """Do a training step of a detector, whose gradients are those of the mean over the parts; return the mean losses.

    runs: the detector, or what wraps it for several processes. Part i of n has the images i, i + n, i + 2n, …: each
    has as many of the labelled images, which are first, as of the others.
    """
    detector.share_counts(data["data_samples"])
    parts = detector.batch_parts
    means: dict[str, Tensor] = {}
    for number in range(parts):
        part = {key: values[number::parts] for key, values in data.items()}
        is_last = number == parts - 1
        # Processes exchange gradients once, in the backward pass of the last part.
        with nullcontext() if is_last or runs is detector else runs.no_sync():
            with optimizer.optim_context(runs):
                losses = runs._run_forward(detector.data_preprocessor(part, True), mode="loss")
            total, logged = detector.parse_losses(losses)
            (optimizer.update_params if is_last else optimizer.backward)(total / parts)
        for name, value in logged.items():
            means[name] = means.get(name, 0) + value.detach() / parts
    return means


@MODEL_WRAPPERS.register_module()
class DistributedDetector(MMDistributedDataParallel):  # type: ignore[misc]
    """MMEngine's wrapper of a model for several processes, which takes the images of a step in parts."""

    def train_step(self, data: Mapping[str, list[Any]], optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Do a step."""
        return step_in_parts(self, self.module, data, optim_wrapper)
