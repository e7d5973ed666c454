"""Figures as people read them."""

from __future__ import annotations

from typing import Any, Final

ABSENT: Final = "–"
MINUS: Final = "−"


def points(share: float | None) -> str:
    """A precision in points of a hundred: 0.294 is `29.4`."""
    return ABSENT if share is None else f"{100 * share:.1f}"


def share(value: float | None) -> str:
    """A share or an IoU in 0..1, to three places."""
    return ABSENT if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share in percent."""
    return ABSENT if value is None else f"{100 * value:.1f} %"


def signed(change: float | None, digits: int) -> str:
    """A change with its sign; what rounds to nothing has none."""
    if change is None:
        return ABSENT
    text = f"{abs(change):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{'+' if change > 0 else MINUS}{text}"


def difference(before: float | None, after: float | None) -> float | None:
    """How much more there is after; None where one is not known."""
    return None if before is None or after is None else after - before


def duration(seconds: float) -> str:
    """A time: `0.2 s`, `48 s`, `12 min 5 s`, `3 h 20 min`."""
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
    """A size in bytes: `3.4 MB`."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value = size_bytes / 1000
    for unit in ("kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def count(number: int, what: str) -> str:
    """A number of things: `1 image`, `1,200 images`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def setting(value: Any) -> str:
    """A setting's value as an experiment file has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(setting(each) for each in value)}]"
    return str(value)
