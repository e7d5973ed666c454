"""References of experiments to the results in a store, so that pruning keeps what is used.

<root>/.references/<stage>/<id>/<digest>.json   names one experiment's record, which may point at the result

Pruning removes what is certain to be unused. A record that cannot be read, and one in a work folder that is not there,
as on a disk that is not mounted, count as used.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline.files.disk import is_read_only
from pipeline.files.identity import hash_text
from pipeline.files.leftovers import remove_leftovers_of_ended
from pipeline.files.writing import write_atomically
from pipeline.workflow.result_locks import now, user_name

IDENTITIES: Final = ".identity.sqlite"
"""The file that every work folder has. Where it is missing, the folder is not there."""


class References:
    """The references in a store."""

    def __init__(self, root: Path) -> None:
        self._root = root / ".references"

    def add(self, stage: str, result_id: str, record: Path, experiment: str) -> None:
        """Note that an experiment's record points at a result. A store that may only be read is left as it is."""
        record = record.absolute()
        host = socket.gethostname()
        file = self._folder(stage, result_id) / f"{hash_text(f'{host}:{record}')}.json"
        if file.exists():
            return
        content = {"record": str(record), "host": host, "experiment": experiment, "user": user_name(), "at": now()}
        try:
            remove_leftovers_of_ended(file.parent)
            write_atomically(file, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            if not is_read_only(error):
                raise

    def users(self, stage: str, result_id: str) -> Iterator[str]:
        """Yield the experiments whose records point at a result, or may do so."""
        for file in sorted(self._folder(stage, result_id).glob("*.json")):
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                experiment, host, record = str(content["experiment"]), content["host"], Path(content["record"])
            except (OSError, ValueError, KeyError, TypeError):
                yield f"a reference that cannot be read ({file})"
                continue
            if host != socket.gethostname():
                yield f"{experiment} on {host}"
            elif (points := _points_at(record, result_id)) is None:
                yield f"{experiment} ({record} cannot be read)"
            elif points:
                yield experiment

    def forget(self, work: Path) -> int:
        """Remove all references of this machine to records below a work folder; return how many there were."""
        count = 0
        for file in self._root.glob("*/*/*.json"):
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                host, record = content["host"], Path(content["record"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if host == socket.gethostname() and record.is_relative_to(work.absolute()):
                file.unlink(missing_ok=True)
                count += 1
        return count

    def _folder(self, stage: str, result_id: str) -> Path:
        return self._root / stage / result_id


def _points_at(record: Path, result_id: str) -> bool | None:
    """Return whether a record points at a result; None if that cannot be seen."""
    try:
        return bool(json.loads(record.read_text(encoding="utf-8"))["id"] == result_id)
    except (FileNotFoundError, NotADirectoryError):
        try:
            return False if (record.parent.parent / IDENTITIES).is_file() else None
        except OSError:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
