"""Identify files by content: a fast hash, remembered by size and time of change.

Hashing 100,000 images takes minutes, reading their sizes and times well under a second. The memory is one file that
may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import xxhash

from pipeline.files.digest_memory import DigestMemory

ABSENT = "absent"
IMAGE_ENDINGS = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

HASHED_AT_ONCE = 100
"""Files that a thread is given at a time: to give it one takes longer than to hash a small one."""

STAMPED_AT_ONCE = 10_000
"""Files whose stamps are in memory together."""

READ_WHOLE = 1 << 20
"""Smaller files are read in one piece."""

Progress = Callable[[int, int], None]
"""Called with files hashed so far and files to hash."""


@dataclass(frozen=True)
class ImageList:
    """The images of a set.

    key: digest of what they were read from; empty where that is not a file. read: returns a line for each image,
    its id, a tab and its file name.
    """

    key: str
    read: Callable[[], Sequence[str]]


def hash_file(path: Path | str) -> str:
    """Return the xxh3-128 digest of a file's content; ABSENT where there is no such file, but a pipe or a device."""
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                return ABSENT
            if found.st_size < READ_WHOLE:
                return xxhash.xxh3_128_hexdigest(file.read())
            return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ABSENT
    except OSError:
        if Path(path).is_socket():
            return ABSENT
        raise


def _hash_files(paths: Sequence[str]) -> list[str]:
    return [hash_file(path) for path in paths]


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for a pipe's other end."""
    return os.open(path, flags | os.O_NONBLOCK)


def hash_text(text: str) -> str:
    """Return the xxh3-128 digest of a text, which may have bytes that are not UTF-8."""
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


def list_images(folder: Path) -> list[str]:
    """Return every image file below a folder, by its path relative to the folder, sorted."""
    found: list[str] = []
    root = str(folder)
    above = len(root.rstrip(os.sep)) + len(os.sep)
    for parent, _, names in os.walk(root):  # every `make` does this for every image: no Path is made
        inside = f"{parent[above:]}{os.sep}" if len(parent) > above else ""
        found += [inside + name for name in names if name[name.rfind(".", 1) :].lower() in IMAGE_ENDINGS]
    found.sort()
    return found


class IdentityCache:
    """Memory of the content digests of files and of sets of images."""

    def __init__(self, database: Path, progress: Progress | None = None) -> None:
        self._progress = progress
        database.parent.mkdir(parents=True, exist_ok=True)
        self._memory = DigestMemory(database)

    def file(self, path: Path) -> str:
        """Return the content digest of one file, or ABSENT."""
        path = path.absolute()
        stamp = stamp_of(path)
        known = self._memory.one("SELECT digest FROM files WHERE path = ? AND stamp = ?", (str(path), stamp))
        if known is not None:
            return known
        digest = hash_file(path)
        if digest != ABSENT:
            self._memory.write("REPLACE INTO files VALUES (?, ?, ?)", [(str(path), stamp, digest)])
        return digest

    def images(self, folder: Path, images: ImageList, *, trust: bool = False) -> str:
        """Return the digest of a set of images: ids, names and contents.

        With `trust`, return the digest of the last call without reading the images again.
        """
        folder = folder.absolute()
        key = f"{folder}|{images.key}"
        if trust:
            known = self._memory.one("SELECT digest FROM sets WHERE key = ?", (key,))
            if known is not None:
                return known
        lines = self._names(images)
        stamp = _stamp_of_all(folder, lines)
        known = self._memory.one("SELECT digest FROM sets WHERE key = ? AND stamp = ?", (key, stamp))
        if known is not None:
            return known
        names = list(map(_name, lines))
        digests = self._files(folder, names, stamps_of(folder, names))
        digest = hash_text("\n".join(sorted(map("\t".join, zip(lines, digests, strict=True)))))
        self._memory.write("REPLACE INTO sets VALUES (?, ?, ?)", [(key, stamp, digest)])
        return digest

    def _names(self, images: ImageList) -> list[str]:
        """Return the set's lines, remembered by the file that lists them, so that it is parsed once."""
        if not images.key:
            return list(images.read())
        known = self._memory.one("SELECT names FROM listings WHERE digest = ?", (images.key,))
        if known is not None:
            return known.split("\n")
        lines = list(images.read())
        self._memory.write("REPLACE INTO listings VALUES (?, ?)", [(images.key, "\n".join(lines))])
        return lines

    def _files(self, folder: Path, names: Sequence[str], stamps: Sequence[str]) -> list[str]:
        prefix = f"{folder}{os.sep}"
        rows = self._memory.rows(
            "SELECT path, stamp, digest FROM files WHERE path >= ? AND path < ?",
            (prefix, prefix[:-1] + chr(ord(os.sep) + 1)),
        )
        known = {path: (stamp, digest) for path, stamp, digest in rows}
        paths = [os.path.normpath(f"{prefix}{name}") for name in names]
        fresh = {
            path: stamp
            for path, stamp in zip(paths, stamps, strict=True)
            if stamp != ABSENT and known.get(path, ("", ""))[0] != stamp
        }
        unknown = list(fresh)
        parts = [unknown[first : first + HASHED_AT_ONCE] for first in range(0, len(unknown), HASHED_AT_ONCE)]
        rows_done: list[tuple[str, str, str]] = []
        with ThreadPoolExecutor(8) as pool:
            for part, found in zip(parts, pool.map(_hash_files, parts), strict=True):
                rows_done += [(path, fresh[path], digest) for path, digest in zip(part, found, strict=True)]
                if self._progress:
                    self._progress(len(rows_done), len(fresh))
        self._memory.write("REPLACE INTO files VALUES (?, ?, ?)", rows_done)
        known.update({path: (stamp, digest) for path, stamp, digest in rows_done})
        return [ABSENT if stamp == ABSENT else known[path][1] for path, stamp in zip(paths, stamps, strict=True)]


def stamp_of(path: Path | str) -> str:
    """Return size and time of change of a file; ABSENT where it cannot be read."""
    try:
        state = os.stat(path)  # noqa: PTH116 - every `make` does this for every image: no Path is made
    except (OSError, ValueError):  # ValueError: a NUL in a hostile name
        return ABSENT
    return f"{state.st_size} {state.st_mtime_ns}"


def _name(line: str) -> str:
    """Return the file name in a line of an `ImageList`."""
    return line.partition("\t")[2]


def _stamp_of_all(folder: Path, lines: Sequence[str]) -> str:
    """Return the digest of the stamps of all images, a line each, of which only some are in memory at a time."""
    digest = xxhash.xxh3_128()
    for first in range(0, len(lines), STAMPED_AT_ONCE):
        names = map(_name, lines[first : first + STAMPED_AT_ONCE])
        digest.update(("\n" * (first > 0) + "\n".join(stamps_of(folder, names))).encode())
    return digest.hexdigest()


def stamps_of(folder: Path, names: Iterable[str]) -> list[str]:
    """Return the stamp of each file in a folder."""
    prefix = f"{folder}{os.sep}"
    return [stamp_of(prefix + name) for name in names]
