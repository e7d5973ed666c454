"""The processes that load images for a training: how many, and how they begin."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from multiprocessing import parent_process
from typing import Any, Final

from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from pipeline.compute.children import end_with_parent
from pipeline.compute.settings import ComputeSettings
from pipeline.detection.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS

GPU_SECONDS: Final = 0.05
"""Time in which a GPU is taken to train on an image.

Reckoned, not measured: a V100 needs 0.35 s for Mask2Former R50 at 1024 px (0.70 s a step of 16 images on 8 of them);
newer ones several times less, and crops are smaller. Too short a time costs no more than idle processes.
"""

_MEASURED: Final = 8
"""Samples that are loaded to measure the time of one; the first, which opens files, does not count."""
_MEASURING_SECONDS: Final = 5.0


@FUNCTIONS.register_module()  # type: ignore[untyped-decorator]
def begin_loader(_worker: int) -> None:
    """End with the training, which this process would else outlive where it waits to hand on samples.

    Random numbers need no seed here: each sample has its own.
    """
    trains = parent_process()
    end_with_parent(parent=None if trains is None else trains.pid)


def choose_loaders(runner: Runner, compute: ComputeSettings, *, on_gpu: bool) -> None:
    """Give a runner as many loading processes as its samples ask for, unless the settings say how many."""
    if compute.loader_workers is not None or not on_gpu:
        return  # on a CPU they take the cores of the training itself: one, as the config says
    config = runner._train_dataloader
    dataset = config["dataset"] = DATASETS.build(config["dataset"])
    samples: Any = DATA_SAMPLERS.build(dict(config["sampler"]), default_args={"dataset": dataset})
    seconds = sample_seconds(dataset, list(islice(samples, _MEASURED)))
    config["num_workers"] = loaders_for(seconds, len(os.sched_getaffinity(0)), compute.gpus)
    config["persistent_workers"] = True


def loaders_for(seconds: float, cores: int, trainings: int) -> int:
    """Return how many processes keep a GPU busy that each need some seconds for a sample.

    trainings: processes that train on this machine, which have a core each; the other cores are shared by all.
    """
    return max(1, min(math.ceil(seconds / GPU_SECONDS), (cores - trainings) // trainings))


def sample_seconds(dataset: Dataset[Any], samples: Sequence[Any]) -> float:
    """Return the mean time in which one loading process makes a sample of a step; 0 for a single sample."""
    loader = DataLoader(
        dataset,
        batch_size=1,
        sampler=samples,
        num_workers=1,
        collate_fn=pseudo_collate,
        worker_init_fn=begin_loader,
    )
    came = list(_arrivals(loader))
    return (came[-1] - came[0]) / max(1, len(came) - 1)


def _arrivals(loader: DataLoader[Any]) -> Iterator[float]:
    """Yield when each sample came, until all have or the time after the first is over."""
    last = float("inf")
    for _ in loader:
        now = time.monotonic()
        last = min(last, now + _MEASURING_SECONDS)
        yield now
        if now > last:
            return
