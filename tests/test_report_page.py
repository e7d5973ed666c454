"""The report: everything in one file that is whole, says what was measured, and runs nothing of what data holds."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from pipeline.ablation.figures import Ablation, CellFigures, SeedFigures
from pipeline.ablation.writing import write_ablation
from pipeline.compute.execution import Execution
from pipeline.evaluation.measuring import main_figures
from pipeline.evaluation.results import CityscapesClass, CityscapesResult
from pipeline.report.gather import gather
from pipeline.report.measures import cityscapes_table, structure_table
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import REPORT
from pipeline.workflow.workspace import ABLATION_FIGURES, Workspace
from stages import report as stage
from stages.context import StageContext
from tests.tiny_coco import tiny_coco, write_json
from tests.tiny_experiment import make_experiment_files
from tests.tiny_results import FAILED_ID, UNREADABLE_ID, TinyResults, make_results, replace_evaluation, without

VOID = frozenset({"meta", "link", "img", "br", "input", "hr"})
HOSTILE_CLASSES = ("<script>alert(1)</script>", "\"><img src=x onerror='alert(2)'>")
HOSTILE_FILE = "a\"><svg onload=alert(3)>'&amp;{0}%s.png"


class Page(HTMLParser):
    """A page taken apart: every element with its attributes, and all text; elements must be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not (self.open and self.open[-1] in ("script", "style")):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def space(tmp_path, monkeypatch) -> Workspace:
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    return Workspace(load_experiment(make_experiment_files(tmp_path)), tmp_path / "work")


def write_report(
    space: Workspace, results: TinyResults, folder: Path, gallery: int = 2, ablation: Path | None = None
) -> str:
    """Run the stage as the runner does, on results that are there; two images of a kind are quickly made."""
    report = space.experiment.report.model_copy(update={"gallery": gallery})
    experiment = space.experiment.model_copy(update={"report": report})
    folder.mkdir(exist_ok=True)
    context = StageContext(
        experiment=experiment,
        node=space.nodes["report"],
        fingerprint={},
        folder=folder,
        results={key: path for key, path in results.folders.items() if key != "split"},
        split_folder=results.folders["split"],
        execution=Execution(experiment.compute),
        ablation=ablation,
    )
    stage.run(context)
    assert [path.name for path in folder.iterdir()] == [REPORT]
    return (folder / REPORT).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_says_what_was_measured_and_shows_it(space, tmp_path):
    results = make_results(space, tmp_path / "annotations.json")
    page = Page(write_report(space, results, tmp_path / "out", gallery=24))
    assert "The student beats its teacher by 4.4 points of mask AP, with 3 labelled images and 3 unlabelled." in (
        page.text
    )
    assert "29.4 → 33.8 +4.4" in page.text
    assert "0.712 → 0.777 +0.065" in page.text
    assert "a note" in page.text
    assert "1,000 iterations. 1 line of the log cannot be read." in page.text
    for key, folder in results.folders.items():
        assert f"{key} {folder.name}" in page.text  # the provenance of every result
    # Of 15 instances in five images: improved, harmed, disagreements (two of an image), and the composites.
    assert len(page.all("img")) == 2 * 6 + 2 * 6 + 2 * 10 + 5
    headings = [tag for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert headings.count("h1") == 1


@pytest.mark.slow
def test_features_are_compared_by_what_they_know_of_instances(space, tmp_path):
    results = make_results(space, tmp_path / "annotations.json")
    run = gather("x", space.nodes, results.folders)
    table = structure_table(run)
    assert table is not None
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["SAM's image embedding, without prompts", "0.822"],
        ["structural targets", "0.943"],
        ["the teacher's features", "0.871"],
    ]
    assert structure_table(gather("x", space.nodes, {})) is None


