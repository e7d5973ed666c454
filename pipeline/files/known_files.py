"""Recognise files by path or by content, reading as few of them as possible."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from pipeline.files.identity import hash_file


class KnownFiles:
    """A set of files: `path in known` is true for each of them and for every byte-identical copy of one.

    Files of different sizes differ, so that only files of equal sizes are read.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = frozenset(path.resolve() for path in paths)
        self._by_size: dict[int, list[Path]] = defaultdict(list)
        for path in self._paths:
            if (size := _size(path)) is not None:
                self._by_size[size].append(path)
        self._digests: dict[int, frozenset[str]] = {}

    def __contains__(self, path: Path) -> bool:
        resolved = path.resolve()
        if resolved in self._paths:
            return True
        size = _size(resolved)
        if size is None or size not in self._by_size:
            return False
        if size not in self._digests:
            self._digests[size] = frozenset(hash_file(known) for known in self._by_size[size])
        return hash_file(resolved) in self._digests[size]


def _size(path: Path) -> int | None:
    """Return the size of a file in bytes; None if there is no such file, or no content that could be compared."""
    try:
        return os.stat(path).st_size or None  # noqa: PTH116 - called for every image: no Path is made
    except (FileNotFoundError, NotADirectoryError):
        return None
