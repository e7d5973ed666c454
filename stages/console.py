"""What the commands print: results to standard output, everything along the way to standard error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console

out = Console(highlight=False, soft_wrap=True, markup=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

_NAMES: Final = {"sam": "masks from SAM", "teacher": "kept from teacher", "empty": "images without instances"}
"""Words for counts that records hold by a short name."""


def figures(values: Mapping[str, Any], stage: str = "") -> str:
    """Return named figures in words: `masks from SAM: 52, kept from teacher: 7, dropped: 3`.

    stage: whose figures they are; only `predict` makes labels that nobody has judged yet.
    """
    names = _NAMES | ({"teacher": "labels from teacher"} if stage == "predict" else {})
    return ", ".join(f"{names.get(name, name)}: {_shown(value)}" for name, value in values.items())


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
