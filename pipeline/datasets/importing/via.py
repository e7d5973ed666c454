"""Read VIA (VGG Image Annotator 2 and 1): a project, or the annotations exported as JSON.

Regions that are areas become instances: polygon, rectangle, circle, ellipse. Points and lines are left out. The class
is the value of one region attribute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.datasets.importing.source import (
    Drawn,
    Findings,
    ImportSettings,
    SourceContent,
    SourceImage,
    ellipse_xy,
    is_number,
    named_size,
    names_in_order,
    numbers,
    read_json,
    rectangle_xy,
)
from pipeline.errors import some_of

_NOT_AREAS: Final = ("point", "line", "polyline")


def read_via(path: Path, settings: ImportSettings, findings: Findings) -> SourceContent:
    """Return the content of a VIA file; what is wrong with it is added to the findings."""
    root = settings.images or path.parent
    top = read_json(path)
    entries, project = _entries(top)
    if entries is None:
        findings.refuse("", _not_via(top))
        return SourceContent(root, [], [])
    regions = {key: list(_regions(entry)) for key, entry in entries.items()}
    attribute = _class_attribute(regions, settings, findings)
    if findings.problems:
        return SourceContent(root, [], [])
    options = _options(project, attribute)
    images = []
    for key, entry in entries.items():
        name = entry.get("filename")
        where = f"{name!r}" if isinstance(name, str) else f"key {key!r}"
        if not isinstance(name, str):
            findings.refuse(where, "has no filename")
        elif (size := named_size(findings, where, root, name)) is not None:
            drawn = _instances(where, regions[key], attribute, settings.category, size, findings)
            images.append(SourceImage(where, name, *size, tuple(drawn)))
    return SourceContent(root, images, names_in_order(images, options))


def _entries(top: Any) -> tuple[dict[str, Mapping[str, Any]] | None, Mapping[str, Any]]:
    """Return the images by key, and the project around them."""
    if not isinstance(top, dict):
        return None, {}
    images = top.get("_via_img_metadata", top)
    if not isinstance(images, dict) or not images:
        return None, {}
    if not all(isinstance(entry, dict) and "regions" in entry for entry in images.values()):
        return None, {}
    return images, top if images is not top else {}


def _not_via(top: Any) -> str:
    if isinstance(top, dict) and {"project", "metadata", "view"} <= top.keys():
        return "is a project of VIA 3, which is not read: export its annotations as COCO"
    return "is neither a project of VIA 2 nor its annotations as JSON: in VIA, choose Project > Save or Export as JSON"


def _regions(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each region of an image and its key; VIA 1 has them by key, VIA 2 in a list."""
    regions = entry["regions"]
    items = regions.items() if isinstance(regions, dict) else enumerate(regions if isinstance(regions, list) else ())
    yield from ((f"regions[{key}]", region) for key, region in items)


def _class_attribute(
    regions: Mapping[str, list[tuple[str, Any]]], settings: ImportSettings, findings: Findings
) -> str | None:
    """Return the region attribute that holds the class; None if no region has an attribute."""
    used: set[str] = set()
    for _, region in (each for of_image in regions.values() for each in of_image):
        attributes = region.get("region_attributes") if isinstance(region, dict) else None
        if isinstance(attributes, dict):
            used |= {name for name, value in attributes.items() if value not in ("", {}, None)}
    if settings.attribute is not None:
        if settings.attribute not in used:
            known = some_of(sorted(used)) or "none"
            findings.refuse("", f"no region has a value of the attribute {settings.attribute!r}; attributes: {known}")
        return settings.attribute
    if len(used) > 1:
        findings.refuse(
            "", f"regions have the attributes {', '.join(sorted(used))}: say with --attribute which is the class"
        )
    return next(iter(used), None)


def _options(project: Mapping[str, Any], attribute: str | None) -> list[str]:
    """Return the classes that the project offers, in its order."""
    found: Any = project
    for key in ("_via_attributes", "region", attribute, "options"):
        found = found.get(key) if isinstance(found, dict) else None
    return [name for name in found if name.strip()] if isinstance(found, dict) else []


def _instances(
    where: str,
    regions: list[tuple[str, Any]],
    attribute: str | None,
    category: str,
    size: tuple[int, int],
    findings: Findings,
) -> Iterator[Drawn]:
    for key, region in regions:
        place = f"{where}, {key}"
        shape = region.get("shape_attributes") if isinstance(region, dict) else None
        if not isinstance(shape, dict):
            findings.refuse(place, "has no shape_attributes")
            continue
        if shape.get("name") in _NOT_AREAS:
            findings.note(f"regions left out that are no areas ({shape['name']})")
            continue
        polygon_xy = _polygon(place, shape, findings)
        name = category if attribute is None else _class_of(place, region, attribute, findings)
        if polygon_xy is not None and name is not None and findings.usable(place, [polygon_xy], *size):
            yield Drawn(name, [polygon_xy])


def _polygon(where: str, shape: Mapping[str, Any], findings: Findings) -> list[float] | None:
    """Return the outline of a region; None, reported, if it is unusable."""
    kind = shape.get("name")
    match kind:
        case "polygon":
            xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
            if isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys) and all(map(is_number, xs + ys)):
                return [float(value) for point in zip(xs, ys, strict=True) for value in point]
        case "rect":
            if (box := numbers(shape, "x", "y", "width", "height")) is not None:
                findings.note("rectangles taken as masks: they follow no outline")
                x, y, width, height = box
                return rectangle_xy(x, y, x + width, y + height)
        case "circle":
            if (circle := numbers(shape, "cx", "cy", "r")) is not None:
                return ellipse_xy((circle[0], circle[1]), (circle[2], circle[2]))
        case "ellipse":
            if (ellipse := numbers({"theta": 0.0, **shape}, "cx", "cy", "rx", "ry", "theta")) is not None:
                return ellipse_xy((ellipse[0], ellipse[1]), (ellipse[2], ellipse[3]), ellipse[4])
        case _:
            findings.refuse(where, f"has the unknown shape {kind!r}")
            return None
    findings.refuse(where, f"is not a {kind} with numbers as VIA writes it")
    return None


def _class_of(where: str, region: Mapping[str, Any], attribute: str, findings: Findings) -> str | None:
    attributes = region.get("region_attributes")
    value = attributes.get(attribute) if isinstance(attributes, dict) else None
    if isinstance(value, dict):  # a checkbox has every chosen option as a key
        chosen = [name for name, is_chosen in value.items() if is_chosen]
        if len(chosen) > 1:
            findings.refuse(where, f"has several values of {attribute!r}: {', '.join(chosen)}")
            return None
        value = next(iter(chosen), None)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        findings.refuse(where, f"has no class: the attribute {attribute!r} is empty")
        return None
    return str(value).strip()
