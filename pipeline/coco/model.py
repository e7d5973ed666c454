"""The values of a COCO instance file, as the rest of the pipeline sees them: frozen, checked, small."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import msgspec

from pipeline.coco.segmentation import decode_segmentation, to_rle
from pipeline.masks.run_lengths import CompressedRle, decode_mask
from pipeline.masks.windows import BoolMask

# Ids travel on as 64 bit integers, in arrays and stores.
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
PixelCount = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class CocoImage(msgspec.Struct, frozen=True, gc=False):
    """One image of the file; `file_name` is relative to the image folder (see `resolve_image_path`)."""

    id: Id
    file_name: str
    width: PixelCount
    height: PixelCount


class CocoCategory(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One category; ids may be any integers, 0 and gaps included."""

    id: Id
    name: str
    supercategory: str = ""


class CocoAnnotation(msgspec.Struct, frozen=True, gc=False):
    """One instance; `bbox` is COCO's (x, y, width, height) in pixels, `area` in square pixels.

    `segmentation` is its JSON text, a view that keeps the bytes of the whole file alive; `CocoDataset.rle`
    and `CocoDataset.mask` decode it.
    """

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int
    segmentation: msgspec.Raw


@dataclass(frozen=True)
class CocoDataset:
    """A COCO instance file that passed every check; all in the order of the file."""

    path: Path
    images: tuple[CocoImage, ...]
    categories: tuple[CocoCategory, ...]
    annotations: tuple[CocoAnnotation, ...]

    @cached_property
    def image_by_id(self) -> Mapping[int, CocoImage]:
        """Return every image by its id."""
        return {image.id: image for image in self.images}

    @cached_property
    def category_by_id(self) -> Mapping[int, CocoCategory]:
        """Return every category by its id."""
        return {category.id: category for category in self.categories}

    @cached_property
    def annotations_by_image(self) -> Mapping[int, tuple[CocoAnnotation, ...]]:
        """Return the annotations of every image by its id; an empty tuple for an image without instances."""
        by_image: dict[int, list[CocoAnnotation]] = {image.id: [] for image in self.images}
        for annotation in self.annotations:
            by_image[annotation.image_id].append(annotation)
        return {image_id: tuple(annotations) for image_id, annotations in by_image.items()}

    def instances(self, image_id: int) -> tuple[CocoAnnotation, ...]:
        """Return the annotations of an image without its crowds, which are no instances."""
        return tuple(each for each in self.annotations_by_image[image_id] if not each.iscrowd)

    def rle(self, annotation: CocoAnnotation) -> CompressedRle:
        """Return the annotation's mask as pycocotools' RLE, in the size of its image."""
        image = self.image_by_id[annotation.image_id]
        return to_rle(decode_segmentation(annotation.segmentation), image.width, image.height)

    def mask(self, annotation: CocoAnnotation) -> BoolMask:
        """Decode the annotation's mask: bool (height, width) of its image."""
        return decode_mask(self.rle(annotation))

    def subset(self, image_ids: Iterable[int]) -> CocoDataset:
        """Return the dataset of these images only, sorted by id, with all categories and their own annotations."""
        chosen = sorted(set(image_ids))
        return CocoDataset(
            path=self.path,
            images=tuple(self.image_by_id[image_id] for image_id in chosen),
            categories=self.categories,
            annotations=tuple(
                annotation
                for image_id in chosen
                for annotation in sorted(self.annotations_by_image[image_id], key=lambda each: each.id)
            ),
        )
