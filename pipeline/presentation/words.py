"""Formats numbers, times and sizes for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

ABSENT: Final = "–"
MINUS: Final = "−"

_NAMES: Final = {"sam": "masks from SAM", "teacher": "kept from teacher", "empty": "images without instances"}
"""Words for counts that records hold by a short name."""

_UNSEEN: Final = re.compile("[\0-\b\v-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that control a terminal or reorder its text, and bytes of names that are not UTF-8."""


def visible(text: str) -> str:
    """Return a text with control characters, but for tabs and line ends, as their codes."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def points(share: float | None) -> str:
    """Format a precision in points of a hundred: 0.294 is `29.4`."""
    return ABSENT if share is None else f"{100 * share:.1f}"


def share(value: float | None) -> str:
    """Format a share or an IoU in 0..1 with three decimals."""
    return ABSENT if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Format a share in percent."""
    return ABSENT if value is None else f"{100 * value:.1f} %"


def signed(change: float | None, digits: int) -> str:
    """Format a change with its sign, which a change that rounds to 0 does not have."""
    if change is None:
        return ABSENT
    text = f"{abs(change):.{digits}f}"
    return text if float(text) == 0 else f"{'+' if change > 0 else MINUS}{text}"


def interval(ends: tuple[float, float], *, signed_ends: bool = False) -> str:
    """Format a range of precisions in points: `12.3 to 45.6`, or with signs `−1.2 to +9.8`."""
    return " to ".join(signed(100 * end, 1) if signed_ends else points(end) for end in ends)


def difference(before: float | None, after: float | None) -> float | None:
    """Return `after` minus `before`; None where one of them is unknown."""
    return None if before is None or after is None else after - before


def duration(seconds: float) -> str:
    """Format a time: `0.2 s`, `48 s`, `12 min 5 s`, `3 h 20 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def size(size_bytes: int) -> str:
    """Format a size in bytes: `3.4 MB`."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value = size_bytes / 1000
    for unit in ("kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def count(number: int, what: str) -> str:
    """Format a number of things: `1 image`, `1,200 images`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def figures(values: Mapping[str, Any], stage: str = "") -> str:
    """Return named figures in words: `masks from SAM: 52, kept from teacher: 7, dropped: 3`.

    stage: whose figures they are; only the labels of `predict` have not passed a gate yet.
    """
    names = _NAMES | ({"teacher": "labels from teacher"} if stage == "predict" else {})
    return ", ".join(f"{names.get(name, name)}: {_shown(value)}" for name, value in values.items())


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def setting(value: Any) -> str:
    """Format the value of a setting as in an experiment file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(setting(each) for each in value)}]"
    return str(value)
