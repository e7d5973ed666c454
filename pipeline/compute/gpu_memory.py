"""Tells that a GPU's memory is full, and what to do. Does not import torch, whose error it recognises by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import StageError


@contextmanager
def told_if_gpu_is_full(what: str, remedy: str) -> Iterator[None]:
    """Raise StageError within this context where torch says that a GPU's memory is full.

    what: the work, at the start of the message. remedy: what the user can do, at its end.
    """
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        # Of torch's message the amounts, not the advice on its allocator.
        told = ". ".join(str(error).split(". ")[:3]).rstrip(".")
        raise StageError(f"{what}: the memory of the GPU is full ({told}): {remedy}") from error
