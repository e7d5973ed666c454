"""What enters which fingerprint: for every key of the schema, exactly the stages that it makes run again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.refinement.presets import REFINE_PRESETS
from pipeline.refinement.settings import AFTER_SAM
from pipeline.workflow.describe import keys_of, path_format, properties_of
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.fingerprint import differences
from pipeline.workflow.graph import STAGES, downstream, fingerprints, plan

NOTHING: frozenset[str] = frozenset()
REPORT = frozenset({"report"})
EVALUATE = REPORT | {"evaluate"}
STUDENT = EVALUATE | {"train-student"}
AUGMENT = STUDENT | {"augment"}
REFINE = AUGMENT | {"refine"}
PREDICT = REFINE | {"predict"}
TEACHER = PREDICT | {"train-teacher"}
DISTILL = TEACHER | {"distill"}
ADAPT_FOR_REFINE = REFINE | {"adapt"}
ALL = DISTILL | {"split"}

POOL = {"annotated": {"annotations": "a.json", "images": "i"}, "percent": 10.0}
LISTED = {"annotated": POOL["annotated"], "labelled_list": "list.txt"}
SETS = {
    "labelled": {"annotations": "l.json", "images": "i"},
    "unlabelled": {"annotations": "u.json", "images": "u"},
    "validation": {"annotations": "v.json", "images": "i"},
}

# Every key that holds a value: another value for it, and the nodes whose results that changes.
SETTINGS: dict[str, tuple[object, frozenset[str]]] = {
    "name": ("other", NOTHING),
    "store": ("elsewhere", NOTHING),
    "data.percent": (20.0, ALL),
    "data.seed": (1, ALL),
    "sam.model": ("vit_b", DISTILL),
    "sam.input_side": (256, DISTILL),
    "adapt.enabled": (True, REFINE),
    "adapt.for_distillation": (True, NOTHING),  # these are of no use while it is not enabled
    "adapt.train": ("all", NOTHING),
    "adapt.iterations": (10, NOTHING),
    "adapt.batch_images": (2, NOTHING),
    "adapt.instances": (3, NOTHING),
    "adapt.learning_rate": (1e-4, NOTHING),
    "adapt.encoder_rate": (0.5, NOTHING),
    "adapt.folds": (4, NOTHING),
    "adapt.seed": (1, NOTHING),
    "distill.source": ("truth", DISTILL),
    "distill.prompt": ("point-and-box", DISTILL),
    "distill.anchors": (64, DISTILL),
    "distill.inside": ("by-instance", DISTILL),
    "distill.cell_px": (4.0, DISTILL),
    "distill.inside_share": (0.25, DISTILL),
    "distill.seed": (1, DISTILL),
    "teacher.iterations": (10, TEACHER),
    "teacher.batch_size": (2, TEACHER),
    "teacher.learning_rate": (0.1, TEACHER),
    "teacher.crop_px": (64, TEACHER),
    "teacher.repeat_threshold": (10.0, TEACHER),
    "teacher.labelled_distortion": (0.5, TEACHER),
    "teacher.seed": (1, TEACHER),
    "teacher.overrides": ({"model.neck": None}, TEACHER),
    "teacher.distillation_weight": (0.5, TEACHER),
    "teacher.distillation_anchors": (64, TEACHER),
    "teacher.held_out": (0.2, TEACHER),
    "predict.score_threshold": (0.5, PREDICT),
    "predict.threshold": ("per-class", PREDICT),
    "predict.lowest_threshold": (0.2, PREDICT),
    "predict.highest_threshold": (0.8, PREDICT),
    "predict.mask_threshold": (0.5, PREDICT),
    "predict.max_instances": (10, PREDICT),
    "predict.flip_test": (True, PREDICT),
    "refine.preset": ("samrefiner", NOTHING),  # what it fills in counts, under its own keys
    "refine.points": (5, REFINE),
    "refine.center_point": (True, REFINE),
    "refine.background_point": (True, REFINE),
    "refine.box": ("tight", REFINE),
    "refine.box_margin": (0.2, REFINE),
    "refine.mask_prompt": (False, REFINE),
    "refine.passes": (2, REFINE),
    "refine.choice": ("agreement", REFINE),
    "refine.smoothing_cells": (1.0, REFINE),
    "refine.largest_component": (False, REFINE),
    "refine.fill_holes": (True, REFINE),
    "refine.separate": (True, REFINE),
    "refine.separate_by": ("product", REFINE),
    "refine.gate": ("none", REFINE),
    "refine.min_agreement": (0.6, REFINE),
    "refine.min_predicted_iou": (0.6, REFINE),
    "refine.min_stability": (0.6, REFINE),
    "refine.max_area_change": (2.0, REFINE),
    "refine.drop_below_agreement": (0.1, REFINE),
    "refine.zoom_below_px": (16, REFINE),
    "refine.seed": (1, REFINE),
    "augment.mode": ("none", STUDENT),
    "augment.views": (True, STUDENT),
    "augment.copies": (2, AUGMENT),
    "augment.placement": ("moved", AUGMENT),
    "augment.scale": ([0.5, 2.0], AUGMENT),
    "augment.partners": ("labelled-too", AUGMENT),
    "augment.decisions": (["sam", "teacher"], AUGMENT),
    "augment.min_score": (0.8, AUGMENT),
    "augment.min_area_px": (32.0, AUGMENT),
    "augment.min_area_share": (0.01, AUGMENT),
    "augment.min_visible_share": (0.2, AUGMENT),
    "augment.edge_blend_px": (1.0, AUGMENT),
    "augment.seed": (1, AUGMENT),
    "student.iterations": (10, STUDENT),
    "student.batch_size": (2, STUDENT),
    "student.learning_rate": (0.1, STUDENT),
    "student.crop_px": (64, STUDENT),
    "student.seed": (1, STUDENT),
    "student.overrides": ({"model.neck": None}, STUDENT),
    "student.start": ("scratch", STUDENT),
    "student.unlabelled_batch_size": (2, STUDENT),
    "student.repeat_threshold": (10.0, STUDENT),
    "student.labelled_distortion": (0.5, STUDENT),
    "student.mixture.pseudo": (2.0, STUDENT),
    "student.mixture.composites": (2.0, STUDENT),
    "student.pseudo_weight": (1.0, STUDENT),
    "student.instance_weight": ("class", STUDENT),
    "student.ignore_dropped": (False, STUDENT),
    "student.ema_momentum": (0.1, STUDENT),
    "student.uncertain_pixel_weight": (0.5, REFINE),
    "student.class_check": ("correct", PREDICT),
    "student.class_neighbours": (5, PREDICT),
    "student.class_agreement": (0.6, AUGMENT),
    "student.finetune_iterations": (10, STUDENT),
    "student.finetune_rate": (0.5, STUDENT),
    "student.jitter": (0.1, STUDENT),
    "student.grey": (0.1, STUDENT),
    "student.blur": (0.1, STUDENT),
    "student.rounds": (2, EVALUATE),  # the first round stays as it is; the second is new
    "evaluate.max_detections": (10, EVALUATE),
    "evaluate.boundary": (False, EVALUATE),
    "report.gallery": (3, REPORT),
    "compute.workers": (7, NOTHING),
    "compute.scheduler": ("tcp://host:8786", NOTHING),
    "compute.device": ("cpu", NOTHING),
    "compute.precision": ("bf16", NOTHING),
    "compute.gpus": (8, NOTHING),
    "compute.nodes": (2, NOTHING),
    "compute.node_rank": (1, NOTHING),
    "compute.master": ("host:29500", NOTHING),
    "compute.batch_parts": (2, NOTHING),
    "compute.batch_images": (2, NOTHING),
    "compute.compile": (True, NOTHING),
    "compute.failed_share": (0.5, NOTHING),
    "compute.cache_embeddings": (True, NOTHING),
    "compute.loader_workers": (4, NOTHING),
    "compute.checkpoint_every": (7, NOTHING),
    "compute.logger": ("wandb", NOTHING),
}

# Every key that leads to content: the nodes whose results a change of that content changes.
POOL_CONTENTS: dict[str, frozenset[str]] = {
    "data.annotated.annotations": ALL,
    "data.annotated.images": DISTILL,
    "sam.checkpoint": DISTILL,
    "teacher.detector": TEACHER,
    "teacher.init_weights": TEACHER,
    "student.detector": STUDENT,
    "predict.results": PREDICT,
    "evaluate.cityscapes": EVALUATE,
}
LIST_CONTENTS: dict[str, frozenset[str]] = {"data.labelled_list": ALL}
SETS_CONTENTS: dict[str, frozenset[str]] = {
    "data.labelled.annotations": ALL,
    "data.labelled.images": ALL,  # copies of them are not unlabelled
    "data.unlabelled.annotations": EVALUATE | {"split"},  # truth: measured with, never learned from
    "data.unlabelled.images": PREDICT | {"split"},
    "data.validation.annotations": EVALUATE | {"split"},
    "data.validation.images": EVALUATE,
}
ADAPT = {"enabled": True}

BY_SHAPE = ((POOL, POOL_CONTENTS), (LISTED, LIST_CONTENTS), (SETS, SETS_CONTENTS))
CONTENTS = POOL_CONTENTS | LIST_CONTENTS | SETS_CONTENTS
PER_CLASS = {"predict": {"threshold": "per-class"}}
BESIDE: dict[str, dict[str, object]] = {
    "augment.views": {"augment": {"mode": "on-the-fly"}},
    "student.class_neighbours": {"student": {"class_check": "flag"}},
    "student.class_agreement": {"student": {"class_check": "drop"}},
    "student.finetune_rate": {"student": {"finetune_iterations": 5}},
    "predict.lowest_threshold": PER_CLASS,
    "predict.highest_threshold": PER_CLASS,
    "compute.nodes": {"compute": {"master": "host:29500"}},
    "compute.node_rank": {"compute": {"nodes": 2, "master": "host:29500"}},
}
"""What a key needs beside it."""


def experiment(data: dict[str, object] = POOL, **sections: object) -> Experiment:
    return Experiment.model_validate({"name": "x", "data": data, **sections}, strict=False)


def changed_value(before: Experiment, key: str, value: object) -> Experiment:
    content = before.model_dump()
    *sections, leaf = key.split(".")
    target = content
    for section in sections:
        target = target[section]
    target[leaf] = value
    return Experiment.model_validate(content, strict=False)


def ids(of: Experiment, contents: dict[str, str] | None = None) -> dict[str, str]:
    return {key: made.id for key, made in fingerprints(plan(of), contents or {}).items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {key for key in before if key in after and before[key] != after[key]}


def leaves() -> set[str]:
    return {key for key, schema in keys_of(Experiment).items() if not properties_of(schema)}


def test_every_key_of_the_schema_is_tested():
    paths = {key for key, schema in keys_of(Experiment).items() if path_format(schema) not in (None, "path")}
    assert set(SETTINGS) == leaves() - paths
    assert set(CONTENTS) == paths


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_changes_exactly_the_stages_downstream_of_it(key):
    value, expected = SETTINGS[key]
    before = experiment(**BESIDE.get(key, {}))
    assert changed(ids(before), ids(changed_value(before, key, value))) == expected


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_that_is_put_back_changes_nothing(key):
    value, _ = SETTINGS[key]
    before = experiment(**BESIDE.get(key, {}))
    there = changed_value(before, key, value)
    original = before
    for name in key.split("."):
        original = getattr(original, name)
    assert ids(changed_value(there, key, original)) == ids(before)


@pytest.mark.parametrize(("key", "data"), [(key, data) for data, keys in BY_SHAPE for key in keys])
def test_content_changes_exactly_the_stages_downstream_of_it(key, data):
    expected = CONTENTS[key]
    given = experiment(
        data,
        # Those that have a default in another key's content are given, so that they matter.
        student={"detector": "s.py"} if key == "student.detector" else {},
        predict={"results": "r.json"} if key == "predict.results" else {},
    )
    assert changed(ids(given, {key: "one"}), ids(given, {key: "two"})) == expected


def test_validation_images_are_left_out_of_a_folder_of_unlabelled_images():
    folder = experiment(SETS | {"unlabelled": {"images": "u"}})
    one, two = (ids(folder, {"data.validation.images": content}) for content in ("one", "two"))
    assert changed(one, two) == PREDICT | {"split"}


def test_another_split_changes_what_learns_from_unlabelled_images_of_two_sets_alone(monkeypatch):
    before = {"pool": ids(experiment(POOL)), "sets": ids(experiment(SETS))}
    monkeypatch.setitem(STAGES, "split", replace(STAGES["split"], version=99))
    assert changed(before["pool"], ids(experiment(POOL))) == {"split", "report"}
    assert changed(before["sets"], ids(experiment(SETS))) == PREDICT | {"split"}


def test_keys_that_are_not_used_change_nothing():
    for section, key, value, used in (
        ("predict", "lowest_threshold", 0.1, {"threshold": "per-class"}),
        ("predict", "highest_threshold", 0.9, {"threshold": "per-class"}),
        ("predict", "score_threshold", 0.1, {"threshold": "fixed"}),
        ("student", "finetune_rate", 0.5, {"finetune_iterations": 5}),
        ("student", "class_neighbours", 5, {"class_check": "flag"}),
        ("student", "class_agreement", 0.6, {"class_check": "flag"}),
    ):
        unused = {"threshold": "per-class"} if used == {"threshold": "fixed"} else {}
        before, after = (ids(experiment(**{section: {**unused, **given}})) for given in ({}, {key: value}))
        assert not changed(before, after), key


def test_what_is_off_has_no_part_in_a_fingerprint():
    settings = {key for node in plan(experiment()).values() for key in node.settings}
    assert not settings & {"predict.threshold", "predict.lowest_threshold", "predict.highest_threshold"}
    assert not settings & {"student.finetune_iterations", "student.finetune_rate"}
    assert not [key for key in settings if key.startswith(("student.class_", "student.uncertain"))]


def test_labels_note_uncertain_pixels_whatever_their_weight_is():
    half, none, off = (ids(experiment(student={"uncertain_pixel_weight": weight})) for weight in (0.5, 0.0, 1.0))
    assert changed(half, none) == STUDENT
    assert changed(half, off) == REFINE
    mirrored = {"predict": {"flip_test": True}}
    half, off = (ids(experiment(student={"uncertain_pixel_weight": weight}, **mirrored)) for weight in (0.5, 1.0))
    assert changed(half, off) == PREDICT
    alone = {"refine": {"gate": "teacher"}}
    half, off = (ids(experiment(student={"uncertain_pixel_weight": weight}, **alone)) for weight in (0.5, 1.0))
    assert changed(half, off) == STUDENT


def test_what_is_done_about_doubted_classes_changes_no_labels():
    made = {
        action: ids(experiment(student={"class_check": action})) for action in ("flag", "weight", "correct", "drop")
    }
    for key, different in (("predict", 1), ("refine", 1), ("augment", 3), ("train-student", 4)):
        assert len({of[key] for of in made.values()}) == different, key
    one, two = (ids(experiment(student={"class_check": "flag", "class_agreement": share})) for share in (0.6, 0.7))
    assert changed(one, two) == {"evaluate", "report"}


def test_labelled_images_decide_about_thresholds_of_labels_from_a_file():
    given = experiment(SETS, predict={"results": "r.json"}, student={"start": "scratch"})
    chosen = changed_value(given, "predict.threshold", "per-class")
    one, two = {"data.labelled.annotations": "one"}, {"data.labelled.annotations": "two"}
    assert "predict" not in changed(ids(given, one), ids(given, two))
    assert "predict" in changed(ids(chosen, one), ids(chosen, two))


def test_paths_enter_no_fingerprint():
    here = experiment(
        SETS,
        teacher={"detector": "a/d.py", "init_weights": "a/w"},
        student={"detector": "a/s.py"},
        sam={"checkpoint": "a/c"},
    )
    there = experiment(
        {name: {key: f"b/{path}" for key, path in paths.items()} for name, paths in SETS.items()},
        teacher={"detector": "b/d.py", "init_weights": "b/w"},
        student={"detector": "b/s.py"},
        sam={"checkpoint": "b/c"},
    )
    assert ids(here) == ids(there)
    texts = [made.text for made in fingerprints(plan(here), {}).values()]
    assert not any("a/" in text or "l.json" in text for text in texts)


def test_the_truth_of_unlabelled_images_reaches_only_what_measures():
    one, two = ({"data.unlabelled.annotations": digest} for digest in ("one", "two"))
    given = experiment(
        SETS, augment={"partners": "labelled-too"}, refine={"gate": "calibrated"}, teacher={"held_out": 0.2}
    )
    learns = {"distill", "train-teacher", "predict", "refine", "augment", "train-student"}
    assert not changed(ids(given, one), ids(given, two)) & learns


def test_a_preset_is_only_a_shorthand():
    spelt_out = experiment(refine={"preset": "best", **REFINE_PRESETS["s4m"]})
    named = experiment(refine={"preset": "s4m"})
    assert ids(spelt_out) == ids(named)


def test_without_distillation_the_teacher_does_not_wait_for_it():
    without = experiment(teacher={"distillation_weight": 0.0})
    assert plan(without)["distill"].skipped == "teacher.distillation_weight is 0"
    assert "distill" not in plan(without)["train-teacher"].reads
    assert changed(ids(without), ids(changed_value(without, "distill.anchors", 64))) == NOTHING


def test_composites_made_while_training_matter_to_the_student():
    on_the_fly = experiment(augment={"mode": "on-the-fly"})
    assert plan(on_the_fly)["augment"].skipped == "augment.mode is on-the-fly"
    assert changed(ids(on_the_fly), ids(changed_value(on_the_fly, "augment.seed", 3))) == STUDENT


def test_composites_of_whole_images_are_those_of_before_there_were_views():
    for mode in ("materialised", "on-the-fly"):
        nodes = plan(experiment(augment={"mode": mode}))
        assert not any("augment.views" in node.settings for node in nodes.values())


def test_imported_labels_need_no_teacher():
    nodes = plan(experiment(predict={"results": "r.json"}, student={"start": "scratch"}))
    assert nodes["train-teacher"].skipped
    assert nodes["distill"].skipped
    assert nodes["predict"].reads == ("split",)
    warm = plan(experiment(predict={"results": "r.json"}))
    assert not warm["train-teacher"].skipped
    assert warm["predict"].reads == ("split",)


def test_imported_labels_are_brought_in_again_when_other_images_are_labelled():
    given = experiment(SETS, predict={"results": "r.json"}, student={"start": "scratch"})
    one, two = ({"data.labelled.images": digest} for digest in ("one", "two"))
    assert changed(ids(given, one), ids(given, two)) >= PREDICT
    one, two = ({"data.labelled.annotations": digest} for digest in ("one", "two"))
    assert not changed(ids(given, one), ids(given, two)) & {"predict", "refine"}


def test_a_student_of_the_first_round_is_the_teacher_of_the_second():
    nodes = plan(experiment(student={"rounds": 2}))
    assert nodes["predict-2"].reads == ("split", "train-student")
    assert nodes["train-student-2"].reads == ("split", "refine-2", "augment-2", "train-student")
    assert nodes["evaluate"].reads[-1] == "train-student-2"


def test_nodes_come_in_an_order_in_which_they_can_run():
    for given in (experiment(), experiment(SETS, student={"rounds": 3})):
        seen: set[str] = set()
        for node in plan(given).values():
            assert set(node.reads) <= seen
            assert set(node.made_from) <= set(node.reads)
            seen.add(node.key)


def test_what_a_stage_holds_back():
    nodes = plan(experiment())
    assert downstream(nodes, "augment") == ["train-student", "evaluate", "report"]
    assert downstream(nodes, "report") == []
    assert set(downstream(nodes, "split")) == set(STAGES) - {"split", "adapt"}
    assert downstream(plan(experiment(adapt=ADAPT)), "adapt")[0] == "refine"


def test_differences_say_what_changed():
    contents = {"sam.checkpoint": "one"}
    before = fingerprints(plan(experiment()), contents)["refine"]
    after = changed_value(changed_value(experiment(), "refine.points", 5), "predict.flip_test", True)
    new = fingerprints(plan(after), {"sam.checkpoint": "two"})["refine"]
    assert differences(before.to_dict(), new) == [
        ("refine.points changed from 3 to 5", ""),
        ("content of sam.checkpoint changed", ""),
        ("predict changed", "predict"),
    ]
    assert differences(before.to_dict(), before) == []


def test_a_fingerprint_holds_no_path_of_this_machine():
    texts = [made.text for made in fingerprints(plan(experiment()), {}).values()]
    assert not any(str(Path.cwd()) in text for text in texts)


def test_without_rounds_there_is_a_teacher_and_no_student():
    nodes = plan(experiment(student={"rounds": 0}))
    assert list(nodes) == ["split", "adapt", "distill", "train-teacher", "evaluate", "report"]
    assert nodes["evaluate"].reads == ("split", "train-teacher")


def test_the_size_of_the_unlabelled_batch_counts_not_how_it_is_written():
    student = {"batch_size": 6}
    null, same, other = (
        ids(experiment(student=student | {"unlabelled_batch_size": size}), {}) for size in (None, 6, 5)
    )
    assert changed(null, same) == set()
    assert changed(null, other) == STUDENT


def test_without_unlabelled_images_no_composites_are_made():
    student = {"unlabelled_batch_size": 0}
    assert plan(experiment(student=student))["augment"].skipped == (
        "student.mixture.composites or student.unlabelled_batch_size is 0"
    )
    on_the_fly = [
        ids(experiment(student=student, augment={"mode": "on-the-fly", "copies": copies})) for copies in (1, 2)
    ]
    assert on_the_fly[0]["train-student"] == on_the_fly[1]["train-student"]


def test_a_sam_that_is_not_adapted_leaves_every_fingerprint_as_it_was():
    nodes = plan(experiment())
    assert nodes["adapt"].skipped == "adapt.enabled is false"
    assert not any("adapt" in (*node.reads, *node.made_from) for node in nodes.values())
    made = fingerprints(nodes, dict.fromkeys(CONTENTS, "content"))
    assert not [key for key, fingerprint in made.items() if "adapt" in fingerprint.text]


@pytest.mark.parametrize("key", [key for key in SETTINGS if key.startswith("adapt.")])
def test_a_setting_of_the_adaptation_changes_what_is_refined_with_it(key):
    value, _ = SETTINGS[key]
    before = experiment(adapt=ADAPT)
    expected = {"adapt.enabled": NOTHING, "adapt.for_distillation": DISTILL}.get(key, ADAPT_FOR_REFINE)
    assert changed(ids(before), ids(changed_value(before, key, value))) == expected


@pytest.mark.parametrize("key", [key for key in SETTINGS if key.startswith("refine.")])
def test_prompts_change_the_adapted_sam_and_what_comes_after_sam_does_not(key):
    value, _ = SETTINGS[key]
    before = experiment(adapt=ADAPT)
    after = key.removeprefix("refine.") in (*AFTER_SAM, "preset", "seed")
    assert ("adapt" in changed(ids(before), ids(changed_value(before, key, value)))) is not after


def test_a_sam_is_not_adapted_to_the_images_that_a_gate_is_fitted_on():
    for gate, matters in {"calibrated": True, "fixed": False}.items():
        few, many = (
            experiment(adapt=ADAPT, refine={"gate": gate}, teacher={"held_out": share}) for share in (0.2, 0.4)
        )
        assert ("adapt" in changed(ids(few), ids(many))) is matters


def test_labels_and_weights_change_the_adapted_sam():
    for key in ("data.annotated.annotations", "data.annotated.images", "sam.checkpoint"):
        assert changed(ids(experiment(adapt=ADAPT), {key: "one"}), ids(experiment(adapt=ADAPT), {key: "two"})) >= {
            "adapt"
        }
    one, two = ({"data.unlabelled.images": digest} for digest in ("one", "two"))
    assert "adapt" not in changed(ids(experiment(SETS, adapt=ADAPT), one), ids(experiment(SETS, adapt=ADAPT), two))


def test_sam_is_adapted_before_distillation_where_that_is_asked_for():
    nodes = plan(experiment(adapt=ADAPT | {"for_distillation": True}))
    assert nodes["distill"].made_from == nodes["distill"].reads[1:] == ("adapt",)
    assert nodes["refine"].reads == ("split", "adapt", "predict")
    assert plan(experiment(adapt=ADAPT))["distill"].reads == ("split",)


@pytest.mark.parametrize("sections", [{"refine": {"gate": "teacher"}}, {"student": {"rounds": 0}}])
def test_sam_is_not_adapted_where_nothing_would_use_it(sections):
    nodes = plan(experiment(adapt=ADAPT, **sections))
    assert nodes["adapt"].skipped == "no stage uses SAM with adapted weights"
    nodes = plan(experiment(adapt=ADAPT | {"for_distillation": True}, **sections))
    assert not nodes["adapt"].skipped
    assert "adapt" in nodes["distill"].reads
    assert "refine" not in nodes or "adapt" not in nodes["refine"].made_from


def test_sams_of_both_libraries_are_adapted():
    names = [plan(experiment(adapt=ADAPT, sam={"model": f"hf:{name}"}))["adapt"] for name in ("one", "two")]
    assert not any(node.skipped for node in names)
    assert [node.settings["sam.model"] for node in names] == ["hf", "hf"]  # the content of the folder tells them apart
