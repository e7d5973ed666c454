"""Fingerprints: what a result was made from, its short name, and what changed between two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ID_LENGTH = 16


@dataclass(frozen=True)
class Fingerprint:
    """Everything that matters to one stage's result, and nothing else.

    version: of the stage's own code and format.
    settings: the experiment's values by dotted key.
    inputs: content digests by the dotted key that leads to the content.
    upstream: ids of the results it is made from, by node.
    """

    stage: str
    version: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    upstream: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "stage": self.stage,
            "version": self.version,
            "settings": dict(self.settings),
            "inputs": dict(self.inputs),
            "upstream": dict(self.upstream),
        }

    @property
    def text(self) -> str:
        """Canonical JSON, for people to read and for files to hold."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def id(self) -> str:
        """The short name of what this fingerprint makes.

        The node that an upstream result belongs to is left out: round 2's labels are no other labels.
        """
        content = self.to_dict()
        content["upstream"] = sorted(self.upstream.values())
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:ID_LENGTH]


@dataclass(frozen=True)
class Change:
    """One difference between two fingerprints, in words. upstream: the node whose result is another one, if so."""

    text: str
    upstream: str = ""


def differences(old: Mapping[str, Any], new: Fingerprint) -> list[Change]:
    """Return what changed since `old` (as JSON held it): `refine.points changed from 3 to 5`."""
    texts: list[str] = []
    if old.get("version") != new.version:
        texts.append(f"format of {new.stage} changed from {old.get('version')} to {new.version}")
    before, after = old.get("settings", {}), json.loads(new.text)["settings"]
    for key in sorted({*before, *after}):
        if key not in after:
            texts.append(f"{key} no longer used")
        elif key not in before:
            texts.append(f"{key} now used, with {_shown(after[key])}")
        elif before[key] != after[key]:
            texts.append(f"{key} changed from {_shown(before[key])} to {_shown(after[key])}")
    before = old.get("inputs", {})
    for key in sorted({*before, *new.inputs}):
        if before.get(key) != new.inputs.get(key):
            word = "added" if key not in before else "removed" if key not in new.inputs else "changed"
            texts.append(f"content of {key} {word}")
    before = old.get("upstream", {})
    nodes = [node for node in sorted({*before, *new.upstream}) if before.get(node) != new.upstream.get(node)]
    return [*map(Change, texts), *(Change(f"{node} changed", node) for node in nodes)]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
