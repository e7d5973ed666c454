"""Read one list of a COCO file, each element on its own: a bad one is reported and left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Generic, TypeVar

import msgspec

from pipeline.coco.json_text import field_problem, plain_message
from pipeline.coco.model import CocoCategory, CocoImage, Id
from pipeline.errors import Problem


class AnnotationJson(msgspec.Struct, gc=False):
    """An annotation as it is in the file: `area` and `iscrowd` may be missing."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    segmentation: msgspec.Raw
    area: Annotated[float, msgspec.Meta(ge=0)] | None = None
    iscrowd: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0


Element = TypeVar("Element", CocoImage, CocoCategory, AnnotationJson)


class ElementReader(Generic[Element]):
    """Reader of one list of the file, which adds what is wrong with its elements to `problems`."""

    def __init__(self, name: str, key: str, element_type: type[Element], problems: list[Problem]) -> None:
        self.name = name
        self.key = key
        self.problems = problems
        self.refused_ids: set[int] = set()
        self._seen_ids: set[int] = set()
        self._decoder: msgspec.json.Decoder[Element] = msgspec.json.Decoder(element_type)
        self._fields = {
            field.name: (msgspec.json.Decoder(field.type), field.required)
            for field in msgspec.structs.fields(element_type)
        }

    def elements(self, texts: list[msgspec.Raw]) -> Iterator[Element]:
        """Yield every readable element that has an id of its own."""
        decode, seen_ids = self._decoder.decode, self._seen_ids
        for index, text in enumerate(texts):
            try:
                element = decode(text)
            except (ValueError, RecursionError) as error:  # msgspec's and Unicode's errors are ValueErrors
                self._diagnose(index, text, error)
                continue
            if element.id in seen_ids:
                self.problems.append(Problem(f"{self.key}[{index}], id", f"{element.id} is used twice"))
                continue
            seen_ids.add(element.id)
            yield element

    def refuse(self, element_id: int, field: str, message: str) -> None:
        """Report what is wrong with one field of a readable element."""
        self.refused_ids.add(element_id)
        self.problems.append(Problem(f"{self.name} {element_id}, {field}", message))

    def _diagnose(self, index: int, text: msgspec.Raw, error: Exception) -> None:
        """Decode an unreadable element field by field, so that every wrong one is reported."""
        where = f"{self.key}[{index}]"
        try:
            given = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        except (ValueError, RecursionError) as whole_error:
            self.problems.append(Problem(where, field_problem("", text, whole_error)[1]))
            return
        found: list[tuple[str, str]] = []
        for name, (decoder, required) in self._fields.items():
            if name not in given:
                if required:
                    found.append((name, "is missing"))
                continue
            try:
                value = decoder.decode(given[name])
            except (ValueError, RecursionError) as field_error:
                found.append(field_problem(name, given[name], field_error))
                continue
            if name == "id":
                where = f"{self.name} {value}"
                self.refused_ids.add(value)
        if not found:  # a key given twice, of which the first is wrong
            found.append(("", plain_message(str(error))[1]))
        self.problems += [Problem(f"{where}, {name}".removesuffix(", "), message) for name, message in found]
