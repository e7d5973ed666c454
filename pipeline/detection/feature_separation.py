"""Measures how well a trained detector's own features tell instances apart: those that the structural loss teaches.

The measure is that of structural targets (see `pipeline.structure.measuring`): same images, anchors and positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoDataset, CocoImage
from pipeline.coco.reading import read_coco
from pipeline.compute.devices import usable_device
from pipeline.compute.settings import ComputeSettings
from pipeline.detection.published import read_published
from pipeline.errors import ImageError
from pipeline.structure.anchors import sample_anchors
from pipeline.structure.maps import truth_maps
from pipeline.structure.measuring import measured_positions
from pipeline.structure.sampling import grid_positions, quantise, sample_features
from pipeline.structure.separation import Separation, pooled, separation
from pipeline.structure.settings import DistillSettings
from pipeline.structure.target_columns import MAP_SIDE
from pipeline.structure.tiles import nearest_tiles, tiles_of

if TYPE_CHECKING:
    from pipeline.detection.predictor import Predictor


def measure_features(
    folder: Path, annotations: Path, image_root: Path, settings: DistillSettings, compute: ComputeSettings
) -> Separation | None:
    """Measure the features of the detector in a folder on some images of a COCO file; those that fail are left out.

    None where no image has an instance, or where features are not numbers.
    """
    import pipeline.detection.registered  # noqa: F401  before any other import of MMDetection, which it silences
    from pipeline.detection.predictor import Predictor

    device = usable_device(compute.device)
    predictor = Predictor(read_published(folder), str(device), compute.precision, batch_images=1)
    dataset = read_coco(annotations)
    images = ImageFolder.of(image_root, [image.file_name for image in dataset.images])
    chosen = (dataset.images[index] for index in measured_positions(len(dataset.images)))
    return pooled(each for image in chosen for each in _of_image(predictor, dataset, images, image, settings))


def _of_image(
    predictor: Predictor, dataset: CocoDataset, images: ImageFolder, image: CocoImage, settings: DistillSettings
) -> Iterator[Separation | None]:
    """Yield the measures of each tile of an image that has anchors in instances."""
    instances = [dataset.rle(each) for each in dataset.instances(image.id)]
    image_hw = (image.height, image.width)
    anchors = sample_anchors(image.id, image_hw, instances, settings)
    if (anchors.instance < 0).all():
        return
    try:
        image_rgb = images.read(image.file_name, (image.width, image.height))
    except ImageError:
        return
    features, filled_xy = predictor.structural_features(image_rgb)
    if not features.isfinite().all():
        return
    to_features = filled_xy / torch.tensor([image.width, image.height], device=features.device)
    tiles = tiles_of(image_hw, settings.cell_px, MAP_SIDE)
    tile_of = nearest_tiles(anchors.xy, tiles)
    for number, tile in enumerate(tiles):
        members = np.flatnonzero((tile_of == number) & (anchors.instance >= 0))
        if not len(members):
            continue
        corner_xy = torch.tensor([tile.x0, tile.y0], device=features.device)
        tile_wh = torch.tensor([tile.width, tile.height], device=features.device)
        positions_xy = (grid_positions(MAP_SIDE, tile_wh) + corner_xy) * to_features
        own_xy = torch.from_numpy(anchors.xy[members]).to(features.device) * to_features
        yield separation(
            _maps(features, own_xy, positions_xy),
            truth_maps(tile, anchors.within(members, tile), instances, MAP_SIDE),
        )


def _maps(features: Tensor, own_xy: Tensor, positions_xy: Tensor) -> NDArray[np.uint8]:
    """Return quantised maps (A, side, side) of features 1 x C x h x w at points (A, 2) and positions (side², 2)."""
    sampled = sample_features(features, torch.cat([own_xy, positions_xy]).unsqueeze(0))[0]
    similarity = sampled[: len(own_xy)] @ sampled[len(own_xy) :].T
    return np.asarray(quantise(similarity).reshape(-1, MAP_SIDE, MAP_SIDE).cpu().numpy())
