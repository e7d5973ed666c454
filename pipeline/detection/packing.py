"""The end of a sample's pipeline: what the detector is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.datasets.transforms import PackDetInputs

from pipeline.detection.registry import SCOPE, TRANSFORMS
from pipeline.detection.transforms import DistortColours, DrawAnchors, Photometric, SettleInstances

META_KEYS = (
    "img_id",
    "img_path",
    "ori_shape",
    "img_shape",
    "scale_factor",
    "flip",
    "flip_direction",
    "homography_matrix",
    "source",
    "replaced",
)


@TRANSFORMS.register_module()
class PackInputs(PackDetInputs):  # type: ignore[misc]
    """MMDetection's packing with a weight for every instance, where the image came from, and structural targets.

    The sample: `inputs`, uint8 (3, height, width) BGR, and `data_samples`, a DetDataSample with

    - gt_instances: bboxes, labels, masks, weights (float32); ignored_instances: bboxes, labels, masks
    - where uncertain pixels are known: gt_instances.pixel_weights, float16 (N, height, width)
    - metainfo: `META_KEYS` as far as they apply; homography_matrix (3, 3) is from pixels of the original image
      to those of the input; replaced: how many images could not be used before this one took their place
    - where there are structural targets: structure_anchors_xy, float32 (A, 2), and structure_windows_xyxy,
      int32 (A, 4), pixels of the original image, and structure_maps, uint8 (A, side, side)
    """

    mapping_table = PackDetInputs.mapping_table | {"gt_weights": "weights"}

    def __init__(self) -> None:
        super().__init__(META_KEYS)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack."""
        results.setdefault("homography_matrix", np.eye(3, dtype=np.float32))
        packed: dict[str, Any] = super().transform(results)
        data_sample = packed["data_samples"]
        del data_sample.ignored_instances.weights
        if "gt_uncertain" in results:
            uncertain = torch.from_numpy(results["gt_uncertain"][~results["gt_ignore_flags"].astype(bool)])
            weights = torch.ones(uncertain.shape, dtype=torch.float16)
            data_sample.gt_instances.pixel_weights = weights.masked_fill_(
                uncertain.bool(), results["uncertain_pixel_weight"]
            )
        for key in ("structure_anchors_xy", "structure_windows_xyxy", "structure_maps"):
            if key in results:
                data_sample.set_field(torch.tensor(results[key]), key)
        return packed


def sample_pipeline(
    geometry: Sequence[Mapping[str, Any]],
    *,
    photometric: Mapping[str, float] | None,
    distortion: float = 0.0,
    anchors: int = 0,
) -> list[dict[str, Any]]:
    """Return the pipeline of one source, for its dataset's `pipeline`.

    geometry: a detector config's `train_transforms`. photometric: the probabilities of `Photometric` (jitter, grey and
    blur), or None to leave it out. distortion: the probability of `DistortColours`. anchors: the number of
    structural anchors drawn for each sample.
    """
    steps: list[dict[str, Any]] = [*map(dict, geometry), {"type": _named(SettleInstances)}]
    if anchors:
        steps.append({"type": _named(DrawAnchors), "count": anchors})
    if distortion:
        steps.append({"type": _named(DistortColours), "probability": distortion})
    if photometric is not None:
        steps.append({"type": _named(Photometric), **photometric})
    return [*steps, {"type": _named(PackInputs)}]


def _named(transform: type) -> str:
    return f"{SCOPE}.{transform.__name__}"
