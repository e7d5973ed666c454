"""An experiment's images as a review needs them, and the data of the new experiment that comes out of it."""

from __future__ import annotations

from pathlib import Path

import yaml

from pipeline.coco.reading import read_coco
from pipeline.datasets.settings import DataSettings
from pipeline.datasets.split import LABELLED, UNLABELLED
from pipeline.review.accepting import KnownImages, Labelled


def known_images(data: DataSettings, split_folder: Path) -> KnownImages:
    """Read the labelled and unlabelled images of an experiment. split_folder: the result of `split`."""
    return KnownImages(
        labelled=read_coco(split_folder / LABELLED),
        labelled_root=data.labelled_source.images,
        unlabelled=read_coco(split_folder / UNLABELLED, annotations_required=False),
        unlabelled_root=data.unlabelled_source.images,
    )


def data_section(data: DataSettings, labelled: Labelled, output: Path) -> str:
    """Return the data of a new experiment as YAML. Its split leaves the labelled images out of the unlabelled set.

    output: the COCO file of the labelled images.
    """
    sets = {"unlabelled": data.unlabelled_source, "validation": data.validation}
    kept = {name: each.model_dump(mode="json", exclude_none=True) for name, each in sets.items() if each is not None}
    section = {"labelled": {"annotations": str(output), "images": str(labelled.image_root)}} | kept
    text: str = yaml.safe_dump({"data": section}, sort_keys=False, allow_unicode=True)
    return text
