"""What an experiment says of machines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import Count, Section

Device = Literal["auto", "cpu", "cuda"]


class ComputeSettings(Section):
    """Machines and progress. Nothing here changes a result beyond rounding, or causes a rerun."""

    workers: Count = 1
    """Processes for sharded stages, of one core or GPU each; 1 computes in the command itself."""
    scheduler: str | None = None
    """Address of a running Dask scheduler to use instead."""
    device: Device = "auto"
    """Where models run."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of models; `auto` is bf16 where the device is faster in it."""
    compile: bool = False
    """Compile SAM's encoder (torch.compile): the first batches wait for minutes, the others are faster."""
    gpus: Count = 1
    """GPUs for training."""
    batch_images: Count = 8
    """Images that go through a model at once outside of training."""
    cache_embeddings: bool = False
    """Keep SAM's image embeddings in the store, so that refining again with other prompts is fast."""
    loader_workers: Annotated[int, Field(ge=0)] = 1
    """Processes that load images for training."""
    checkpoint_every: Count = 500
    """Training iterations between checkpoints."""
    logger: Literal["tensorboard", "wandb"] = "tensorboard"
    """Where training curves go, besides the JSON log."""
