"""Counts the time that a result takes to make over all runs, interrupted ones included."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from pipeline.files.writing import write_atomically

SPENT: Final = ".spent.json"
"""The file in the folder of an unfinished result; it is removed before the result is sealed."""

SECONDS_BETWEEN_NOTES: Final = 10.0


class SpentTime:
    """The time spent on an unfinished result.

    It may be pickled for other processes of the same machine.
    """

    def __init__(self, folder: Path) -> None:
        """Begin to count, from the time that earlier runs noted in the folder."""
        self._path = folder.absolute() / SPENT
        self._begun = self._noted = time.monotonic()
        self._before = _noted_seconds(self._path)

    @property
    def seconds(self) -> float:
        """Return the time of all runs until now."""
        return self._before + time.monotonic() - self._begun

    def note(self) -> None:
        """Write the time down if the last note is old, for a run that is killed."""
        if time.monotonic() - self._noted > SECONDS_BETWEEN_NOTES:
            self._noted = time.monotonic()
            self._write()

    def interrupted(self) -> None:
        """Write the time down, unless nothing was made in it: the next run begins anew then."""
        with suppress(FileNotFoundError):
            if any(self._path.parent.iterdir()):
                self._write()

    def finish(self) -> float:
        """Return the time of all runs and remove the note."""
        for path in self._path.parent.glob(f"*{SPENT}*"):  # a killed run leaves half a note, under another name
            path.unlink(missing_ok=True)
        return self.seconds

    def _write(self) -> None:
        with suppress(OSError):  # a full disk: the work that failed there reports it
            write_atomically(self._path, json.dumps(round(self.seconds, 3)))


def _noted_seconds(path: Path) -> float:
    """Return what was noted; 0 without a note, and for one that cannot be read."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0
    return float(noted) if isinstance(noted, int | float) and 0 <= noted < float("inf") else 0.0
