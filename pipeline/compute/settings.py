"""Settings of machines."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.settings import Count, Settings, Share

Device = Literal["auto", "cpu", "cuda"]
NumberFormat = Literal["fp32", "bf16"]
Precision = Literal["auto", "fp32", "bf16"]
Compiling = Literal["never", "on_gpu", "always"]

COMPILED_FROM_IMAGES = 20_000
"""Images for each process from which `compile: auto` compiles on a GPU. Reckoned, not measured: a minute of compiling
is won back by a fifth at the 70 images a second that vit_b's encoder may reach, much sooner with larger SAMs."""


class ComputeSettings(Settings):
    """Machines and progress. Nothing here changes a result by more than rounding or makes a stage run again."""

    workers: Count | None = None
    """Number of processes that share a stage's images, each with one core or GPU. Null: as many as `gpus`."""
    scheduler: str | None = None
    """Address of a running Dask scheduler whose workers are used. Null: start `workers` on this machine."""
    device: Device = "auto"
    """Run models on the CPU or on a GPU. `auto`: on a GPU if this machine has one."""
    precision: Precision = "auto"
    """Number format that models compute in. `auto`: bf16 where the device is much faster with it, else fp32."""
    compile: bool | Literal["auto"] = "auto"
    """Compile SAM's encoder with torch.compile: faster after a wait. `auto`: on GPUs, for enough images to pay."""
    gpus: Count = 1
    """Number of GPUs of a machine to use; a training runs one process for each. Without GPUs: of such processes."""
    batch_parts: Count = 1
    """Number of parts in which a training takes the images of a step: each part needs less of a GPU's memory."""
    nodes: Count = 1
    """Number of machines that a training uses, each with `gpus` GPUs. The same command is given on each of them."""
    node_rank: Annotated[int, Field(ge=0)] = 0
    """Number of this machine among them, from 0. Only machine 0 makes results; the others help it to train."""
    master: Annotated[str, Field(pattern=r"^[^\s:]+:[0-9]{1,5}$", description="a host and a port")] | None = None
    """Host of machine 0, and a port of it that is free, where the machines of a training meet: `host:29500`."""
    batch_images: Count = 8
    """Number of images that a model processes at once outside of training."""
    failed_share: Share = 0.1
    """Fail a stage in which more than this share of the images, and more than one, cannot be used. 1: never."""
    cache_embeddings: bool = False
    """Keep SAM's image embeddings in the store, so that refining again with other prompts is fast."""
    loader_workers: Annotated[int, Field(ge=0)] | None = None
    """Number of processes that load images for each GPU of a training. 0: none. Null: as many as keep a GPU busy."""
    checkpoint_every: Count = 500
    """Number of training iterations between two checkpoints."""
    logger: Literal["tensorboard", "wandb"] = "tensorboard"
    """Program that shows the training curves. They are written to a JSON log as well."""

    @model_validator(mode="after")
    def _machines_can_meet(self) -> Self:
        if self.node_rank >= self.nodes:
            raise self.misfit(f"machines are counted from 0, and nodes is {self.nodes}", "node_rank")
        if self.nodes > 1 and self.master is None:
            raise self.misfit("machines that train together need it: the host of machine 0 and a port", "master")
        return self

    @property
    def is_helper(self) -> bool:
        """Return whether this machine makes no results, and only helps another to train."""
        return self.node_rank > 0

    @property
    def training_processes(self) -> int:
        """Return the number of processes of a training, on all machines."""
        return self.nodes * self.gpus

    @property
    def processes(self) -> int:
        """Return the number of processes of this machine that share a stage's images; 1 is the command's own."""
        return self.gpus if self.workers is None else self.workers

    def compiling(self, images: int) -> Compiling:
        """Return where an encoder is compiled that has so many images to encode, shared by all processes."""
        if self.compile == "auto":
            return "on_gpu" if images >= COMPILED_FROM_IMAGES * self.processes else "never"
        return "always" if self.compile else "never"

    def may_fail(self, images: int) -> int:
        """Return how many of a stage's images may be unusable."""
        return max(1, int(self.failed_share * images))
