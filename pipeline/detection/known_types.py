"""Refuses a config that names anything but registered parts of a detector, before anything is built from it.

MMEngine's registries import and call any dotted path that they do not find (`type: subprocess.check_call`), and mmcv
evaluates the type of `nms` as Python. A config may come from an experiment's overrides or from a store: only names of
the parts that a detector consists of are let through, wherever a config can name one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from pipeline.errors import NAMES_SHOWN, Problem, StageError

_TYPE_KEYS: Final = ("type", "constructor", "resize_type", "conv_type", "padding_mode")
"""Keys whose text is looked up in a registry."""
_PATH_KEYS: Final = ("checkpoint", "pretrained", "prefix")
"""Keys whose text may look like a dotted name: a file, or the beginning of tensors' names."""

_NMS: Final = frozenset(("nms", "soft_nms"))
_ROI_LAYERS: Final = frozenset(("RoIAlign", "RoIPool", "DeformRoIPoolPack", "ModulatedDeformRoIPoolPack"))
_NAMES_BY_PARENT: Final = {"nms": _NMS, "nms_cfg": _NMS, "roi_layer": _ROI_LAYERS}
"""Types that are no registered names: mmcv's operators."""
_PADDINGS: Final = frozenset(("zeros", "circular"))
"""Paddings of torch itself; others are registered."""

_REGISTRIES: Final = {
    "model": ("MODELS", "TASK_UTILS", "WEIGHT_INITIALIZERS"),
    "optim_wrapper": ("OPTIM_WRAPPERS", "OPTIM_WRAPPER_CONSTRUCTORS", "OPTIMIZERS"),
    "schedule": (),
    "train_transforms": ("TRANSFORMS",),
    "test_transforms": ("TRANSFORMS",),
}
"""The registries of each key of a detector."""

_HOMES: Final = ("torch.", "mmcv.cnn.", "mmcv.ops.", "mmcv.transforms.", "mmengine.", "mmdet.", "pipeline.detection.")
_NO_PARTS: Final = (
    # Whole models: some read other configs, which are programs. The detector itself is checked by its own name.
    "mmdet.models.detectors.",
    "mmdet.models.mot.",
    "mmdet.models.reid.",
    "mmdet.models.test_time_augs.",
    "mmdet.models.trackers.",
    "mmdet.models.tracking_heads.",
    "mmdet.models.vis.",
    "mmengine.model.test_time_aug",
    "pipeline.detection.models",
    # These evaluate text, load models of other libraries by name, or call what text names there.
    "mmdet.models.language_models.",
    "mmdet.models.task_modules.tracking.",
    "mmdet.datasets.transforms.generate_line",
    "mmdet.datasets.transforms.text_transformers",
    "mmdet.datasets.transforms.transformers_glip",
)
"""Modules of classes that no part of a detector needs."""
_DETECTORS: Final = ("MaskRCNN", "Mask2Former", "s4m.MaskRCNN", "s4m.Mask2Former")

_LAYER_COUNT: Final = re.compile("layers|convs|fcs|ffns|outs|stages|blocks|levels?|depths?")
"""What keys have in their names that say how many modules are made, one after the other."""
MOST_LAYERS: Final = 1_000

_DOTTED_NAME: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def require_known_types(source: str, config: Mapping[str, Any]) -> None:
    """Raise StageError, with every dotted key, if a detector's config names more than parts of a detector.

    source: where the config is from. config: any of the keys of a detector with what they hold.
    """
    problems = [str(each) for key in config.keys() & _REGISTRIES.keys() for each in _problems(key, config[key])]
    if problems:
        shown = sorted(problems)[: 2 * NAMES_SHOWN]
        more = len(problems) - len(shown)
        raise StageError("\n  ".join([f"{source}: refused:", *shown, *([f"and {more} more"] if more else [])]))


def _problems(section: str, value: Any) -> Iterator[Problem]:
    if section == "model" and isinstance(value, Mapping):
        if value.get("type") not in _DETECTORS:
            yield Problem("model.type", f"{value.get('type')!r} is no detector; there are MaskRCNN and Mask2Former")
        yield from _below(section, section, "", {key: each for key, each in value.items() if key != "type"})
    else:
        yield from _below(section, section, "", value)


def _inside(section: str, place: str, key: Any, value: Any) -> Iterator[Problem]:
    """Yield what is wrong with one key of a dict, which is at `place`."""
    name, parent = f"{place}.{key}", re.sub(r"\[\d+\]$", "", place).rpartition(".")[2]
    if not str(key).isprintable() or set("'\"\\") & set(str(key)):
        yield Problem(place, f"the key {key!r} has quotes, backslashes or control characters")
    elif key == "_scope_":
        if value != "mmdet":  # bases of MMDetection's package have it
            yield Problem(name, f"{value!r} must be 'mmdet': names are looked up there")
    elif key in _TYPE_KEYS:
        if not _is_known(section, parent, key, value):
            yield Problem(name, f"{value!r} is no registered part of a detector ({_expected(section, parent)})")
    else:
        yield from _below(section, name, str(key), value)


def _below(section: str, place: str, key: str, value: Any) -> Iterator[Problem]:
    """Yield what is wrong with a value, which is at `place`, under a key."""
    if isinstance(value, Mapping):
        for inner, each in value.items():
            yield from _inside(section, place, inner, each)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _below(section, f"{place}[{index}]", key, each)
    elif isinstance(value, str):
        if key not in _PATH_KEYS and _DOTTED_NAME.fullmatch(value) and value not in registered_parts(section):
            yield Problem(place, f"{value!r} reads as a name in a Python module, and is no registered one")
    elif isinstance(value, int | float) and value > MOST_LAYERS and _LAYER_COUNT.search(key):
        yield Problem(place, f"is more than {MOST_LAYERS:,} layers: building them would take for ever")
    elif not isinstance(value, int | float | None):
        yield Problem(place, f"must be text, a number, a list or a dict, not {type(value).__name__}")


def _is_known(section: str, parent: str, key: str, value: Any) -> bool:
    if not isinstance(value, str):
        return value is None and key != "type"
    if key == "padding_mode" and value in _PADDINGS:
        return True
    return value in _NAMES_BY_PARENT.get(parent, registered_parts(section))


def _expected(section: str, parent: str) -> str:
    names = _NAMES_BY_PARENT.get(parent)
    if names is not None:
        return f"one of {', '.join(sorted(names))}"
    return (
        f"a name in {' or '.join(_REGISTRIES[section])} of MMDetection" if _REGISTRIES[section] else "it has no types"
    )


@cache
def registered_parts(section: str) -> frozenset[str]:
    """Return the names of the parts that a key of a detector may name, as MMDetection's scope finds them."""
    import mmdet.registry as of_mmdet
    import mmengine.registry as of_mmengine

    import pipeline.detection.registered  # noqa: F401  registers every class
    import pipeline.detection.registry as ours

    bare: dict[str, type] = {}
    scoped: dict[str, type] = {}
    for name in _REGISTRIES[section]:
        for module in (of_mmengine, of_mmdet, ours):
            registry = getattr(module, name, None)
            if registry is None:
                continue
            registry.import_from_location()
            scoped |= {f"{registry.scope}.{key}": part for key, part in registry.module_dict.items()}
            if module is not ours:  # MMDetection's own replace MMEngine's of the same name
                bare |= registry.module_dict
    return frozenset(name for name, part in (bare | scoped).items() if _is_part(part.__module__))


def _is_part(module: str) -> bool:
    return f"{module}.".startswith(_HOMES) and not f"{module}.".startswith(_NO_PARTS)
