"""What an experiment says of its images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import FilePath, FolderPath, Section, Seed

ShapesDifficulty = Literal["easy", "medium", "hard"]
"""How hard generated shapes are to tell apart."""


class AnnotatedSet(Section):
    """Images and their COCO annotations."""

    annotations: FilePath
    """COCO instance annotations (JSON)."""
    images: FolderPath
    """The folder that the annotations' file names start from."""


class UnlabelledSet(Section):
    """Images without labels to learn from."""

    images: FolderPath
    """The folder of images; without `annotations`, every image below it is taken."""
    annotations: FilePath | None = None
    """COCO JSON that lists the images. Instances in it are kept aside, for measuring only."""


class DataSettings(Section):
    """Either `labelled` and `unlabelled`, or one `annotated` set split by `percent` or `labelled_list`."""

    labelled: AnnotatedSet | None = None
    """The labelled images."""
    unlabelled: UnlabelledSet | None = None
    """The unlabelled images."""
    annotated: AnnotatedSet | None = None
    """One annotated set, of which a part plays the labelled images and the rest the unlabelled ones."""
    percent: Annotated[float, Field(gt=0, lt=100)] | None = None
    """How much of `annotated` is labelled, in percent of its images."""
    seed: Seed = 0
    """Which images `percent` picks."""
    labelled_list: FilePath | None = None
    """A published list of the labelled images of `annotated`: ids or file names, text or JSON."""
    validation: AnnotatedSet | None = None
    """The images on which teacher and student are measured."""
