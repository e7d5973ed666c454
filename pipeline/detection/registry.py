"""Our classes in MMEngine's registries, under the scope `s4m`: configs name them as `s4m.MaskRCNN`.

A config that names them has `custom_imports = {"imports": ["pipeline.detection.registered"]}`, so that it also
runs with MMDetection's ordinary train and test entry points.
"""

from __future__ import annotations

from typing import Final

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry

SCOPE: Final = "s4m"
IMPORTS: Final = ("pipeline.detection.registered",)
"""The modules that a config must import: they register every class."""

MODELS = Registry("model", parent=mmengine_registry.MODELS, scope=SCOPE)
MODEL_WRAPPERS = Registry("model_wrapper", parent=mmengine_registry.MODEL_WRAPPERS, scope=SCOPE)
DATASETS = Registry("dataset", parent=mmengine_registry.DATASETS, scope=SCOPE)
TRANSFORMS = Registry("transform", parent=mmengine_registry.TRANSFORMS, scope=SCOPE)
DATA_SAMPLERS = Registry("data sampler", parent=mmengine_registry.DATA_SAMPLERS, scope=SCOPE)
HOOKS = Registry("hook", parent=mmengine_registry.HOOKS, scope=SCOPE)
PARAM_SCHEDULERS = Registry("parameter scheduler", parent=mmengine_registry.PARAM_SCHEDULERS, scope=SCOPE)
VISBACKENDS = Registry("vis_backend", parent=mmengine_registry.VISBACKENDS, scope=SCOPE)
FUNCTIONS = Registry("function", parent=mmengine_registry.FUNCTIONS, scope=SCOPE)
