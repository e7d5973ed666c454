"""Finds the image that a tool's export means by a file name.

Tools put folders, upload hashes and addresses before a name, and write some characters otherwise. Names are
compared and never opened.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from urllib.parse import unquote

# Label Studio: `1a2b3c4d-name` of an upload, `1a2b3c4d__name` of what it fetched.
_UPLOAD_PREFIX = re.compile("[0-9a-f]{8}(?:-|__)(?=.)")
_LOCAL_FILE = "?d="


class ImageFinder:
    """Finds images of a set by what their names end with."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._by_base: dict[str, list[str]] = defaultdict(list)
        self._by_cleaned: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self._names):
            base = name.rpartition("/")[2]
            self._by_base[base].append(name)
            self._by_cleaned[_cleaned(base)].append(name)

    def find(self, given: str) -> list[str]:
        """Names of all images that may be meant: the whole name, else the same base name and most folders.

        Without such a base name, the one behind an upload prefix is looked for, then one that was cleaned.
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
    """Folders and base name; of an address of a local file, those of the file."""
    path = given
    if _LOCAL_FILE in given:
        path = unquote(given.partition(_LOCAL_FILE)[2])
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _closest(names: list[str], folders: list[str]) -> list[str]:
    """Those names that share most folders with the given ones, counted from the end."""
    shared = {name: _shared(name.split("/")[:-1], folders) for name in names}
    return [name for name in names if shared[name] == max(shared.values())]


def _shared(first: list[str], second: list[str]) -> int:
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count


def _cleaned(base: str) -> str:
    """As Django, which Label Studio stores uploads with, cleans a name."""
    return re.sub(r"[^-\w.]", "", base.strip().replace(" ", "_"))
