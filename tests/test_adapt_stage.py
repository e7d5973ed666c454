"""The stage `adapt` and `s4m sam adapt`, whole, on tiny images with few steps."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.adaptation import adapting
from pipeline.adaptation.card import read_adaptation, report_lines
from pipeline.adaptation.fitting import Fitting
from pipeline.adaptation.guard import WhoseWeights
from pipeline.adaptation.labelled import UsableImages
from pipeline.adaptation.measuring import Marks
from pipeline.compute.execution import TooManyFailedError
from pipeline.compute.settings import ComputeSettings
from pipeline.datasets.held_out import held_out_ids
from pipeline.errors import StageError, StoreError
from pipeline.refinement import refine_work
from pipeline.sam.adapted import CARD
from pipeline.sam.build import build_sam, read_state
from pipeline.sam.files import ADAPTED_WEIGHTS
from pipeline.structure import distill_work
from pipeline.workflow.loading import load_experiment
from stages.options import workspace
from stages.runner import run_stage
from tests.tiny_coco import tiny_coco
from tests.tiny_experiment import make_experiment_files
from tests.tiny_refinement import box_mask, make_refinement, result

QUICK = (
    "adapt.enabled=true",
    "adapt.iterations=2",
    "adapt.batch_images=1",
    "adapt.instances=2",
    "adapt.folds=2",
    "sam.input_side=64",
)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))


@pytest.fixture
def chosen(monkeypatch):
    """Has the guard choose these weights, whatever a SAM does on held-out images: that is not measured."""

    def choose(weights: WhoseWeights) -> None:
        monkeypatch.setattr(adapting, "choose_weights", lambda _: weights)
        monkeypatch.setattr(adapting, "examine", lambda *_: Marks((0,), (0.5,), (0.6,)))

    return choose


@pytest.fixture
def without_folds(monkeypatch):
    """Leaves out the trainings of the folds."""
    marks = {str(weights): Marks((0,), (0.5,), (0.6,)) for weights in WhoseWeights}
    monkeypatch.setattr(adapting._Adapting, "_fold", lambda *_: marks)


def adapt(path: Path, *overrides: str) -> Path:
    """Run the stage; return its result."""
    experiment = load_experiment(path, [*QUICK, *overrides])
    for stage in ("split", "adapt"):
        run_stage(experiment, stage, 1)
    return workspace(experiment).result("adapt")


@pytest.mark.slow
def test_the_result_says_what_was_tried_and_holds_tensors_alone(tmp_path, capsys):
    folder = adapt(make_experiment_files(tmp_path))
    assert {path.name for path in folder.iterdir()} == {CARD, ADAPTED_WEIGHTS, "seal.json", "files.json"}
    card = read_adaptation(folder)
    assert (card.model, card.input_side, card.trained, card.images, card.folds) == ("sam_tiny", 64, "all", 3, 2)
    assert [each.instances for each in card.results] == [9, 9, 9]
    assert card.results[0].teacher < card.results[1].teacher < card.results[2].teacher
    assert set(card.results[0].refined) == {"shipped", "half-way", "adapted"}
    told = capsys.readouterr()
    for line in report_lines(card):
        assert f"adapt: {line}" in told.err
    assert "adapt: fitting all of SAM to 3 images in 2 folds of 2 steps" in told.err
    assert f"images: 3, weights: {card.chosen}, gain in mask IoU: " in told.out


@pytest.mark.slow
def test_the_weights_are_those_that_were_chosen(tmp_path, chosen, without_folds):
    path = make_experiment_files(tmp_path)
    states = {}
    for weights in WhoseWeights:
        chosen(weights)
        states[weights] = read_state(adapt(path, f"store={tmp_path / weights}") / ADAPTED_WEIGHTS)
    own = build_sam("sam_tiny").state_dict()
    adapted = states[WhoseWeights.ADAPTED]
    changed = {name.partition(".")[0] for name in own if not torch.equal(own[name], adapted[name])}
    assert changed == {"image_encoder", "prompt_encoder", "mask_decoder"}
    for name, value in own.items():
        assert torch.equal(states[WhoseWeights.SHIPPED][name], value), name
        if value.is_floating_point():
            assert torch.allclose(states[WhoseWeights.HALF_WAY][name], (value + adapted[name]) / 2, atol=1e-6), name


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_next_fold(tmp_path, chosen, monkeypatch, capsys):
    chosen(WhoseWeights.ADAPTED)
    fitted: list[str] = []
    real = Fitting.run

    def run(self, checkpoint, say):
        if self._course.number == 2 and len(fitted) == 1:
            raise KeyboardInterrupt
        fitted.append(self._course.name)
        return real(self, checkpoint, say)

    monkeypatch.setattr(Fitting, "run", run)
    path = make_experiment_files(tmp_path)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        adapt(path)
    assert fitted == ["fold 1 of 2"]
    fitted.append("stopped")
    folder = adapt(path)
    assert fitted == ["fold 1 of 2", "stopped", "fold 2 of 2", "on all images"]
    stopped = read_state(folder / ADAPTED_WEIGHTS)
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "again"))
    whole = read_state(adapt(path) / ADAPTED_WEIGHTS)
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


@pytest.mark.slow
def test_the_encoder_can_stay_as_it_is(tmp_path, chosen, without_folds):
    chosen(WhoseWeights.ADAPTED)
    folder = adapt(make_experiment_files(tmp_path), "adapt.train=decoder")
    found, own = read_state(folder / ADAPTED_WEIGHTS), build_sam("sam_tiny").state_dict()
    changed = {name.partition(".")[0] for name in own if not torch.equal(own[name], found[name])}
    assert changed == {"prompt_encoder", "mask_decoder"}
    assert read_adaptation(folder).trained == "decoder"


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 0])
def test_with_one_labelled_image_sam_stays_and_it_says_so(tmp_path, images, capsys):
    tiny_coco(tmp_path, images=6)
    whole = json.loads((tmp_path / "annotations.json").read_text())
    labelled = whole | {
        "images": whole["images"][:2],
        "annotations": [each for each in whole["annotations"] if each["image_id"] <= images],
    }
    (tmp_path / "labelled.json").write_text(json.dumps(labelled))
    data = {
        "labelled": {"annotations": "labelled.json", "images": "images"},
        "unlabelled": {"annotations": "annotations.json", "images": "images"},
    }
    folder = adapt(make_experiment_files(tmp_path, {"data": data}))
    card = read_adaptation(folder)
    assert (card.chosen, card.results, card.images) == ("shipped", (), images)
    count = "is 1 labelled image" if images else "are 0 labelled images"
    assert f"adapt: shipped weights are used: there {count} with instances" in capsys.readouterr().err
    own, found = build_sam("sam_tiny").state_dict(), read_state(folder / ADAPTED_WEIGHTS)
    assert all(torch.equal(own[name], found[name]) for name in own)


@pytest.mark.slow
def test_an_image_that_cannot_be_read_is_left_out_and_named(tmp_path, capsys):
    path = make_experiment_files(tmp_path)
    experiment = load_experiment(path, QUICK)
    run_stage(experiment, "split", 1)
    labelled = json.loads((workspace(experiment).result("split") / "labelled.json").read_text())
    name = labelled["images"][0]["file_name"]
    (tmp_path / "images" / name).write_bytes(b"no image")
    folder = adapt(path)
    card = read_adaptation(folder)
    assert (card.images, list(card.failures)) == (2, [name])
    told = capsys.readouterr()
    assert f"adapt: {name} is not used: " in told.err
    assert "images: 2, failed: 1, weights: " in told.out
    for each in (tmp_path / "images").iterdir():
        each.write_bytes(b"no image")
    with pytest.raises(StageError, match="adapt: 3 of 3 images cannot be used so far") as raised:
        adapt(path)
    assert isinstance(raised.value.__cause__, TooManyFailedError)


def test_images_that_a_gate_is_fitted_on_are_left_out(tmp_path):
    data = tiny_coco(tmp_path, images=10)
    found = UsableImages.read(data.annotations, data.image_root, ComputeSettings(), 0, held_out=0.3)
    held_out = held_out_ids(range(1, 11), 0.3)
    assert len(held_out) == 3
    assert set(found.image_ids) == set(range(1, 11)) - held_out


def test_folds_hold_every_image_out_once(tmp_path):
    data = tiny_coco(tmp_path, images=7)
    found = UsableImages.read(data.annotations, data.image_root, ComputeSettings(), 0)
    folds = found.folds(3)
    assert sorted(len(fold) for fold in folds) == [2, 2, 3]
    assert sorted(image_id for fold in folds for image_id in fold) == list(range(1, 8))
    for fold in folds:
        assert set(found.without(fold)) == set(found.image_ids) - set(fold)
    assert len(found.folds(20)) == 7


def test_a_card_of_something_else_is_refused(tmp_path):
    (tmp_path / CARD).write_text('{"model": "sam_tiny", "chosen": "adapted"}')
    with pytest.raises(StoreError, match="not a card of a fitted SAM that can be read"):
        read_adaptation(tmp_path)


# What uses the result


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "uses"), [(WhoseWeights.ADAPTED, True), (WhoseWeights.SHIPPED, False)])
def test_refinement_uses_the_weights_unless_they_are_its_own(
    tmp_path, chosen, without_folds, monkeypatch, weights, uses
):
    chosen(weights)
    seen = []
    real = refine_work.build_engine
    monkeypatch.setattr(refine_work, "build_engine", lambda sam: seen.append(sam) or real(sam))
    path = make_refinement(tmp_path, [result(1, box_mask(5, 5, 40, 30))])
    folder = adapt(path)
    experiment = load_experiment(path, [*QUICK, "compute.cache_embeddings=true"])
    for stage in ("predict", "refine"):
        run_stage(experiment, stage, 1)
    (sam,) = set(seen)
    assert sam.checkpoint == ((folder / ADAPTED_WEIGHTS).absolute() if uses else None)
    upstream = json.loads((workspace(experiment).result("refine") / "seal.json").read_text())["fingerprint"]["upstream"]
    assert upstream["adapt"] == folder.name


@pytest.mark.slow
def test_distillation_uses_the_weights_where_that_is_asked_for(tmp_path, chosen, without_folds, monkeypatch):
    chosen(WhoseWeights.ADAPTED)
    seen = []
    real = distill_work.build_engine
    monkeypatch.setattr(distill_work, "build_engine", lambda sam: seen.append(sam.checkpoint) or real(sam))
    path = make_experiment_files(tmp_path)
    overrides = [*QUICK, "distill.anchors=4", "adapt.for_distillation=true"]
    folder = adapt(path, *overrides)
    run_stage(load_experiment(path, overrides), "distill", 1)
    assert set(seen) == {(folder / ADAPTED_WEIGHTS).absolute()}
    seen.clear()
    run_stage(load_experiment(path, [*overrides, "adapt.for_distillation=false"]), "distill", 1)
    assert set(seen) == {None}


# Without an experiment


@pytest.fixture
def sam_adapt(s4m, tmp_path):
    tiny_coco(tmp_path, images=3)
    settings = [part for each in QUICK[1:] for part in ("--set", each)]
    return partial(s4m, "sam", "adapt", "annotations.json", "images", *settings)


@pytest.mark.slow
def test_a_sam_is_fitted_without_an_experiment_and_refines_a_file(
    sam_adapt, s4m, tmp_path, chosen, without_folds, monkeypatch
):
    chosen(WhoseWeights.ADAPTED)
    told = sam_adapt("out")
    assert told.status == 0, told.err
    assert "adapted weights are used: " in told.out
    assert told.out.endswith("Use it as --sam out\n")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {CARD, ADAPTED_WEIGHTS}
    assert not (tmp_path / ".out.adapting").exists()
    seen = []
    real = refine_work.build_engine
    monkeypatch.setattr(refine_work, "build_engine", lambda sam: seen.append(sam) or real(sam))
    refined = s4m("refine-coco", "annotations.json", "images", "refined.json", "--sam", "out")
    assert refined.status == 0, refined.err
    assert {(sam.checkpoint, sam.input_side) for sam in seen} == {(tmp_path / "out" / ADAPTED_WEIGHTS, 64)}
    both = s4m("refine-coco", "annotations.json", "images", "x.json", "--sam", "out", "--checkpoint", "y.pth")
    assert "out has weights of its own: leave this out" in " ".join(both.err.split())


@pytest.mark.slow
def test_a_stopped_command_goes_on(sam_adapt, tmp_path, monkeypatch, chosen):
    chosen(WhoseWeights.ADAPTED)
    real, fitted = Fitting.run, []

    def run(self, checkpoint, say):
        fitted.append(self._course.number)
        if fitted == [1, 2]:
            raise KeyboardInterrupt
        return real(self, checkpoint, say)

    monkeypatch.setattr(Fitting, "run", run)
    assert sam_adapt("out").status != 0
    assert not (tmp_path / "out").exists()
    assert sam_adapt("out").status == 0
    assert fitted == [1, 2, 2, 0]
    assert "already there and was left alone" in sam_adapt("out").err


def test_a_sam_that_cannot_be_fitted_is_refused(sam_adapt, s4m):
    told = s4m("sam", "adapt", "annotations.json", "images", "out", "--sam", "hf:somewhere")
    assert "hf:somewhere cannot be fitted to labels: somewhere: no such folder" in told.err
    told = s4m("sam", "adapt", "annotations.json", "nowhere", "out")
    assert "no such folder: nowhere" in " ".join(told.err.split())
    told = s4m("sam", "adapt", "annotations.json", "images", "out", "--set", "adapt.steps=3")
    assert "adapt.steps (set over the file): unknown key" in told.err
