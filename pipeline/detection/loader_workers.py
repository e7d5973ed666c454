"""Begins the processes that load images for a training."""

from __future__ import annotations

from multiprocessing import parent_process

from pipeline.compute.children import end_with_parent
from pipeline.detection.registry import FUNCTIONS


@FUNCTIONS.register_module()  # type: ignore[untyped-decorator]
def begin_loader(_worker: int) -> None:
    """End with the training, which this process would else outlive where it waits to hand on samples.

    Random numbers need no seed here: each sample has its own.
    """
    trains = parent_process()
    end_with_parent(parent=None if trains is None else trains.pid)
