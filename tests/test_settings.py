"""Settings that are made in Python: right by construction, and the same as from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from pipeline.augment.settings import AugmentSettings
from pipeline.datasets.settings import AnnotatedSet, ListedData, PairedData, PercentData, UnlabelledSet
from pipeline.detection.settings import MixtureSettings, PredictSettings, StudentSettings, TeacherSettings
from pipeline.errors import ExperimentError
from pipeline.refinement.presets import REFINE_PRESETS
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.settings import SamSettings
from pipeline.settings import ConfigMarker, FileMarker, FolderMarker, named_paths
from pipeline.workflow.experiment import AnnotateOnly, Experiment, RefineOnly
from pipeline.workflow.loading import load_experiment, refine_only

POOL = AnnotatedSet(annotations=Path("a.json"), images=Path("i"))
PERCENT = PercentData(annotated=POOL, percent=10)


def errors(caught: pytest.ExceptionInfo[ValidationError]) -> dict[str, str]:
    return {".".join(map(str, item["loc"])): item["msg"] for item in caught.value.errors()}


def test_without_a_preset_the_values_are_those_of_the_best():
    assert RefineSettings() == RefineSettings(preset="best")
    best = RefineSettings()
    assert (best.points, best.box, best.mask_prompt, best.passes, best.choice) == (3, "elastic", True, 1, "product")
    assert (best.largest_component, best.zoom_below_px, best.gate) == (True, 32, "fixed")


def test_the_papers_preset_is_three_points_and_the_highest_predicted_iou():
    paper = RefineSettings(preset="s4m")
    assert (paper.points, paper.box, paper.mask_prompt, paper.passes, paper.choice) == (
        3, "none", False, 1, "predicted_iou",
    )  # fmt: skip
    assert (paper.largest_component, paper.zoom_below_px, paper.gate) == (False, 0, "none")


def test_the_preset_of_samrefiner_is_all_prompts_but_random_points_twice():
    refiner = RefineSettings(preset="samrefiner")
    assert (refiner.points, refiner.center_point, refiner.background_point) == (0, True, True)
    assert (refiner.box, refiner.mask_prompt, refiner.passes, refiner.choice) == ("elastic", True, 2, "predicted_iou")
    assert (refiner.largest_component, refiner.zoom_below_px, refiner.gate) == (False, 0, "none")


def test_every_preset_can_be_named():
    assert set(get_args(RefineSettings.model_fields["preset"].annotation)) == set(REFINE_PRESETS)


@pytest.mark.parametrize("preset", REFINE_PRESETS)
def test_a_key_that_is_given_wins_over_the_preset_and_survives_a_dump(preset):
    refine = RefineSettings(preset=preset, box="tight", gate="fixed", zoom_below_px=7)
    assert (refine.box, refine.gate, refine.zoom_below_px) == ("tight", "fixed", 7)
    assert RefineSettings.model_validate(refine.model_dump()) == refine
    assert RefineSettings.model_validate_json(refine.model_dump_json()) == refine


@pytest.mark.parametrize(
    ("make", "key", "message"),
    [
        (lambda: AugmentSettings(scale=(2, 1)), "scale", "given [2.0, 1.0]; expected the smaller number first"),
        (
            lambda: MixtureSettings(pseudo=0, composites=0),
            "",
            "both amounts are 0; to train without them set student.unlabelled_batch_size to 0",
        ),
        (
            lambda: StudentSettings(batch_size=0),
            "batch_size",
            "there are no images in a step; raise batch_size or unlabelled_batch_size",
        ),
        (
            lambda: StudentSettings(batch_size=0, unlabelled_batch_size=2, finetune_iterations=5),
            "finetune_iterations",
            "needs labelled images in every step, and batch_size is 0; raise it",
        ),
        (
            lambda: PredictSettings(lowest_threshold=0.8, highest_threshold=0.5),
            "lowest_threshold",
            "is 0.8, above highest_threshold (0.5); change one of them",
        ),
        (
            lambda: Experiment(
                name="x",
                data=PERCENT,
                predict=PredictSettings(results=Path("r.json")),
                student=StudentSettings(class_check="drop"),
            ),
            "student.class_check",
            "needs a teacher of this experiment, whose features it compares, but predict.results is given",
        ),
        (
            lambda: AnnotateOnly(predict=PredictSettings(threshold="per-class")),
            "predict.threshold",
            "per-class needs the labelled images of an experiment; use fixed",
        ),
        (lambda: RefineSettings(preset="s4m", points=0), "", "no prompt for SAM; give points, center_point, box or"),
        (
            lambda: SamSettings(model="vit_b", input_side=256),
            "input_side",
            "only sam_tiny takes other sizes, sam.model is vit_b",
        ),
        (
            lambda: Experiment(name="x", data=PERCENT, refine=RefineSettings(gate="calibrated")),
            "refine.gate",
            "calibrated needs labelled images to be fitted on; set teacher.held_out",
        ),
        (
            lambda: Experiment(
                name="x",
                data=PERCENT,
                teacher=TeacherSettings(held_out=0.2),
                predict=PredictSettings(results=Path("r.json")),
                refine=RefineSettings(gate="calibrated"),
            ),
            "refine.gate",
            "calibrated needs a teacher of this experiment, but predict.results is given",
        ),
        (
            lambda: RefineOnly(refine=RefineSettings(gate="calibrated")),
            "refine.gate",
            "calibrated needs an experiment with a teacher; use none or fixed",
        ),
        (
            lambda: RefineOnly(refine=RefineSettings(gate="teacher")),
            "refine.gate",
            "teacher keeps every mask as it is, and SAM has nothing to do",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused_in_python(make, key, message):
    with pytest.raises(ValidationError) as caught:
        make()
    ((where, told),) = errors(caught).items()
    assert where == key
    assert told.startswith(message)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"labelled": POOL},
        {"annotated": POOL},
        {"annotated": POOL, "percent": 10, "unlabelled": UnlabelledSet(images=Path("u"))},
        {"annotated": POOL, "percent": 10, "labelled_list": Path("list.txt")},
        {"labelled": POOL, "unlabelled": UnlabelledSet(images=Path("u")), "percent": 10},
        POOL,
        5,
    ],
)
def test_images_in_no_shape_are_refused_in_python(data: Any):
    with pytest.raises(ValidationError):
        Experiment(name="x", data=data)


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ({"labelled": POOL, "unlabelled": UnlabelledSet(images=Path("u"))}, PairedData),
        ({"annotated": POOL, "percent": 5}, PercentData),
        ({"annotated": POOL, "labelled_list": Path("list.txt")}, ListedData),
    ],
)
def test_the_keys_of_data_decide_its_shape(given, shape):
    made = Experiment(name="x", data=given)
    assert made.data == Experiment(name="x", data=shape(**given)).data == shape(**given)
    assert made.data.labelled_source == POOL


def test_a_copy_is_checked_too():
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        RefineSettings().model_copy(update={"passes": 0})
    with pytest.raises(ValidationError, match="no prompt for SAM"):
        RefineSettings(preset="s4m").model_copy(update={"points": 0})
    # A copy keeps what its preset filled in.
    assert RefineSettings(preset="s4m").model_copy(update={"points": 5}) == RefineSettings(preset="s4m", points=5)


def test_an_experiment_in_python_is_the_one_of_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data:\n  annotated: {annotations: a.json, images: ~/i}\n  percent: 10\n"
        "refine: {preset: samrefiner, passes: 3}\naugment: {scale: [1, 2], decisions: [sam, teacher]}\n"
        "teacher: {overrides: {a.b: [1, 2]}}\nstudent: {mixture: {pseudo: 2}, detector: d.py}\nstore: s\n"
    )
    made = Experiment(
        name="mine",
        data=PercentData(annotated=AnnotatedSet(annotations=Path("a.json"), images=Path("~/i")), percent=10),
        refine=RefineSettings(preset="samrefiner", passes=3),
        augment=AugmentSettings(scale=(1, 2), decisions=("sam", "teacher")),
        teacher=TeacherSettings(overrides={"a.b": [1, 2]}),
        student=StudentSettings(mixture=MixtureSettings(pseudo=2), detector=Path("d.py")),
        store=Path("s"),
    )
    loaded = load_experiment(path, (), {}, check_files=False)
    assert loaded == made
    assert loaded.model_dump_json() == made.model_dump_json()
    assert made.data.labelled_source.images == Path.home() / "i"


def test_the_settings_of_a_refinement_alone_are_told_like_an_experiments():
    assert refine_only([]) == RefineOnly()
    given = refine_only(["refine.preset=s4m", "refine.points=7", "sam.model=vit_b", "sam.checkpoint=none.pth"])
    assert given == RefineOnly(
        refine=RefineSettings(preset="s4m", points=7), sam=SamSettings(model="vit_b", checkpoint=Path("none.pth"))
    )
    with pytest.raises(ExperimentError) as caught:
        refine_only(["teacher.iterations=5", "refine.passes=9", "refine.pionts=3"])
    assert [str(problem) for problem in caught.value.problems] == [
        "refine.passes (set over the file): given 9; expected a whole number from 1 to 8",
        "refine.pionts (set over the file): unknown key; did you mean refine.points?",
        "teacher: unknown key; known keys: sam, refine, compute",
    ]


def test_paths_are_found_by_what_they_lead_to():
    experiment = Experiment(name="x", data=ListedData(annotated=POOL, labelled_list=Path("l.txt")))
    found = {key: (str(path), type(marker)) for key, path, marker in named_paths(experiment)}
    assert found == {
        "data.annotated.annotations": ("a.json", FileMarker),
        "data.annotated.images": ("i", FolderMarker),
        "data.labelled_list": ("l.txt", FileMarker),
        "teacher.detector": ("configs/detectors/mask_rcnn_small.py", ConfigMarker),
    }
