"""Read the listed images of a folder, and tell an image that cannot be used from a disk that is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.coco.paths import resolve_image_path
from pipeline.errors import OutageError, StageError, UnreachableError
from pipeline.files.images import image_size, read_image

Read = TypeVar("Read")

RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""How long to wait before each new try to read a file that was there."""


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images, as it was when the work began.

    missing: file names of listed images that were not there then. Any other that cannot be reached later is an outage.
    """

    root: Path
    missing: frozenset[str] = frozenset()

    @classmethod
    def of(cls, root: Path, file_names: Iterable[str]) -> ImageFolder:
        """Look for the listed images in a folder; StageError where there is no such folder."""
        if not root.is_dir():
            raise StageError(f"{root}: no such folder of images: correct its path, or mount the disk that it is on")
        root = root.absolute()
        return cls(root, frozenset(name for name in file_names if _is_missing(root / name)))

    def path(self, file_name: str) -> Path:
        """Return the path of an image; ImageError where its name would leave the folder."""
        return resolve_image_path(self.root, file_name)

    def read(self, file_name: str, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Read an image as `read_image` does; ImageError if it cannot be used.

        Try again for some seconds where the system does not give a file that was there, then raise OutageError.
        """
        return self._tried(file_name, lambda path: read_image(path, size))

    def size(self, file_name: str) -> tuple[int, int]:
        """Return (width, height) of an image as `image_size` does; errors as for `read`."""
        return self._tried(file_name, image_size)

    def _tried(self, file_name: str, read: Callable[[Path], Read]) -> Read:
        path = self.path(file_name)
        for seconds in (*RETRY_SECONDS, None):
            try:
                return read(path)
            except UnreachableError as error:
                if error.missing and file_name in self.missing:
                    raise
                if seconds is None:
                    raise OutageError(
                        f"{path}: {error}. It was there when this began, so the machine is at fault, not the image: "
                        f"is the disk or network share of {self.root} still connected? Finished work is kept. When "
                        "the file can be read again, give the same command"
                    ) from error
                time.sleep(seconds)
        raise AssertionError("the last try returns or raises")


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        pass  # it is there, or its name is no name: reading it says so
    return False
