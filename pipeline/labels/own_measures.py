"""The decision and the measures that this project writes into COCO files, read back from them.

They are read only beside a `decision`, which every export has, so that keys of the same names in other tools' files
mean nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from pipeline.coco.json_text import field_problem
from pipeline.labels.rows import Decision, InstanceLabel

_CANDIDATES: Final = range(128)


class MeasuresJson(msgspec.Struct, frozen=True, gc=False):
    """The keys of an annotation or a result that `coco_export` writes, as `InstanceLabel` describes them."""

    decision: msgspec.Raw = msgspec.Raw(b"null")
    predicted_iou: msgspec.Raw = msgspec.Raw(b"null")
    stability: msgspec.Raw = msgspec.Raw(b"null")
    agreement: msgspec.Raw = msgspec.Raw(b"null")
    candidate: msgspec.Raw = msgspec.Raw(b"null")
    gate_confidence: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class OwnMeasures:
    """Whose mask an instance has, and the measures of it; None where one does not apply."""

    decision: Decision
    predicted_iou: float | None = None
    stability: float | None = None
    agreement: float | None = None
    candidate: int | None = None
    gate_confidence: float | None = None

    def added_to(self, label: InstanceLabel, *, is_crowd: bool) -> InstanceLabel:
        """Return the label with them; a crowd stays dropped."""
        return replace(
            label,
            decision=Decision.DROPPED if is_crowd else self.decision,
            predicted_iou=self.predicted_iou,
            stability=self.stability,
            agreement=self.agreement,
            candidate=self.candidate,
            gate_confidence=self.gate_confidence,
        )


def own_measures(given: MeasuresJson) -> tuple[OwnMeasures | None, list[tuple[str, str]]]:
    """Return the measures, or None where the entry has no decision; and the problems, each a field and a message."""
    if bytes(given.decision) == b"null":
        return None, []
    problems: list[tuple[str, str]] = []
    values = dict(_read(given, problems))
    if problems:
        return None, problems
    return OwnMeasures(**values), []


def _read(given: MeasuresJson, problems: list[tuple[str, str]]) -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(MeasuresJson):
        text = getattr(given, field.name)
        try:
            value = _DECODERS[field.name].decode(text)
        except ValueError as error:
            if field.name == "decision":
                given_text = bytes(text).decode(errors="replace")
                problems.append((field.name, f"is {given_text}, not one of {', '.join(Decision)}: whose mask it is"))
            else:
                problems.append(field_problem(field.name, text, error))
            continue
        if field.name == "candidate" and value is not None and value not in _CANDIDATES:
            problems.append((field.name, f"is {value}, not an integer from 0 to 127"))
        elif field.name == "gate_confidence" and value is not None and not 0 <= value <= 1:
            problems.append((field.name, f"is {value:g}, not a number between 0 and 1"))
        else:
            yield field.name, value


_NUMBER: Final = msgspec.json.Decoder(float | None)
_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "decision": msgspec.json.Decoder(Decision),
    "predicted_iou": _NUMBER,
    "stability": _NUMBER,
    "agreement": _NUMBER,
    "candidate": msgspec.json.Decoder(int | None),
    "gate_confidence": _NUMBER,
}
