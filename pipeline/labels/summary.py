"""What a label store holds, in a few figures; and the best instances of an image."""

from __future__ import annotations

from dataclasses import replace

from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import ImageLabels, Status


def count_labels(store: LabelStore) -> dict[str, int]:
    """Images and instances, and how they fared and were decided; of the latter only what is there."""
    counts = {"images": store.attributes.images, "instances": store.attributes.instances}
    details = {**store.attributes.statuses, **store.attributes.decisions}
    return counts | {name: count for name, count in details.items() if count and name != Status.OK}


def best_instances(labels: ImageLabels, min_score: float, most: int) -> ImageLabels:
    """The same image with its instances of at least a score, at most so many, the best first where some go."""
    if labels.status is Status.FAILED:
        return labels
    kept = [instance for instance in labels.instances if instance.score >= min_score]
    if len(kept) > most:
        kept = sorted(kept, key=lambda instance: -instance.score)[:most]
    status = Status.OK if kept else Status.EMPTY
    return replace(labels, instances=tuple(kept), status=status)
