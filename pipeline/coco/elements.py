"""Read one list of a COCO file, each element on its own: a bad one is reported and left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Generic, TypeVar, cast

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


Given = list[Element] | list[msgspec.Raw]
"""The elements of a list in the file: as they are, or their JSON texts."""


def decode_list(text: msgspec.Raw, element_type: type[Element]) -> Given[Element]:
    """Return the elements of a JSON list; their texts where one of them is unreadable. ValueError for no list."""
    given: Given[Element]
    try:
        given = msgspec.json.decode(text, type=list[element_type])  # type: ignore[valid-type]
    except (ValueError, RecursionError):
        given = msgspec.json.decode(text, type=list[msgspec.Raw])
    return given


def _taken(elements: list[Element]) -> Iterator[Element]:
    """Yield the elements of a list in their order, and take them out of it: what is made of each has its memory."""
    elements.reverse()
    while elements:
        yield elements.pop()


class ElementReader(Generic[Element]):
    """Reader of one list of the file, which adds what is wrong with its elements to `problems`."""

    def __init__(self, name: str, key: str, element_type: type[Element], problems: list[Problem]) -> None:
        self.name = name
        self.key = key
        self.problems = problems
        self.refused_ids: set[int] = set()
        self._decoder: msgspec.json.Decoder[Element] = msgspec.json.Decoder(element_type)
        self._fields = {
            field.name: (msgspec.json.Decoder(field.type), field.required)
            for field in msgspec.structs.fields(element_type)
        }

    def elements(self, given: Given[Element]) -> Iterator[Element]:
        """Yield every readable element that has an id of its own, from `decode_list`, whose list may be empty then."""
        if given and isinstance(given[0], msgspec.Raw):
            return self._own_ids(self._readable(given))
        elements = cast("list[Element]", given)
        if len({element.id for element in elements}) == len(elements):
            return _taken(elements)
        return self._own_ids(enumerate(elements))

    def _readable(self, texts: list[msgspec.Raw]) -> Iterator[tuple[int, Element]]:
        for index, text in enumerate(texts):
            try:
                yield index, self._decoder.decode(text)
            except (ValueError, RecursionError) as error:  # msgspec's and Unicode's errors are ValueErrors
                self._diagnose(index, text, error)

    def _own_ids(self, elements: Iterable[tuple[int, Element]]) -> Iterator[Element]:
        seen_ids: set[int] = set()
        for index, element in elements:
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
