"""What pycocotools says of detections, for tests: the same figures as `pipeline.evaluation` gives."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.evaluation.results import Metrics
from pipeline.labels.label_store import LabelStore


class BoundaryEval(COCOeval):
    """COCOeval that compares the lesser of mask IoU and boundary IoU, from whole images and by erosion."""

    def computeIoU(self, imgId: int, catId: int) -> Any:  # pycocotools' own names
        mask_ious = super().computeIoU(imgId, catId)
        found, truths = self._dts[imgId, catId], self._gts[imgId, catId]
        if not found or not truths:
            return mask_ious
        found = [found[i] for i in np.argsort([-each["score"] for each in found], kind="mergesort")]
        found_rles, truth_rles = ([_border(each["segmentation"]) for each in some] for some in (found, truths))
        crowds = [int(each["iscrowd"]) for each in truths]
        border_ious = coco_mask.iou(found_rles[: self.params.maxDets[-1]], truth_rles, crowds)
        return np.minimum(mask_ious, border_ious)


def _border(rle: dict[str, Any]) -> dict[str, Any]:
    mask = coco_mask.decode(rle)
    width_px = max(1, round(0.02 * float(np.hypot(*mask.shape))))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width_px)[1:-1, 1:-1]
    return coco_mask.encode(np.asfortranarray(mask - eroded))


def store_results(store: LabelStore, kind: str) -> list[dict[str, Any]]:
    """The results list of a store: with masks alone, or with boxes alone, as their areas are to be told by."""
    entries = []
    for labels in store:
        for each in labels.instances:
            entry: dict[str, Any] = {"image_id": labels.image_id, "category_id": each.category_id, "score": each.score}
            x0, y0, x1, y1 = each.box_xyxy
            if kind == "bbox":
                entry["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            else:
                entry["segmentation"] = labels.rle(each)
            entries.append(entry)
    return entries


def run_reference(content: dict[str, Any], results: list[dict[str, Any]], kind: str, max_detections: int) -> COCOeval:
    """pycocotools on a dataset's content and a results list; kind: segm, bbox or boundary."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        found = truth.loadRes(results) if results else COCO()
        evaluation = (BoundaryEval if kind == "boundary" else COCOeval)(
            truth, found, "segm" if kind == "boundary" else kind
        )
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def reference_metrics(evaluation: COCOeval, category: int | None = None) -> Metrics:
    """Its figures, of all classes or of the one at a place."""
    chosen = slice(None) if category is None else slice(category, category + 1)
    precision, recall = (evaluation.eval[name][..., 0] for name in ("precision", "recall"))
    precision, recall = precision[:, :, chosen], recall[:, chosen]
    return Metrics(
        ap=_mean(precision[..., 0]),
        ap_50=_mean(precision[0, ..., 0]),
        ap_75=_mean(precision[5, ..., 0]),
        ap_small=_mean(precision[..., 1]),
        ap_medium=_mean(precision[..., 2]),
        ap_large=_mean(precision[..., 3]),
        ar=_mean(recall[..., 0]),
    )


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None
