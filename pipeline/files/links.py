"""Symbolic links that lead people to the newest of several results."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def lead_to(link: Path, target: Path) -> None:
    """Make a link lead to a file or folder, in one step. The link is relative: both may be moved together.

    A file or folder that is no link stays as it is. On a file system without links nothing is made.
    """
    relative = os.path.relpath(target.resolve(), link.parent.resolve())
    if link.is_symlink():
        if str(link.readlink()) == relative:
            return
    elif link.exists():
        return
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    with suppress(OSError):
        aside.unlink(missing_ok=True)
        aside.symlink_to(relative)
        aside.replace(link)


def drop_if_broken(link: Path) -> None:
    """Remove a link whose target is gone."""
    if link.is_symlink() and not link.exists():
        link.unlink(missing_ok=True)
