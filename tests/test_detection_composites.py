"""Composites of training views: what they show, their sizes, areas in pixels of the view, the same in every process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.augment.settings import AugmentSettings
from pipeline.augment.sources import LabelledFolder
from pipeline.coco.model import CocoCategory
from pipeline.detection.composites import Composites, CroppedView, ShownInstance, composed_view
from pipeline.detection.datasets import TrainingImages
from pipeline.detection.packing import sample_pipeline
from pipeline.errors import StageError
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import Decision, ImageLabels, label_from_mask
from pipeline.masks.crop_mask import CropMask
from pipeline.masks.windows import whole_image
from tests import test_augment_stage
from tests.test_augment_composite import rectangle
from tests.test_detection_datasets import first

NEAREST = {"resize_type": "mmdet.Resize", "interpolation": "nearest"}
CROP = {"type": "mmdet.RandomCrop", "crop_size": (40, 32), "allow_negative_crop": True}
GEOMETRY = [
    {"type": "RandomResize", "scale": (60, 40), "ratio_range": (0.7, 1.5), **NEAREST},
    CROP,
    {"type": "mmdet.RandomFlip", "prob": 0.5},
]


def refined(path: Path, images: int, odd: dict[int, bytes | None] | None = None) -> LabelledFolder:
    """Images with three instances each; each instance has a colour and a category of its own, of the same number."""
    made = test_augment_stage.refined(path, images, odd)
    categories = [CocoCategory(number, f"colour {number}") for number in range(20, 30 + 3 * images)]
    write_label_store(path / "store.zarr", list(LabelStore.open(made.store_path)), categories, {})
    return LabelledFolder.of(path / "store.zarr", made.images.root)


def views(folder: LabelledFolder, geometry: list[dict[str, Any]], **settings: Any) -> Composites:
    chosen = AugmentSettings(mode="on-the-fly", views=True, **settings).model_dump(mode="json")
    pipeline = sample_pipeline((), photometric=None)
    return Composites(str(folder.store_path), str(folder.images.root), None, None, chosen, pipeline, geometry=geometry)


def shown(dataset: TrainingImages, item: int, draw: int = 0) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """The pixels, grey (height, width), and the masks by category, which is the colour of the instance."""
    packed = dataset[first(item, draw)]
    sample = packed["data_samples"]
    grey = packed["inputs"].numpy()
    assert (grey == grey[:1]).all()
    categories = [dataset.categories[label].id for label in sample.gt_instances.labels.tolist()]
    masks = sample.gt_instances.masks.masks.astype(bool)
    return grey[0], dict(zip(categories, masks, strict=True))


def test_views_without_geometry_are_composites_of_the_images(tmp_path: Path) -> None:
    folder = refined(tmp_path, 6)
    whole = Composites(
        str(folder.store_path),
        str(folder.images.root),
        None,
        None,
        AugmentSettings(mode="on-the-fly", min_area_px=1.0).model_dump(mode="json"),
        sample_pipeline((), photometric=None),
    )
    of_views = views(folder, [], min_area_px=1.0)
    for item in range(6):
        ours, theirs = (dataset[first(item)] for dataset in (of_views, whole))
        np.testing.assert_array_equal(ours["inputs"].numpy(), theirs["inputs"].numpy())
        for name in ("labels", "weights"):
            assert (
                ours["data_samples"].gt_instances[name].tolist() == theirs["data_samples"].gt_instances[name].tolist()
            )
        masks = (each["data_samples"].gt_instances.masks.masks for each in (ours, theirs))
        np.testing.assert_array_equal(*masks)
        assert ours["data_samples"].img_id == theirs["data_samples"].img_id


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["in-place", "moved"])
def test_every_mask_of_a_view_says_what_it_shows(tmp_path: Path, placement: str) -> None:
    # A moved instance is rescaled, which mixes colours at its edge.
    dataset = views(refined(tmp_path, 6), GEOMETRY, min_area_px=1.0, placement=placement, scale=(1.0, 1.0))
    from_two = 0
    for draw in range(0, 24, 6):
        for item in range(6):
            pixels, masks = shown(dataset, item, draw)
            for colour, mask in masks.items():
                assert (pixels[mask] == colour).all()
            # Images have the colours 20 + 3 id and the next two.
            from_two += len({(colour - 20) // 3 for colour in masks}) == 2
    assert from_two > 4


@pytest.mark.slow
def test_a_view_is_the_same_whenever_it_is_made_and_others_differ(tmp_path: Path) -> None:
    dataset = views(refined(tmp_path, 6), GEOMETRY, min_area_px=1.0)
    again = views(LabelledFolder.of(tmp_path / "store.zarr", tmp_path / "images"), GEOMETRY, min_area_px=1.0)
    seen = set()
    for draw in (0, 6, 12):
        for item in range(6):
            pixels, masks = shown(dataset, item, draw)
            same_pixels, same_masks = shown(again, item, draw)
            np.testing.assert_array_equal(pixels, same_pixels)
            assert masks.keys() == same_masks.keys()
            seen.add(pixels.tobytes())
    assert len(seen) == 18


@pytest.mark.parametrize(("factor", "pasted"), [(1, False), (2, True)])
def test_areas_count_in_pixels_of_the_view(tmp_path: Path, factor: int, pasted: bool) -> None:
    folder = refined(tmp_path, 2)
    geometry = [{"type": "mmdet.Resize", "scale": (60 * factor, 40 * factor), "interpolation": "nearest"}]
    largest = max(
        mask.sum() for item in range(2) for mask in shown(views(folder, [], min_area_px=1e9), item)[1].values()
    )
    dataset = views(folder, geometry, min_area_px=float(largest) + 1)
    sources = [{(colour - 20) // 3 for colour in shown(dataset, item)[1]} for item in range(2)]
    assert any(len(each) == 2 for each in sources) == pasted


def view(size_hw: tuple[int, int], grey: int, mask: np.ndarray | None = None, category_id: int = 3) -> CroppedView:
    image = np.full((*size_hw, 3), grey, np.uint8)
    labels = ImageLabels.of_instances(1, "1.png", 200, 100, ())
    if mask is None:
        return CroppedView(image, labels, ())
    image[mask] = grey + 1
    label = label_from_mask(np.ones((100, 200), bool), category_id, 0.9, Decision.SAM)
    return CroppedView(image, labels, (ShownInstance(label, CropMask.of_array(mask, whole_image(*size_hw))),))


def test_a_composite_of_views_is_as_large_as_both() -> None:
    base = view((20, 50), 10, rectangle((20, 50), 0, 0, 5, 5), category_id=7)
    donor = view((40, 30), 100, rectangle((40, 30), 10, 10, 30, 40))
    settings = AugmentSettings(mode="on-the-fly", views=True)
    made = composed_view(base, donor, settings, np.random.default_rng(0))
    assert made.image_rgb.shape == (40, 50, 3)
    grey = made.image_rgb[..., 0]
    own, pasted = made.labels.instances
    assert (own.category_id, own.area, pasted.category_id, pasted.area) == (7, 25, 3, 600)
    np.testing.assert_array_equal(grey == 101, made.labels.mask(pasted))
    np.testing.assert_array_equal(grey == 11, made.labels.mask(own))
    assert (grey[20:, :10] == 128).all()  # below the base
    assert (grey[:10, 10:] == 10).all()
    assert (made.labels.width, made.labels.height) == (50, 40)


def test_a_view_without_a_partner_or_with_an_empty_one_stays() -> None:
    base = view((20, 50), 10, rectangle((20, 50), 0, 0, 5, 5))
    settings = AugmentSettings(mode="on-the-fly", views=True)
    for donor in (None, view((20, 50), 100)):
        made = composed_view(base, donor, settings, np.random.default_rng(0))
        np.testing.assert_array_equal(made.image_rgb, base.image_rgb)
        assert [each.area for each in made.labels.instances] == [25]


def test_an_image_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    dataset = views(refined(tmp_path, 4, {2: b"no image"}), GEOMETRY, min_area_px=1.0)
    found = [dataset[first(item)]["data_samples"] for item in range(4)]
    assert {Path(each.img_path).name for each in found} <= {"1.png", "3.png", "4.png"}
    assert any(each.replaced for each in found)


def test_a_crop_that_must_not_be_empty_is_told(tmp_path: Path) -> None:
    folder = refined(tmp_path, 2)
    strict = [{"type": "mmdet.RandomCrop", "crop_size": (2, 2), "allow_negative_crop": False}]
    dataset = views(folder, strict)
    with pytest.raises(StageError, match="RandomCrop needs allow_negative_crop=True"):
        for item in (0, 1):
            for draw in range(0, 40, 2):
                dataset[first(item, draw)]