@pytest.mark.slow
def test_cityscapes_own_measure_is_shown_where_it_was_measured(space, tmp_path):
    results = make_results(space, tmp_path / "annotations.json")
    teacher, student = results.evaluation.models
    assert cityscapes_table((teacher, student)) is None
    classes = tuple(CityscapesClass(each.id, each.name, None, None) for each in results.truth.categories)
    measured = (
        msgspec.structs.replace(teacher, cityscapes=CityscapesResult(0.225, 0.4, classes)),
        msgspec.structs.replace(student, cityscapes=CityscapesResult(0.333, 0.5, classes)),
    )
    table = cityscapes_table(measured)
    assert table is not None
    assert [row[1].text for row in table.rows] == ["22.5", "33.3"]
    assert [column.name for column in table.columns][3:] == [each.name for each in results.truth.categories]
    assert main_figures(msgspec.structs.replace(results.evaluation, models=measured)).keys() >= {
        "teacher Cityscapes AP",
        "student Cityscapes AP",
    }
    replace_evaluation(results, msgspec.structs.replace(results.evaluation, models=measured))
    page = Page(write_report(space, results, tmp_path / "out"))
    assert "as cityscapesscripts computes it" in page.text
    assert "How well features tell instances apart" in page.text
    assert "0.871" in page.text


def test_the_ablation_is_shown_where_there_is_one(space, tmp_path):
    results = make_results(space, tmp_path / "annotations.json")
    seeds = tuple(SeedFigures(seed, "train-student", 0.4 + seed / 100, 0.7, 0.3, 0.1, 0.7, 0.8) for seed in (0, 1))
    cell = CellFigures("arp", "+ ARP & <b>", "composites", seeds, (2,), None, None)
    write_ablation(tmp_path / "ablation", Ablation("tiny", (), (0, 1, 2), (cell,), ()))
    page = Page(write_report(space, results, tmp_path / "out", ablation=tmp_path / "ablation" / ABLATION_FIGURES))
    assert "The parts of the method, switched on one by one." in page.text
    assert "40.5 ± 0.7" in page.text
    assert "+ ARP & <b> is not measured yet with seed 2." in page.text
    assert "#ablation" in [link.get("href") for link in page.all("a")]
    without = Page(write_report(space, results, tmp_path / "without"))
    assert "#ablation" not in [link.get("href") for link in without.all("a")]


def test_what_sam_learned_of_the_labels_is_shown_where_it_was_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    experiment = load_experiment(make_experiment_files(tmp_path), ["adapt.enabled=true"])
    space = Workspace(experiment, tmp_path / "work")
    results = make_results(space, tmp_path / "annotations.json")
    page = Page(write_report(space, results, tmp_path / "out"))
    assert "Adapted: +2.0 points of mask IoU (+4.0, 0.0 by teacher): safe." in page.text
    assert "Adapted weights are used: it gains <b>." in page.text
    assert "0.720 20 0.807 0.847 +0.040 0.828 +0.021" in page.text
    assert "#adaptation" in [link.get("href") for link in page.all("a")]
    without = Workspace(load_experiment(tmp_path / "tiny.yaml"), tmp_path / "work")
    folders = {key: path for key, path in results.folders.items() if key != "adapt"}
    page = Page(write_report(without, replace(results, folders=folders), tmp_path / "without"))
    assert "#adaptation" not in [link.get("href") for link in page.all("a")]


def test_the_page_is_one_file_and_needs_nothing_else(space, tmp_path):
    html = write_report(space, make_results(space, tmp_path / "annotations.json"), tmp_path / "out")
    page = Page(html)
    links = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "xlink:href", "action", "data")
    ]
    assert {link.split(":")[0] if link.startswith("data:") else link[0] for link in links} == {"data", "#"}
    assert "url(" not in html
    assert "@import" not in html
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link for link in links if link.startswith("#")} <= {f"#{each}" for each in ids}
    assert all(image["alt"] for image in page.all("img"))
    assert all(image["width"] and image["height"] for image in page.all("img"))
    assert all(chart["aria-label"] for chart in page.all("svg"))


def test_tables_can_be_sorted_by_what_their_cells_are_worth(space, tmp_path):
    page = Page(write_report(space, make_results(space, tmp_path / "annotations.json"), tmp_path / "out"))
    numbers = [float(cell["data-number"]) for cell in page.all("td") if "data-number" in cell]
    assert {0.294, 0.338} <= {round(number, 3) for number in numbers}
    assert all(header["data-first"] for header in page.all("th") if "data-first" in header)
    assert len([header for header in page.all("th") if "data-first" in header]) > 20


