"""What the report says of models: detections, confusions, intervals, trainings too short to measure; and its size."""

from __future__ import annotations

import base64
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from pipeline.datasets.lists import VALIDATION
from pipeline.evaluation.results import ModelResult
from pipeline.labels.dataset_rows import dataset_rows
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import Status
from pipeline.refinement.effect import Effect
from pipeline.report.inline_images import PANEL_BYTES, WHOLE_IMAGE_BYTES, inline
from pipeline.report.tables import confusion_table
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.workspace import Workspace
from tests.test_report_page import Page, write_report
from tests.tiny_experiment import POOL, make_experiment_files
from tests.tiny_results import TinyResults, make_results, replace_evaluation


@pytest.fixture
def space(tmp_path, monkeypatch) -> Workspace:
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    return Workspace(load_experiment(make_experiment_files(tmp_path)), tmp_path / "work")


def with_validation(folder: Path, monkeypatch) -> tuple[Workspace, TinyResults]:
    """An experiment with validation images: in the first the student finds everything, in the others nothing."""
    monkeypatch.setenv("S4M_STORE", str(folder / "stores"))
    validation = {"annotations": "annotations.json", "images": "images"}
    made = make_experiment_files(folder, {"data": POOL | {"validation": validation}})
    space = Workspace(load_experiment(made), folder / "work")
    results = make_results(space, folder / "annotations.json")
    shutil.copy(folder / "annotations.json", results.folders["split"] / VALIDATION)
    rows = list(dataset_rows(results.truth))
    rows = [rows[0], *(replace(each, instances=(), status=Status.EMPTY) for each in rows[1:])]
    store = results.folders["evaluate"] / "predictions/train-student/labels.zarr"
    shutil.rmtree(store)
    write_label_store(store, rows, results.truth.categories, {})
    return space, results


def page_of(space: Workspace, results: TinyResults, folder: Path, models: tuple[ModelResult, ...]) -> str:
    """The text of the page with other figures of the models."""
    replace_evaluation(results, msgspec.structs.replace(results.evaluation, models=models))
    return Page(write_report(space, results, folder / "out", gallery=0)).text


@pytest.mark.slow
def test_detections_are_shown_with_misses_and_false_finds(tmp_path, monkeypatch):
    space, results = with_validation(tmp_path, monkeypatch)
    page = Page(write_report(space, results, tmp_path / "out", gallery=3))
    assert "Detections of the student" in page.text
    assert page.text.count("3 errors 0 right · 3 missed") == 2
    assert page.text.index("3 errors 0 right") < page.text.index("0 errors 3 right")  # the worst first
    assert "Confusions of the student" in page.text


@pytest.mark.parametrize("most_bytes", [PANEL_BYTES, WHOLE_IMAGE_BYTES])
def test_an_image_keeps_to_its_bytes_whatever_it_shows(most_bytes):
    """Noise compresses worst."""
    noise = np.random.default_rng(0).integers(0, 255, (360, 480, 3), dtype=np.uint8)
    image = inline(noise, "noise", most_bytes)
    content = base64.b64decode(image.uri.partition(",")[2])
    assert 0.5 * most_bytes < len(content) <= most_bytes
    assert (image.width, image.height) == (480, 360)


@pytest.mark.slow
def test_a_page_with_24_images_in_each_gallery_stays_under_5_mb(tmp_path, monkeypatch):
    space, results = with_validation(tmp_path, monkeypatch)
    html = write_report(space, results, tmp_path / "out", gallery=2)
    images = Page(html).all("img")
    pairs, whole = 3 * 2 * 2, 2 * 2  # improved, harmed, disagreements; composites, detections
    assert len(images) == pairs + whole
    text = len(html.encode()) - sum(len(image["src"] or "") for image in images)
    most = 24 / 2 * (pairs * PANEL_BYTES + whole * WHOLE_IMAGE_BYTES) * 4 / 3
    captions = 24 / 2 * text / 10  # a tenth of the text without images is captions, at most
    assert text + most + captions < 5e6


@pytest.mark.slow
@pytest.mark.parametrize("chance", [False, True])
def test_few_images_give_an_interval_and_a_gain_that_may_be_chance_is_said(space, tmp_path, chance):
    results = make_results(space, tmp_path / "annotations.json")
    aps = np.linspace(0.25, 0.35, 41)
    drawn = (aps, (aps[::-1] if chance else aps) + 0.04)
    models = tuple(
        msgspec.structs.replace(model, resampled_ap=tuple(each.tolist()))
        for model, each in zip(results.evaluation.models, drawn, strict=True)
    )
    text = page_of(space, results, tmp_path, models)
    assert "measured on 6 images; 95 % of redrawn image sets give 29.2 to 38.7; 1 unreadable, counted as missed" in text
    assert "25.2 to 34.8" in text  # the teacher's, in the table
    said = "On only 6 images that may be chance: 95 % of redrawn image sets give −5.5 to +13.5."
    assert (said in text) == chance


def test_models_that_learnt_nothing_are_not_compared(space, tmp_path):
    results = make_results(space, tmp_path / "annotations.json")
    models = tuple(
        msgspec.structs.replace(each, iterations=10, mask=msgspec.structs.replace(each.mask, ap=ap))
        for each, ap in zip(results.evaluation.models, (0.004, 0.001), strict=True)
    )
    text = page_of(space, results, tmp_path, models)
    assert "A training of 10 iterations is too short for a detector to learn anything" in text
    assert "falls behind" not in text
    assert "after 10 iterations: too few to measure" in text


def test_a_short_training_that_learnt_something_is_measured(space, tmp_path):
    results = make_results(space, tmp_path / "annotations.json")
    models = tuple(msgspec.structs.replace(each, iterations=10) for each in results.evaluation.models)
    assert "beats its teacher" in page_of(space, results, tmp_path, models)


def test_of_many_classes_those_with_confusions_are_shown(space, tmp_path):
    model, classes = make_results(space, tmp_path / "annotations.json").evaluation.models[0], 20
    category = model.categories[0]
    named = tuple(msgspec.structs.replace(category, category_id=key, name=f"class {key}") for key in range(classes))
    counts = np.zeros((classes + 1, classes + 1), int)
    counts[17, 19], counts[17, 17], counts[3, -1] = 5, 15, 2
    confusion = msgspec.structs.replace(model.confusion, counts=tuple(map(tuple, counts.tolist())))
    table = confusion_table(msgspec.structs.replace(model, categories=named, confusion=confusion))
    assert (table.left_out, len(table.columns)) == (8, 13)
    assert {"class 17", "class 19", "missed"} <= set(table.columns)
    row = dict(table.rows)["class 17"]
    assert row[table.columns.index("class 17")] == (15, 0.75)
    assert row[table.columns.index("class 19")] == (5, 0.25)


def test_refinement_that_looks_like_harm_is_told(space, tmp_path, monkeypatch):
    results = make_results(space, tmp_path / "annotations.json")
    assert "Refinement may have done harm" not in page_of(space, results, tmp_path, results.evaluation.models)
    monkeypatch.setattr(Effect, "of_figures", lambda summary: Effect(0.41, 100, 43, 1.04, 1.2))
    text = page_of(space, results, tmp_path, results.evaluation.models)
    assert "Refinement may have done harm SAM's masks agree little with the teacher's: their mean IoU is 0.41" in text
    assert "43 of 100 masks from SAM are changed beyond recognition" in text
