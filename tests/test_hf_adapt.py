"""SAMs of transformers fitted to labels: what is trained, what is published, and what uses it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra hf: make setup EXTRAS=hf")

import s4m as public
from pipeline.adaptation import adapting
from pipeline.adaptation import fitting as fitting_module
from pipeline.adaptation.adapting import AdaptTask, adapt_sam
from pipeline.adaptation.card import read_adaptation
from pipeline.adaptation.encoding import EncodedOnce
from pipeline.adaptation.fitting import Course, Fitting
from pipeline.adaptation.guard import WhoseWeights, choose_weights, pooled_gain
from pipeline.adaptation.labelled import UsableImages
from pipeline.adaptation.measuring import Marks
from pipeline.adaptation.settings import AdaptSettings
from pipeline.compute.execution import Execution
from pipeline.compute.settings import ComputeSettings
from pipeline.errors import S4MError, StageError
from pipeline.refinement import on_arrays, refine_work
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.adapted import CARD, read_adapted_sam, settings_of, with_adapted
from pipeline.sam.hf.folder import WEIGHTS
from pipeline.sam.hf.learner import HfLearner
from pipeline.sam.hf.loading import load_hf_sam
from pipeline.sam.settings import SamSettings
from pipeline.sam.worker import build_engine
from pipeline.structure import distill_work
from pipeline.workflow.loading import load_experiment
from stages.options import workspace
from stages.runner import run_stage
from tests import tiny_sams
from tests.one_lesson import losses_of_one_lesson
from tests.test_hf_loading import whole_sam_3
from tests.test_sam_engine import random_images, random_prompt
from tests.tiny_coco import tiny_coco
from tests.tiny_experiment import make_experiment_files
from tests.tiny_refinement import box_mask, make_refinement, result

FAMILIES = tuple(tiny_sams.BUILDERS)
REFINE = RefineSettings(zoom_below_px=0)
ADAPT = AdaptSettings(iterations=3, batch_images=1, instances=2, folds=2)
FILES = {CARD, WEIGHTS, "config.json", "preprocessor_config.json"}


def ignore(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sams")
    return cache(lambda family: tiny_sams.save(family, root / family))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_coco(tmp_path_factory.mktemp("labelled"), images=3)


@pytest.fixture(scope="module")
def labelled(data):
    return UsableImages.read(data.annotations, data.image_root, ComputeSettings(), 0)


@pytest.fixture
def learner(folders):
    return lambda family: HfLearner(load_hf_sam(folders(family)), folders(family))


@pytest.fixture(autouse=True)
def one_engine_for_each_test():
    threads = torch.get_num_threads()
    yield
    build_engine.cache_clear()
    torch.set_num_threads(threads)


def fitting(sam, labelled, frozen=None, adapt=ADAPT):
    return Fitting(sam, labelled, Course("tried", 1, labelled.image_ids, 0.8), REFINE, adapt, frozen)


def frozen_of(sam):
    return EncodedOnce(sam.engine(sam.module.state_dict(), "fp32"))


def changed(before, after) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


# Asked with gradients


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_learner_answers_as_its_engine_does(learner, family):
    sam = learner(family)
    engine = sam.engine(sam.module.state_dict(), "fp32")
    image = random_images(1)[1]
    with torch.no_grad():
        found, expected = sam.encode(image), engine.encode([image])
        assert found.image_hw == expected.image_hw
        for one, other in zip((found.features, *found.finer), (expected.features, *expected.finer), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        rng = np.random.default_rng(0)
        for form in ("1", "3", "0b", "0m", "2bm"):
            prompts = [random_prompt(rng, form, image.shape[:2], sam.frame.lowres_side) for _ in range(3)]
            logits, ious = sam.decode(found, prompts)
            for row, candidates in enumerate(engine.decode(expected, [0] * 3, prompts)):
                np.testing.assert_allclose(logits[row], candidates.mask_logits_lowres, rtol=0, atol=1e-4)
                np.testing.assert_allclose(ious[row], candidates.predicted_iou, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_are_what_gradients_reach(learner, family):
    """Where the encoder stays as it is, nothing may change that takes part in encoding: images are encoded once."""
    sam = learner(family)
    image = random_images(1)[1]
    for parameter in sam.module.parameters():
        parameter.requires_grad_(True)

    def reached():
        names = {name for name, value in sam.module.named_parameters() if value.grad is not None}
        sam.module.zero_grad(set_to_none=True)
        return names

    embeddings = sam.encode(image)
    sum(each.sum() for each in (embeddings.features, *embeddings.finer)).backward()
    encoding = reached()
    assert {sam.part_of(name) for name in encoding} == {"encoder"}
    constant = replace(
        embeddings, features=embeddings.features.detach(), finer=tuple(each.detach() for each in embeddings.finer)
    )
    prompt = random_prompt(np.random.default_rng(0), "2bm", image.shape[:2], sam.frame.lowres_side)
    logits, ious = sam.decode(constant, [prompt])
    (logits.sum() + ious.sum()).backward()
    decoding = reached()
    assert {sam.part_of(name) for name in decoding} <= {"decoder", None}
    assert {name.partition(".")[0] for name in decoding} >= {"prompt_encoder", "mask_decoder"}
    for name, value in sam.module.named_parameters():
        if sam.part_of(name) is None:
            assert name.endswith("positional_embedding") and value.shape[0] == 2


# Fitting


@pytest.mark.slow
@pytest.mark.parametrize("with_encoder", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_lesson_is_learned(labelled, learner, family, with_encoder):
    """The same lesson again and again: the loss must fall."""
    sam = learner(family)
    adapt = ADAPT.model_copy(update={"learning_rate": 3e-3})
    pupil = fitting(sam, labelled, None if with_encoder else frozen_of(sam), adapt)
    for group in pupil._optimizer.param_groups:
        group["lr"] = group["peak_lr"]
    losses = losses_of_one_lesson(pupil, labelled, sam.frame, REFINE, steps=12)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("with_encoder", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_trained_changes_and_nothing_else(labelled, learner, tmp_path, family, with_encoder):
    sam = learner(family)
    before = {name: value.clone() for name, value in sam.module.state_dict().items()}
    pupil = fitting(sam, labelled, None if with_encoder else frozen_of(sam))
    after = pupil.run(tmp_path / "checkpoint", ignore)
    assert not changed(before, sam.module.state_dict())  # the SAM that was given stays
    assert all(value.isfinite().all() for value in after.values())
    trained = changed(before, after)
    assert {sam.part_of(name) for name in trained} == ({"encoder", "decoder"} if with_encoder else {"decoder"})
    buffers = {name for name, _ in sam.module.named_buffers()}
    norms = {
        f"{name}.{part}"
        for name, module in sam.module.named_modules()
        if type(module).__name__.endswith(("LayerNorm", "BatchNorm2d"))
        for part in ("weight", "bias")
    }
    assert norms & before.keys()
    assert not trained & (norms | buffers)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sam2", "sam_hq"])
def test_a_frozen_encoder_encodes_each_view_once(labelled, learner, tmp_path, monkeypatch, family):
    monkeypatch.setattr(fitting_module, "VARIANTS", 1)
    sam = learner(family)
    frozen = frozen_of(sam)
    seen, encode = [], frozen._encode
    frozen._encode = lambda images: seen.append(images[0].tobytes()) or encode(images)
    fitting(sam, labelled, frozen, ADAPT.model_copy(update={"iterations": 9})).run(tmp_path / "c", ignore)
    assert 0 < len(seen) == len(set(seen)) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_stopped_training_goes_on_to_the_same_weights(labelled, learner, tmp_path, monkeypatch, family):
    monkeypatch.setattr(fitting_module, "CHECKPOINT_EVERY", 2)
    sam = learner(family)
    whole = fitting(sam, labelled).run(tmp_path / "whole", ignore)
    stopped = fitting(sam, labelled)
    save = stopped._save

    def stop(path):
        save(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(stopped, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(tmp_path / "stopped", ignore)
    told: list[str] = []
    again = fitting(sam, labelled).run(tmp_path / "stopped", told.append)
    assert told[0] == "adapt: tried, continuing after step 2"
    assert not changed(whole, again)


# What is published


def different(sam):
    """Other weights for a SAM, as a training would have made them."""
    trained = {name for name, _ in sam.module.named_parameters() if sam.part_of(name) is not None}
    return {name: value + 1 if name in trained else value for name, value in sam.module.state_dict().items()}


def published(folder, tmp_path):
    sam = HfLearner(load_hf_sam(folder), folder)
    state = different(sam)
    sam.publish(state, tmp_path / "out")
    found = load_hf_sam(tmp_path / "out").model.state_dict()
    assert found.keys() == state.keys()
    assert not changed(state, found)
    assert changed(sam.module.state_dict(), found)
    return tmp_path / "out"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_published_folder_has_the_weights_and_the_configs(folders, tmp_path, family):
    out = published(folders(family), tmp_path)
    assert {path.name for path in out.iterdir()} == FILES - {CARD}
    for path in out.glob("*.json"):
        assert path.read_bytes() == (folders(family) / path.name).read_bytes()


@pytest.mark.slow
def test_models_in_the_layouts_of_their_publishers(folders, tmp_path):
    """A SAM 2 for videos, the config of a whole processor, and the tracker in a whole SAM 3."""
    videos = shutil.copytree(folders("sam2"), tmp_path / "videos")
    config = json.loads((videos / "config.json").read_text())
    (videos / "config.json").write_text(json.dumps({**config, "model_type": "sam2_video"}))
    (videos / "preprocessor_config.json").unlink()
    builder = tiny_sams.BUILDERS["sam2"]
    builder.processor(builder.image_processor()).save_pretrained(videos)
    out = published(videos, tmp_path / "first")
    assert {path.name for path in out.iterdir()} == {"config.json", "processor_config.json", WEIGHTS}
    published(whole_sam_3(folders("sam3_tracker"), tmp_path / "whole"), tmp_path / "second")


# The whole stage


QUICK = (
    "adapt.enabled=true",
    "adapt.iterations=2",
    "adapt.batch_images=1",
    "adapt.instances=2",
    "adapt.folds=2",
    "refine.zoom_below_px=0",
)


@pytest.fixture
def stores(tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))


@pytest.fixture
def without_folds(monkeypatch):
    """Leaves out the trainings of the folds, and has the fitted weights chosen."""
    marks = {str(weights): Marks((0,), (0.5,), (0.6,)) for weights in WhoseWeights}
    monkeypatch.setattr(adapting._Adapting, "_fold", lambda *_: marks)
    monkeypatch.setattr(adapting, "choose_weights", lambda _: WhoseWeights.ADAPTED)


def run(path, *stages_and_overrides):
    stages = [each for each in stages_and_overrides if "=" not in each]
    experiment = load_experiment(path, [*QUICK, *(each for each in stages_and_overrides if "=" in each)])
    for stage in stages:
        run_stage(experiment, stage, 1)
    return workspace(experiment)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_stage_fits_and_refinement_uses_the_weights(
    tmp_path, folders, stores, without_folds, monkeypatch, family, capsys
):
    seen = []
    real = refine_work.build_engine
    monkeypatch.setattr(refine_work, "build_engine", lambda sam: seen.append(sam.model) or real(sam))
    path = make_refinement(tmp_path, [result(1, box_mask(5, 5, 40, 30))])
    folder = run(path, "split", "adapt", "predict", "refine", f"sam.model=hf:{folders(family)}").result("adapt")
    assert {path.name for path in folder.iterdir()} == FILES | {"seal.json", "files.json"}
    assert set(seen) == {f"hf:{folder.absolute()}"}
    card = read_adaptation(folder)
    assert (card.model, card.chosen, card.trained) == (f"hf:{folders(family)}", "adapted", "decoder")
    sam = HfLearner(load_hf_sam(folders(family)), folders(family))
    found = load_hf_sam(folder).model.state_dict()
    assert {sam.part_of(name) for name in changed(sam.module.state_dict(), found)} == {"decoder"}
    assert "adapt: fitting SAM without its image encoder to 6 images in 2 folds of 2 steps" in capsys.readouterr().err


@pytest.mark.slow
def test_all_of_it_is_fitted_and_distillation_uses_the_weights(tmp_path, folders, stores, without_folds, monkeypatch):
    seen = []
    real = distill_work.build_engine
    monkeypatch.setattr(distill_work, "build_engine", lambda sam: seen.append(sam.model) or real(sam))
    overrides = [f"sam.model=hf:{folders('sam2')}", "adapt.train=all", "adapt.for_distillation=true"]
    path = make_experiment_files(tmp_path)
    folder = run(path, "split", "adapt", "distill", *overrides, "distill.anchors=4").result("adapt")
    assert set(seen) == {f"hf:{folder.absolute()}"}
    found, own = (load_hf_sam(each).model.state_dict() for each in (folder, folders("sam2")))
    assert {name.partition(".")[0] for name in changed(own, found)} >= {"vision_encoder", "mask_decoder"}
    assert read_adaptation(folder).trained == "all"


def adapted(folder, data, out, **settings):
    """Fit the SAM of a folder, with folds and guard; return the card."""
    adapt = ADAPT.model_copy(update=settings)
    task = AdaptTask(data.annotations, data.image_root, SamSettings(model=f"hf:{folder}"), REFINE, adapt)
    return adapt_sam(task, out, Execution(ComputeSettings(device="cpu"), say=ignore))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_guard_measures_held_out_labels(data, folders, tmp_path, family):
    card = adapted(folders(family), data, tmp_path / "out", iterations=4, learning_rate=0.1)
    assert [each.instances for each in card.results] == [9, 9, 9]
    assert all(len(set(each.refined.values())) == 3 for each in card.results)  # three SAMs were asked
    assert card.chosen == str(choose_weights(card.results))
    found, own = (load_hf_sam(each).model.state_dict() for each in (tmp_path / "out", folders(family)))
    assert bool(changed(own, found)) is (card.chosen != "shipped")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_several_passes_and_embeddings_made_in_bf16(data, folders, tmp_path, family):
    refine = RefineSettings(passes=2, mask_prompt=False, zoom_below_px=0)
    task = AdaptTask(data.annotations, data.image_root, SamSettings(model=f"hf:{folders(family)}"), refine, ADAPT)
    execution = Execution(ComputeSettings(device="cpu", precision="bf16"), say=ignore)
    card = adapt_sam(task, tmp_path / "out", execution)
    assert all(0 < value < 1 for each in card.results for value in each.refined.values())
    state = load_hf_sam(tmp_path / "out").model.state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}


@pytest.mark.slow
def test_random_weights_get_better_by_far_on_images_that_were_held_out(folders, tmp_path):
    data = tiny_coco(tmp_path, images=4)
    card = adapted(folders("edgetam"), data, tmp_path / "out", iterations=25, learning_rate=3e-3)
    assert card.chosen != "shipped"
    assert pooled_gain(card.results, WhoseWeights(card.chosen)) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("marks", "expected"), [((0.7, 0.65), "adapted"), ((0.4, 0.65), "half-way"), ((0.4, 0.3), "shipped")]
)
def test_the_weights_are_those_that_did_best(data, folders, tmp_path, monkeypatch, marks, expected):
    """Marks by the weights of the engine that is examined: 0.6 for those before, then the adapted and the mean."""
    name = "mask_decoder.iou_token.weight"
    own = load_hf_sam(folders("sam2")).model.state_dict()[name]
    last = {"shipped": own}
    fit = adapting._Adapting._fit

    def fitted(self, course):
        state = fit(self, course)
        last.update({"adapted": state[name], "half-way": (own + state[name]) / 2})
        return state

    def examine(exams, engine, refine):
        value = engine.decode.__self__._model.state_dict()[name]
        (whose,) = (each for each, weights in last.items() if torch.equal(value, weights))
        return Marks((0,), (0.5,), ({"shipped": 0.6, "adapted": marks[0], "half-way": marks[1]}[whose],))

    monkeypatch.setattr(adapting._Adapting, "_fit", fitted)
    monkeypatch.setattr(adapting, "examine", examine)
    card = adapted(folders("sam2"), data, tmp_path / "out")
    assert card.chosen == expected
    assert torch.equal(load_hf_sam(tmp_path / "out").model.state_dict()[name], last[expected])
    sam = SamSettings(model=f"hf:{folders('sam2')}")
    uses = sam.model if expected == "shipped" else f"hf:{tmp_path / 'out'}"
    assert with_adapted(sam, tmp_path / "out").model == uses


# Without an experiment


@pytest.mark.slow
def test_a_fitted_folder_refines_a_file_and_an_array(s4m, tmp_path, folders, without_folds, monkeypatch):
    tiny_coco(tmp_path, images=3)
    settings = [part for each in QUICK[1:] for part in ("--set", each)]
    command = partial(s4m, "sam", "adapt", "annotations.json", "images", "out", *settings)
    told = command("--sam", f"hf:{folders('sam2')}")
    assert told.status == 0, told.err
    assert told.out.endswith("Use it as --sam out\n")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    seen = []
    for module in (refine_work, on_arrays):
        monkeypatch.setattr(
            module, "build_engine", lambda sam, real=module.build_engine: seen.append(sam.model) or real(sam)
        )
    refined = s4m("refine-coco", "annotations.json", "images", "refined.json", "--sam", "out")
    assert refined.status == 0, refined.err
    as_model = s4m("refine-coco", "annotations.json", "images", "again.json", "--sam", f"hf:{tmp_path / 'out'}")
    assert as_model.status == 0, as_model.err
    assert (tmp_path / "refined.json").read_bytes() == (tmp_path / "again.json").read_bytes()
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:30, 10:30] = True
    public.refine(np.zeros((40, 40, 3), np.uint8), mask, sam=tmp_path / "out", device="cpu")
    assert len(seen) >= 3
    assert set(seen) == {f"hf:{tmp_path / 'out'}"}
    both = s4m("refine-coco", "annotations.json", "images", "x.json", "--sam", "out", "--checkpoint", "y.pth")
    assert "out has weights of its own: leave this out" in " ".join(both.err.split())


@pytest.mark.slow
def test_the_result_does_not_depend_on_where_the_base_was(data, folders, tmp_path, without_folds):
    """Its folder is a SAM by itself: the folder that it was made from may go."""
    base = shutil.copytree(folders("sam2"), tmp_path / "base")
    adapted(base, data, tmp_path / "out")
    shutil.rmtree(base)
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    assert settings_of(moved).model == f"hf:{moved}"
    load_hf_sam(moved)


# Refusing


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "clip"}, "model_type is clip, which is no SAM that can be asked about single images"),
        ({"model_type": "sam2", "auto_map": {"AutoModel": "mine.py"}}, "auto_map is refused"),
        (None, "no config.json"),
    ],
)
def test_a_model_that_cannot_be_fitted_is_refused_before_anything_is_read(s4m, tmp_path, config, message):
    tiny_coco(tmp_path, images=1)
    (tmp_path / "mine").mkdir()
    if config is not None:
        (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    task = AdaptTask(
        tmp_path / "none.json", tmp_path, SamSettings(model=f"hf:{tmp_path / 'mine'}"), REFINE, AdaptSettings()
    )
    with pytest.raises(StageError, match=rf"hf:.*mine cannot be fitted to labels: .*{message}"):
        adapt_sam(task, tmp_path / "out", Execution(ComputeSettings(), say=ignore))
    told = s4m("sam", "adapt", "annotations.json", "images", "out", "--sam", "hf:mine")
    assert told.status != 0
    assert f"hf:mine cannot be fitted to labels: {'mine' if config is None else 'mine/config.json'}: " in " ".join(
        told.err.split()
    )
    assert not (tmp_path / "out").exists()


def test_a_card_whose_folder_lost_its_model_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders("sam2"), tmp_path / "mine")
    (folder / CARD).write_text(json.dumps({"model": "hf:elsewhere", "chosen": "adapted"}))
    assert read_adapted_sam(folder).is_changed
    (folder / WEIGHTS).unlink()
    with pytest.raises(S4MError, match=r"names a SAM that cannot be used: hf:elsewhere \(.*no model.safetensors"):
        settings_of(folder)
