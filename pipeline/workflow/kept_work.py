"""Keeps the finished work of a command that writes one file, until that file is there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.errors import StageError
from pipeline.files.identity import hash_text, stamps_of
from pipeline.files.locks import exclusive_lock
from pipeline.files.writing import refuse_existing


@contextmanager
def kept_until_done(output: Path, what: str, name: str) -> Iterator[Path]:
    """Yield a folder beside a file for unfinished work; remove it at the end, but not after an interruption.

    what: a word for the folder's name, as `refining`. name: of this work: other work for the same file has other
    folders, which are removed with it.
    """
    folder = output.with_name(f".{output.name}.{what}")
    with ExitStack() as held:
        try:
            held.enter_context(exclusive_lock(folder / "lock"))
        except BlockingIOError as error:
            raise StageError(
                f"{output} is being made by another process: wait for it, or choose another name"
            ) from error
        refuse_existing([output])  # another process may just have made it
        yield folder / name
    shutil.rmtree(folder, ignore_errors=True)


def image_stamps(image_root: Path, names: Sequence[str]) -> str:
    """Return a digest of the names of images with their sizes and times of change, without reading them."""
    return hash_text("\n".join(map("\t".join, zip(names, stamps_of(image_root, names), strict=True))))
