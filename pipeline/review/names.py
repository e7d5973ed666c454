"""Finds the image that a file name in a tool's export means.

Tools put folders, upload hashes and addresses before a name, and change some characters. Names are only compared:
no file is opened by them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import takewhile
from urllib.parse import unquote

# Label Studio: `1a2b3c4d-name` of an uploaded file, `1a2b3c4d__name` of a fetched one.
_UPLOAD_PREFIX = re.compile("[0-9a-f]{8}(?:-|__)(?=.)")
_LOCAL_FILE = "?d="


class ImageFinder:
    """Finds images by the ends of their file names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._by_base: dict[str, list[str]] = defaultdict(list)
        self._by_cleaned: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self._names):
            base = name.rpartition("/")[2]
            self._by_base[base].append(name)
            self._by_cleaned[_cleaned(base)].append(name)

    def find(self, given: str) -> list[str]:
        """Return the names of all possible images: the whole name, else the same base name and most folders.

        If no image has the base name, it is compared without an upload prefix, and then as cleaned by the tool.
        """
        folders = _parts(given)
        whole = "/".join(folders)
        if given in self._names or whole in self._names:
            return [given if given in self._names else whole]
        base = folders.pop() if folders else ""
        without_prefix = _UPLOAD_PREFIX.sub("", base, count=1)
        for known, key in (
            (self._by_base, base),
            (self._by_base, without_prefix),
            (self._by_base, unquote(without_prefix)),
            (self._by_cleaned, _cleaned(base)),
            (self._by_cleaned, _cleaned(unquote(without_prefix))),
        ):
            if key in known:
                return _closest(known[key], folders)
        return []


def _parts(given: str) -> list[str]:
    """Return folders and base name, of the file itself if the name is the address of a local file."""
    path = given
    if _LOCAL_FILE in given:
        path = unquote(given.partition(_LOCAL_FILE)[2])
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _closest(names: list[str], folders: list[str]) -> list[str]:
    """Return the names that share most folders with the given ones, counted from the end."""
    shared = {name: _shared(name.split("/")[:-1], folders) for name in names}
    return [name for name in names if shared[name] == max(shared.values())]


def _shared(first: list[str], second: list[str]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _cleaned(base: str) -> str:
    """Clean a name like Django, with which Label Studio stores uploads."""
    return re.sub(r"[^-\w.]", "", base.strip().replace(" ", "_"))
