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


def differences(old: Mapping[str, Any], new: Fingerprint) -> list[str]:
    """What changed since `old` (as JSON held it): `refine.points 3 -> 5`."""
    changes: list[str] = []
    if old.get("version") != new.version:
        changes.append(f"{new.stage} format {old.get('version')} -> {new.version}")
    before, after = old.get("settings", {}), json.loads(new.text)["settings"]
    for key in sorted({*before, *after}):
        if key not in after:
            changes.append(f"{key} no longer matters")
        elif key not in before:
            changes.append(f"{key} now matters ({_shown(after[key])})")
        elif before[key] != after[key]:
            changes.append(f"{key} {_shown(before[key])} -> {_shown(after[key])}")
    before = old.get("inputs", {})
    for key in sorted({*before, *new.inputs}):
        if before.get(key) != new.inputs.get(key):
            word = "added" if key not in before else "left out" if key not in new.inputs else "changed"
            changes.append(f"{key}: content {word}")
    before = old.get("upstream", {})
    changes += [
        f"{node} changed" for node in sorted({*before, *new.upstream}) if before.get(node) != new.upstream.get(node)
    ]
    return changes


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
