"""What a published detector's folder holds for people and programs outside of this project.

detector.py   a config for MMDetection's own functions, with MMDetection's own types wherever there is one
README.md     how to use the folder

This program reads neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pprint import pformat
from typing import Any, Final

from pipeline.coco.model import CocoCategory
from pipeline.detection.config import with_mmdetection_types
from pipeline.detection.registry import IMPORTS, SCOPE
from pipeline.labels.drawing import category_colours

META_KEYS: Final = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
_ANNOTATIONS: Final = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}


def image_pipeline(test_transforms: Sequence[Mapping[str, Any]], *, annotated: bool = False) -> list[dict[str, Any]]:
    """Return MMDetection's pipeline of an image file to predict on. annotated: load its annotations too, to measure."""
    # MMDetection wants a scale factor even where nothing is resized.
    resizing = [*map(dict, test_transforms)] or [{"type": "Resize", "scale_factor": 1.0, "keep_ratio": True}]
    return [
        {"type": "LoadImageFromFile"},
        *resizing,
        *([dict(_ANNOTATIONS)] if annotated else []),
        {"type": "PackDetInputs", "meta_keys": META_KEYS},
    ]


def mmdetection_config(
    model: Mapping[str, Any], test_transforms: Sequence[Mapping[str, Any]], categories: Sequence[CocoCategory]
) -> dict[str, Any]:
    """Return the config with which `init_detector` and `DetInferencer` of MMDetection run a published detector."""
    plain = with_mmdetection_types(model)
    needs_us = f"'{SCOPE}." in repr(plain)
    colours = category_colours(category.id for category in categories)
    dataset = {
        "type": "CocoDataset",
        "metainfo": {
            "classes": tuple(category.name for category in categories),
            "palette": [colours[category.id] for category in categories],
        },
        "ann_file": "",
        "data_prefix": {"img": ""},
        "test_mode": True,
        "pipeline": image_pipeline(test_transforms),
    }
    return {
        "default_scope": "mmdet",
        **({"custom_imports": {"imports": list(IMPORTS)}} if needs_us else {}),
        "model": plain,
        "test_dataloader": {
            "batch_size": 1,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": dataset,
        },
        "visualizer": {
            "type": "DetLocalVisualizer",
            "name": "visualizer",
            "vis_backends": [{"type": "LocalVisBackend"}],
        },
    }


def config_text(config: Mapping[str, Any]) -> str:
    """Return a config as a Python file for MMDetection."""
    parts = (f"{key} = {pformat(value, width=118, sort_dicts=False)}\n" for key, value in config.items())
    return "".join(("# A trained detector, for MMDetection: see README.md beside this file.\n", *parts))


def readme_text(experiment: str, node: str, iterations: int, config: Mapping[str, Any]) -> str:
    """Return the README of a published detector's folder. config: the one for MMDetection."""
    classes = ", ".join(config["test_dataloader"]["dataset"]["metainfo"]["classes"])
    needs = (
        "It also needs this project (the package `s4m`), whose backbone the model has."
        if "custom_imports" in config
        else "It needs nothing else: all its parts are MMDetection's own."
    )
    return _README.format(experiment=experiment, node=node, iterations=iterations, classes=classes, needs=needs)


_README: Final = """\
# A trained detector

Trained as `{node}` of the experiment `{experiment}`, {iterations:,} iterations. Classes: {classes}.

The folder is complete: copy it anywhere.

| file | content |
|---|---|
| `weights.pth` | the weights: tensors and class names, nothing that is executed |
| `detector.py` | a config for MMDetection: Python, which MMDetection executes |
| `detector.json` | the config that this project reads; reading JSON executes nothing |
| `model.json` | classes with their ids, and what the detector was made from |

## With this project

    s4m annotate FOLDER IMAGES/ --output labels.json

writes the detections on a folder of images as COCO JSON; `--refine` lets SAM sharpen their masks, and
`--pictures FOLDER` draws them. In Python:

```python
import s4m

detector = s4m.load_detector("FOLDER")
(found,) = detector.predict(["photo.jpg"])
masks, names, scores = found.masks, found.names, found.scores
```

## With MMDetection alone

```python
from mmdet.apis import inference_detector, init_detector

model = init_detector("detector.py", "weights.pth", device="cpu")
found = inference_detector(model, "photo.jpg").pred_instances
```

{needs} MMDetection's fork of the packages `onedl-mmdetection` and `onedl-mmcv` is the one that was tried.
"""
