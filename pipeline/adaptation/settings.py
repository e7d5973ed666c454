"""Settings of the adaptation of SAM."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import Count, Seed, Settings, Share


class AdaptSettings(Settings):
    """Fit SAM to the labelled images before it refines. Its new weights are used only where held-out labels gain."""

    enabled: bool = False
    """Fit SAM to the labelled images, and refine with the weights that did best on held-out images."""
    for_distillation: bool = False
    """Let `distill` use these weights too. Otherwise its structural targets come from SAM as it is."""
    train: Literal["auto", "all", "decoder"] = "auto"
    """Train all of SAM, or all but its image encoder, which is cheaper. `auto`: all of sam_tiny, else `decoder`."""
    iterations: Count = 200
    """Number of training steps of each fold, and of the last training on all labelled images."""
    batch_images: Count = 1
    """Number of images in a training step."""
    instances: Count = 8
    """Most instances of an image in a training step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 3e-4
    """Learning rate of SAM's prompt encoder and mask decoder."""
    encoder_rate: Share = 0.1
    """Learning rate of SAM's image encoder, as a share of `learning_rate`."""
    folds: Annotated[int, Field(ge=2, le=20)] = 3
    """Number of groups of labelled images. Each is held out once, to measure a SAM that was fitted to the others."""
    seed: Seed = 0
    """Seed of the folds, the order of images, the imitated teachers and all other random numbers."""