def hostile_files(folder: Path) -> None:
    """Annotations whose classes and file names are markup."""
    made = tiny_coco(folder, images=6)
    for category, name in zip(made.content["categories"], HOSTILE_CLASSES, strict=True):
        category["name"] = name
    named = made.content["images"][3]
    (made.image_root / named["file_name"]).rename(made.image_root / HOSTILE_FILE)
    named["file_name"] = HOSTILE_FILE
    write_json(made.annotations, made.content)


@pytest.mark.slow
def test_names_that_are_markup_stay_text(tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    hostile_files(tmp_path)
    space = Workspace(load_experiment(make_experiment_files(tmp_path)), tmp_path / "work")
    html = write_report(space, make_results(space, tmp_path / "annotations.json"), tmp_path / "out")
    page = Page(html)
    assert len(page.all("script")) == 1
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    for name in (*HOSTILE_CLASSES, HOSTILE_FILE, "<b>cut off</b>"):
        assert " ".join(name.split()) in page.text
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_the_policy_lets_the_pages_own_script_run(space, tmp_path):
    import base64
    import hashlib

    html = write_report(space, make_results(space, tmp_path / "annotations.json"), tmp_path / "out")
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


@pytest.mark.slow
def test_images_that_cannot_be_read_are_counted_and_the_rest_is_shown(space, tmp_path):
    results = make_results(space, tmp_path / "annotations.json")
    name = results.truth.image_by_id[UNREADABLE_ID].file_name
    (tmp_path / "images" / name).unlink()
    page = Page(write_report(space, results, tmp_path / "out", gallery=24))
    assert page.text.count("2 could not be shown: their images cannot be read.") == 2  # improved, disagreements
    assert page.text.count("1 could not be shown: their images cannot be read.") == 1  # harmed
    assert len(page.all("img")) == 2 * 4 + 2 * 5 + 2 * 8 + 5
    assert (
        "In total: 1 labelled image, 1 unlabelled image, 1 composite, 1 validation image. "
        "All other images were processed."
    ) in page.text
    for name, kind, reason in (
        ("labelled.png", "labelled image", "cut off too"),
        (results.truth.image_by_id[FAILED_ID].file_name, "unlabelled image", "<b>cut off</b>"),
        ("validation.png", "validation image", "no image"),
    ):
        assert f"{name} {kind} {reason}" in page.text
    assert "measured on 6 images; 1 unreadable, counted as missed" in page.text


def test_what_is_absent_is_left_out_with_a_sentence(space, tmp_path):
    results = make_results(space, tmp_path / "annotations.json")
    replace_evaluation(results, without(results.evaluation, "models", "pseudo_labels"))
    for key in ("train-teacher", "train-student"):
        (results.folders[key] / "log.jsonl").unlink()
    folders = {key: path for key, path in results.folders.items() if key not in ("augment", "distill")}
    left = TinyResults(folders, results.evaluation, results.truth)
    page = Page(write_report(space, left, tmp_path / "out"))
    for sentence in (
        "No model was measured",
        "the unlabelled images have no known truth",
        "There is no training log.",
        "There are no composites.",
        "left out: it has not run",
    ):
        assert sentence in page.text
    assert len(page.all("img")) == 2 * 2  # disagreements need no truth


def test_the_number_of_images_is_a_setting(space, tmp_path):
    results = make_results(space, tmp_path / "annotations.json")
    assert len(Page(write_report(space, results, tmp_path / "two", gallery=2)).all("img")) == 3 * 2 * 2 + 2
    none = Page(write_report(space, results, tmp_path / "none", gallery=0))
    assert none.all("img") == []
    assert "There are no images: report.gallery is 0." in none.text


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "said"), [(-0.02, "falls behind its teacher by 2.0 points"), (0.0, "is on a par")])
def test_a_student_that_is_no_better_is_not_praised(space, tmp_path, gain, said):
    results = make_results(space, tmp_path / "annotations.json", gain=gain)
    assert said in Page(write_report(space, results, tmp_path / "out", gallery=0)).text


def test_the_same_results_make_the_same_page(space, tmp_path):
    results = make_results(space, tmp_path / "annotations.json")
    assert write_report(space, results, tmp_path / "a") == write_report(space, results, tmp_path / "b")
