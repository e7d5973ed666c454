"""Makes the dataset of composites: images and a label store, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.augment.augment_work import COMPOSITES_PER_SHARD, AugmentWork, remove_unnamed_images
from pipeline.augment.settings import AugmentSettings
from pipeline.augment.sources import CompositeSources, LabelledFolder
from pipeline.coco.reading import read_coco
from pipeline.compute.execution import Execution
from pipeline.labels.class_check import ClassCheck
from pipeline.labels.dataset_rows import dataset_rows
from pipeline.labels.filling import NewStore, fill_label_store, shards_beside
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.tables.shard_files import divide

LABELLED_STORE = "labelled.zarr"
"""Name of the store of labelled images in a scratch folder, if these are partners too."""


def composite_sources(
    refined: LabelledFolder,
    labelled: Path,
    labelled_root: Path,
    settings: AugmentSettings,
    scratch: Path,
    check: ClassCheck,
) -> CompositeSources:
    """Return the sources of composites; if labelled images are partners, write their store into `scratch`.

    labelled: COCO file of the labelled images. labelled_root: the folder that its file names are relative to.
    check: what is done to refined labels whose class is doubted.
    """
    partners = None
    if settings.partners == "labelled-too":
        store = scratch.absolute() / LABELLED_STORE
        if not store.exists():
            dataset = read_coco(labelled)
            write_label_store(store, dataset_rows(dataset), dataset.categories, {})
        partners = LabelledFolder.of(store, labelled_root)
    return CompositeSources(refined, partners, settings, check)


def augment_store(
    sources: CompositeSources, folder: Path, store_path: Path, provenance: Mapping[str, Any], execution: Execution
) -> None:
    """Write images into a folder and their labels into a store in it; shards of an interrupted run are used again."""
    work = AugmentWork(sources, folder.absolute(), shards_beside(store_path))
    store = NewStore(store_path, sources.refined_store.attributes.categories, provenance)
    plan = divide([pair.composite_id for pair in sources.pairs], COMPOSITES_PER_SHARD)
    fill_label_store("augment", work, plan, store, execution)
    remove_unnamed_images(folder, LabelStore.open(store_path))
