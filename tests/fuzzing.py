"""Damage for fuzzed input: places in nested values, changed values and changed bytes, and a limit of time for a try."""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager

BYTES = [
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"\xff",
    b"\x00",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b"\\",
    b"\\ud800",
    b"-",
    b"9",
]

ODD = [
    None, True, False, 0, -1, 1, 2, 0.5, 10**30, -(10**400), float("nan"), float("inf"), -float("inf"), "", "x", "\x00",
    "é\u202e\x1b[2J", "../../x", "a" * 300, [], [1], [[]], {}, {"a": {"b": []}}, {"": None}, 2**63, -(2**63), 1e308,
]  # fmt: skip
"""Values that stand where something else should."""


def places(value, path=()):
    """Every place in nested lists and dicts, as a path of keys."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def change_bytes(rng, data):
    """Damage the text at one place."""
    place = rng.randrange(len(data) + 1)
    change = rng.randrange(5)
    if change == 0:
        return data[:place]
    if change == 1:
        return data[:place] + rng.choice(BYTES) + data[place:]
    if change == 2:
        return data[:place] + rng.choice(BYTES) + data[place + rng.randrange(1, 9) :]
    if change == 3:
        return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]
    end = rng.randrange(place, len(data) + 1)
    return data[:place] + data[place:end] * rng.choice([0, 2]) + data[end:]


def mutated_json(rng, tree, odd=ODD):
    """The text of a tree in which a few things are changed, at times so that it is no JSON any more."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        all_places = list(places(tree))
        if not all_places:
            break
        place = rng.choice(all_places)
        parent, key = at(tree, place[:-1]), place[-1]
        change = rng.randrange(4)
        if change == 0:
            del parent[key]
        elif change == 1:
            parent[key] = copy.deepcopy(rng.choice(odd))
        elif change == 2:
            parent[key] = copy.deepcopy(at(tree, rng.choice(all_places)))
        elif isinstance(parent, dict):
            parent[rng.choice(["x", "", "\x00", f"{key}_", str(key).upper()])] = copy.deepcopy(rng.choice(odd))
    data = json.dumps(tree).encode()
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        data = change_bytes(rng, data)
    return data


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail where something takes longer."""

    def stop(number, frame):
        raise AssertionError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
