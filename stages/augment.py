"""`augment`: composites of unlabelled images with their refined labels, written once: images and a label store."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.augment.augment_work import COMPOSITES_PER_SHARD, AugmentWork, remove_unnamed_images
from pipeline.augment.sources import CompositeSources, LabelledFolder
from pipeline.coco.reading import read_coco
from pipeline.compute.settings import ComputeSettings
from pipeline.labels.dataset_rows import dataset_rows
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import seal_labels, write_label_store
from pipeline.labels.summary import count_labels
from pipeline.tables.shard_files import divide
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.graph import node_key
from stages.context import LABELS, StageContext, Summary
from stages.progress import fill_store, shards_beside

_LABELLED_STORE = "labelled.zarr"


def run(context: StageContext) -> Summary:
    """Make the composites that are missing and seal their labels."""
    refined = context.results[node_key("refine", context.node.round)] / LABELS
    sources = composite_sources(context.experiment, refined, context.labelled(), context.folder)
    if reason := sources.nothing_to_paste():
        context.say(f"{context.node.key}: {reason}")
    augment_store(sources, context.folder, context.experiment.compute, {"fingerprint": context.fingerprint})
    shutil.rmtree(context.folder / _LABELLED_STORE, ignore_errors=True)
    return count_labels(LabelStore.open(context.folder / LABELS))


def composite_sources(experiment: Experiment, refined: Path, labelled: Path, scratch: Path) -> CompositeSources:
    """What an experiment's composites are made of; where labelled images are partners, their store is in `scratch`.

    refined: the store of refined labels. labelled: COCO file of the labelled images.
    """
    data = experiment.data
    partners = None
    if experiment.augment.partners == "labelled-too":
        store = scratch.absolute() / _LABELLED_STORE
        if not store.exists():
            dataset = read_coco(labelled)
            write_label_store(store, dataset_rows(dataset), dataset.categories, {})
        partners = LabelledFolder(store, data.labelled_source.images.absolute())
    folder = LabelledFolder(refined.absolute(), data.unlabelled_source.images.absolute())
    return CompositeSources(folder, partners, experiment.augment)


def augment_store(
    sources: CompositeSources, folder: Path, compute: ComputeSettings, provenance: Mapping[str, Any]
) -> None:
    """Write images and labels into a folder, shard by shard; what an earlier run has done is not done again."""
    sealed = folder / LABELS
    work = AugmentWork(sources, folder.absolute(), shards_beside(sealed))
    categories = sources.refined_store.attributes.categories
    fill_store(
        "augment",
        work,
        divide([pair.composite_id for pair in sources.pairs], COMPOSITES_PER_SHARD),
        sealed,
        compute,
        lambda plan: seal_labels(work.shards_folder, plan, sealed, categories, provenance),
    )
    remove_unnamed_images(folder, LabelStore.open(sealed))
