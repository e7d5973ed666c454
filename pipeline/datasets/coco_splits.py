"""Make COCO percent splits: which images of an annotation file are labelled, as a JSON list of ids.

Three sources of a split:

- A draw of our own by percent and fold. It is the draw of Soft-Teacher's `semi_coco.py` without an offset:
  NumPy's legacy generator, seeded by the fold, over all images in the order of the file.
- The published index list of Unbiased Teacher (`COCO_supervision.txt`), used by many papers: a JSON object
  percent -> fold -> indices. They are neither image ids nor indices into the file. They count, from 0 and by
  rising id, the images with at least one annotation of `iscrowd` 0: what detectron2 keeps of the file when it
  drops empty images. In train2017 these are 117,266 of 118,287 images, and the list's lengths are
  `int(percent / 100 * 117266)`. That is checked here, because indices read wrongly would look right.
- A published COCO file of the labelled images alone, `instances_train2017.{fold}@{percent}.json`. Experiments
  use such files directly; here one becomes a list of ids of the full file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from pipeline.coco.json_text import read_json_object
from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.datasets.converting import out_of_range
from pipeline.errors import DatasetError, Problem, ProblemsError, StageError
from pipeline.files.writing import write_atomically


@dataclass(frozen=True)
class CocoSplitSettings:
    """Which split to make."""

    percent: float
    """Labelled images, in percent: more than 0, less than 100."""
    fold: int = 1
    """Which of the draws of this percentage; the seed of a draw of our own."""
    published: Path | None = None
    """A published list, or COCO file of labelled images, that gives the split. None: draw it."""


@dataclass(frozen=True)
class CocoSplit:
    """A split that was made."""

    labelled_ids: tuple[int, ...]
    """Image ids, sorted."""
    images: int
    """Images of the annotation file."""


def make_coco_split(annotations: Path, output: Path, settings: CocoSplitSettings) -> CocoSplit:
    """Write the labelled images' ids as a JSON list, for `data.labelled_list` of an experiment.

    An output that holds the same list already is left alone; one that holds anything else is refused.
    """
    _require_valid(settings)
    dataset = read_coco(annotations)
    labelled_ids = tuple(sorted(_labelled_ids(dataset, settings)))
    text = msgspec.json.encode(labelled_ids).decode() + "\n"
    if not output.exists():
        write_atomically(output, text)
    elif output.read_bytes() != text.encode():
        raise StageError(f"{output} exists and is not this split: delete it or name another file")
    return CocoSplit(labelled_ids, len(dataset.images))


def _require_valid(settings: CocoSplitSettings) -> None:
    problems = []
    if not 0 < settings.percent < 100:
        problems.append(Problem("percent", f"must be more than 0 and less than 100, is {settings.percent:g}"))
    problems += out_of_range("fold", settings.fold, 0, 2**32 - 1)
    if problems:
        raise ProblemsError("COCO split", problems)


def _labelled_ids(dataset: CocoDataset, settings: CocoSplitSettings) -> list[int]:
    if settings.published is None:
        return _drawn_ids(dataset, settings)
    top = read_json_object(settings.published)
    if "images" in top:
        return _ids_of_labelled_file(dataset, settings.published, settings.percent)
    return _ids_of_indices(dataset, settings.published, top, settings)


def _drawn_ids(dataset: CocoDataset, settings: CocoSplitSettings) -> list[int]:
    total = len(dataset.images)
    count = _share(settings.percent, total)
    if count == 0:
        message = f"{settings.percent:g} % of {total} images is less than one image: choose a larger percentage"
        raise DatasetError(str(dataset.path), [Problem("images", message)])
    # The legacy generator, on purpose: its draws are the same in every version of NumPy.
    drawn = np.random.RandomState(settings.fold).choice(total, size=count, replace=False)
    return [dataset.images[index].id for index in drawn]


def _ids_of_labelled_file(dataset: CocoDataset, published: Path, percent: float) -> list[int]:
    """Return the ids of a COCO file of labelled images, all of which must be in the full file."""
    ids = [image.id for image in read_coco(published).images]
    problems = [
        Problem(f"image {image_id}", f"is not in {dataset.path}")
        for image_id in ids
        if image_id not in dataset.image_by_id
    ]
    expected = _share(percent, len(dataset.images))
    # Some publishers drew with replacement, so that a file may hold fewer images than its name says.
    if len(ids) > expected:
        message = f"lists {len(ids)} images, {percent:g} % of {len(dataset.images)} are {expected}"
        problems.append(Problem("images", message))
    if problems:
        raise DatasetError(str(published), problems)
    return ids


def _ids_of_indices(
    dataset: CocoDataset, published: Path, top: Mapping[str, msgspec.Raw], settings: CocoSplitSettings
) -> list[int]:
    """Return the image ids of the published indices (the module says how they count)."""
    indices = _published_indices(published, top, settings)
    counted_ids = sorted({each.image_id for each in dataset.annotations if not each.iscrowd})
    messages = []
    expected = _share(settings.percent, len(counted_ids))
    if len(indices) != expected:
        messages.append(
            f"holds {len(indices)} indices, but {settings.percent:g} % of the {len(counted_ids)} images with "
            f"instances in {dataset.path} are {expected}: it was drawn for another annotation file"
        )
    outside = [index for index in indices if not 0 <= index < len(counted_ids)]
    if outside:
        messages.append(f"holds {outside[0]}, which is not an index of the {len(counted_ids)} images with instances")
    repeated = len(indices) - len(set(indices))
    if repeated:
        messages.append(f"repeats indices: {repeated} too many")
    if messages:
        where = f"{settings.percent:g} %, fold {settings.fold}"
        raise DatasetError(str(published), [Problem(where, message) for message in messages])
    return [counted_ids[index] for index in indices]


def _published_indices(published: Path, top: Mapping[str, msgspec.Raw], settings: CocoSplitSettings) -> list[int]:
    """Return the indices listed for the percentage and the fold."""
    by_percent: dict[float, msgspec.Raw] = {}
    for key, text in top.items():
        try:
            by_percent[float(key)] = text  # publishers write 10 as "10" or "10.0"
        except ValueError as error:
            message = f"{key!r} is not a percentage: the file is neither a published list nor COCO"
            raise DatasetError(str(published), [Problem("", message)]) from error
    where = f"{settings.percent:g} %"
    if settings.percent not in by_percent:
        known = ", ".join(f"{percent:g}" for percent in sorted(by_percent))
        raise DatasetError(str(published), [Problem("", f"has no {where}, only: {known}")])
    try:
        folds = msgspec.json.decode(by_percent[settings.percent], type=dict[str, list[int]])
    except ValueError as error:
        message = f"must be an object of fold -> list of indices: {error}"
        raise DatasetError(str(published), [Problem(where, message)]) from error
    if str(settings.fold) not in folds:
        raise DatasetError(str(published), [Problem(where, f"has no fold {settings.fold}, only: {', '.join(folds)}")])
    return folds[str(settings.fold)]


def _share(percent: float, total: int) -> int:
    # In this order of operations, as the published lists were made: rounding would differ in others.
    return int(percent / 100.0 * total)
