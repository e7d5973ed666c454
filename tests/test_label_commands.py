"""`s4m labels`, `s4m weights` and `s4m refine-coco`."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
from dataclasses import replace

import pytest
from PIL import Image

from pipeline.coco.reading import read_coco
from pipeline.labels.coco_import import read_detections
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import Decision, ImageLabels
from pipeline.refinement import refining
from pipeline.refinement.refine_work import RefineWork
from tests.tiny_coco import tiny_coco, write_json
from tests.tiny_labels import tiny_row, tiny_store
from tests.tiny_refinement import box_mask, make_refinement, refine, result


@pytest.fixture
def made(tmp_path):
    return tiny_coco(tmp_path / "set", images=3)


def test_labels_go_in_and_out_and_are_the_same(s4m, made, tmp_path):
    told = s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    assert told.status == 0, told.err
    assert "first.zarr: 3 images, 9 instances, digest " in told.out
    assert s4m("labels", "export", "first.zarr", "out.json").status == 0
    assert len(read_coco(tmp_path / "out.json").annotations) == 9
    s4m("labels", "import", "out.json", made.annotations, "second.zarr")
    first, second = (LabelStore.open(tmp_path / name) for name in ("first.zarr", "second.zarr"))
    assert first.attributes.digest == second.attributes.digest
    same = s4m("labels", "diff", "first.zarr", "second.zarr").out
    assert "IoU identical                    9   100.0%" in same


def test_results_lists_are_exported_too(s4m, made, tmp_path):
    s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    assert s4m("labels", "export", "first.zarr", "results.json", "--results").status == 0
    entries = json.loads((tmp_path / "results.json").read_text())
    assert len(entries) == 9
    assert set(entries[0]) >= {"image_id", "category_id", "score", "segmentation"}


def test_export_counts_what_it_wrote_and_says_what_it_left_out(s4m, tmp_path):
    store = tiny_store(tmp_path / "labels.zarr", [tiny_row(image_id) for image_id in range(10, 30)]).attributes
    dropped, failed = store.decisions["dropped"], store.statuses["failed"]
    assert dropped and failed
    told = s4m("labels", "export", "labels.zarr", "out.json").out
    assert f"out.json: {20 - failed} images, {store.instances - dropped} instances\n" in told
    assert f"left out: {dropped} dropped instances, {failed} images that failed\n" in told
    told = s4m("labels", "export", "labels.zarr", "all.json", "--dropped").out
    assert f"all.json: {20 - failed} images, {store.instances} instances\n" in told
    assert f"left out: {failed} images that failed\n" in told
    both = s4m("labels", "export", "labels.zarr", "results.json", "--dropped", "--results")
    assert both.status == 2
    assert "a results list has no crowds" in both.err


def test_repeated_instances_are_left_out_and_counted(s4m, made, tmp_path):
    entries = [
        {
            "image_id": 1,
            "category_id": 3,
            "score": score,
            "segmentation": made.content["annotations"][0]["segmentation"],
        }
        for score in (0.25, 0.75, 0.5)
    ]
    write_json(tmp_path / "results.json", entries)
    told = s4m("labels", "import", "results.json", made.annotations, "first.zarr")
    assert told.status == 0, told.err
    assert "2 repeated instances left out" in told.out
    assert [instance.score for instance in LabelStore.open(tmp_path / "first.zarr").by_id(1).instances] == [0.75]


@pytest.mark.slow
def test_an_experiment_takes_repeated_results_too(s4m, tmp_path):
    mask = box_mask(5, 5, 40, 30)
    path = make_refinement(tmp_path, [result(1, mask, 0.6), result(1, mask, 0.9)])
    s4m("split", "--exp", path)
    told = s4m("predict", "--exp", path)
    assert told.status == 0, told.err
    assert s4m("labels", "export", f"{path}:predict", "out.json", "--results").status == 0
    assert [each["score"] for each in json.loads((tmp_path / "out.json").read_text())] == [0.9]


@pytest.mark.slow
def test_labels_of_an_experiment_are_found_by_its_settings(s4m, tmp_path):
    path = make_refinement(tmp_path, [result(1, box_mask(5, 5, 40, 30))])
    digests = [refine(path, *settings).attributes.digest for settings in ((), ("refine.preset=samrefiner",))]
    assert digests[0] != digests[1]
    first = s4m("labels", "verify", f"{path}:refine")
    second = s4m("labels", "verify", f"{path}:refine", "--set", "refine.preset=samrefiner")
    assert (digests[0] in first.out, digests[1] in second.out) == (True, True)
    words = [f"{path}:predict", f"{path}:refine", "--set", "refine.preset=samrefiner"]
    assert s4m("labels", "diff", *words).status == 0
    folder = second.out.partition(" is whole")[0]  # as `s4m refine` prints it: two settings side by side
    same = s4m("labels", "diff", f"{path}:refine", folder, "--set", "refine.preset=samrefiner").out
    assert "IoU identical                    1   100.0%" in same
    assert s4m("labels", "diff", f"{path}:refine", folder).status == 0
    missing = s4m("labels", "verify", f"{path}:refine", "--set", "refine.preset=s4m", "--set", "refine.passes=5")
    assert missing.status == 1
    assert f'make refine EXP={path} SET="refine.preset=s4m refine.passes=5"' in missing.err


def test_names_of_stores_that_are_none_say_which_there_are(s4m, tmp_path):
    path = make_refinement(tmp_path, [result(1, box_mask(5, 5, 40, 30))])
    alone, mistyped = s4m("labels", "verify", str(path)), s4m("labels", "verify", f"{path}:refin")
    assert f"{path}:predict, {path}:refine" in alone.err
    assert f"{path}:refin: only these nodes have labels: predict, refine, augment" in mistyped.err
    assert (alone.status, mistyped.status) == (1, 1)


def test_labels_are_drawn_side_by_side(s4m, made, tmp_path):
    s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    words = ["labels", "show", "first.zarr", "--images", made.image_root, "--output", "one.png", "--id", 1, "--id", 2]
    assert s4m(*words).status == 0
    with Image.open(tmp_path / "one.png") as picture:
        assert min(picture.size) > 48


def test_a_few_images_with_instances_are_drawn_without_ids(s4m, made, tmp_path):
    made.content["annotations"] = [each for each in made.content["annotations"] if each["image_id"] != 1]
    path = write_json(tmp_path / "labels.json", made.content)
    words = ["labels", "show", path, "--images", made.image_root, "--output"]
    assert s4m(*words, "few.png").out == "few.png: 2 images: 0002.png, 0003.png\n"
    assert s4m(*words, "one.png", "--count", 1).out == "one.png: 1 image: 0002.png\n"


@pytest.mark.slow
def test_images_are_drawn_by_name_and_without_low_scores(s4m, made, tmp_path):
    for index, annotation in enumerate(made.content["annotations"]):
        annotation["score"] = 0.2 if index % 3 else 0.9
    scored = write_json(tmp_path / "scored.json", made.content)
    s4m("labels", "import", scored, made.annotations, "first.zarr")
    words = ["labels", "show", "first.zarr", scored, "--images", made.image_root, "--output"]
    assert s4m(*words, "all.png", "--name", "0003.png").out == "all.png: 1 image: 0003.png\n"
    assert s4m(*words, "by_end.png", "--name", "a/folder/0003.png").status == 0
    assert s4m(*words, "best.png", "--id", 3, "--min-score", 0.5).status == 0
    every, by_end, best = ((tmp_path / name).read_bytes() for name in ("all.png", "by_end.png", "best.png"))
    assert every == by_end != best
    absent = s4m(*words, "absent.png", "--name", "0009.png")
    assert (absent.status, absent.err) == (
        1,
        "first.zarr: there is no image named '0009.png', as 0001.png, 0002.png, 0003.png are\n",
    )
    assert "no image has an instance with a score of 0.95 or more" in s4m(*words, "x.png", "--min-score", 0.95).err


def test_labels_of_one_image_are_found_by_name_where_ids_differ(s4m, made, tmp_path):
    s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    other = json.loads(made.annotations.read_text())
    for each in other["images"]:
        each["id"] += 1
    for each in other["annotations"]:
        each["image_id"] += 1
    path = write_json(tmp_path / "other.json", other)
    words = ["labels", "show", "--images", made.image_root, "--id", 2, "--output"]
    assert s4m(*words, "both.png", "first.zarr", path).out == "both.png: 1 image: 0002.png\n"
    del other["images"][1]
    other["annotations"] = [each for each in other["annotations"] if each["image_id"] != 3]
    told = s4m(*words, "again.png", "first.zarr", write_json(tmp_path / "less.json", other))
    assert (told.status, "there is no image '0002.png', which is image 2 of first.zarr" in told.err) == (1, True)


def test_coco_files_are_compared_directly(s4m, made, tmp_path):
    s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    told = s4m("labels", "diff", "first.zarr", made.annotations)
    assert "IoU identical                    9   100.0%" in told.out
    assert told.out.replace("annotations", "first") == s4m("labels", "diff", made.annotations, "first.zarr").out
    results = s4m("labels", "export", "first.zarr", "results.json", "--results")
    assert results.status == 0
    told = s4m("labels", "diff", "first.zarr", "results.json")
    assert (told.status, "s4m labels import makes a label store of it" in told.err) == (1, True)


def test_a_coco_file_in_which_images_share_a_name_is_refused(s4m, made, tmp_path):
    made.content["images"][1]["file_name"] = "0001.png"
    made.content["categories"][0]["name"] = made.content["categories"][1]["name"]
    told = s4m("labels", "diff", write_json(tmp_path / "a.json", made.content), made.annotations)
    assert (told.status, told.err.splitlines()[1:]) == (
        1,
        [
            "  images: '0001.png' is the name of several: give each its own",
            "  categories: 'category 7' is the name of several: give each its own",
        ],
    )


def without_votes(row: ImageLabels) -> ImageLabels:
    """The row as an export has it: votes on classes and uncertain pixels stay in the store."""
    absent = {"class_vote": None, "class_agreement": None, "uncertain_counts": b""}
    return replace(row, instances=tuple(replace(each, **absent) for each in row.instances))


def test_decisions_and_measures_survive_an_export(s4m, tmp_path):
    made = (tiny_row(image_id, soft_masks=False) for image_id in range(10, 30))
    rows = [without_votes(row) for row in made if not row.message]
    before = tiny_store(tmp_path / "labels.zarr", rows)
    assert all(before.attributes.decisions.values())
    s4m("labels", "export", "labels.zarr", "out.json", "--dropped")
    assert s4m("labels", "import", "out.json", "out.json", "again.zarr").status == 0
    after = LabelStore.open(tmp_path / "again.zarr")
    assert list(after) == rows
    assert after.attributes.digest == before.attributes.digest
    s4m("labels", "export", "labels.zarr", "results.json", "--results")
    assert s4m("labels", "import", "results.json", "out.json", "results.zarr").status == 0
    kept = [replace(row, instances=tuple(each for each in row.instances if each.decision != "dropped")) for row in rows]
    assert [row.instances for row in LabelStore.open(tmp_path / "results.zarr")] == [row.instances for row in kept]


def test_an_imported_export_can_be_reviewed(s4m, made, tmp_path):
    refined = []
    for labels in read_detections(
        made.annotations, read_coco(made.annotations).images, read_coco(made.annotations).categories
    ):
        instances = tuple(replace(each, decision=Decision.SAM, agreement=0.5) for each in labels.instances)
        refined.append(replace(labels, instances=instances))
    write_label_store(tmp_path / "refined.zarr", refined, read_coco(made.annotations).categories, {})
    s4m("labels", "export", "refined.zarr", "out.json")
    s4m("labels", "import", "out.json", made.annotations, "again.zarr")
    told = s4m("labels", "review", "again.zarr", "--images", made.image_root, "--output", "review", "--top", 2)
    assert told.status == 0, told.err
    assert told.out.startswith("review: 2 instances to check")


def test_an_image_that_cannot_be_drawn_is_named(s4m, made, tmp_path):
    s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    words = ["labels", "show", "first.zarr", "--output", "one.png", "--id", 2, "--images"]
    told = s4m(*words, "nodir")
    assert (told.status, told.err) == (1, "nodir/0002.png, image 2: no such file\n")
    (made.image_root / "0002.png").write_bytes(b"broken")
    assert f"{made.image_root}/0002.png, image 2: not an image" in s4m(*words, made.image_root).err
    rows = [ImageLabels.of_failure(2, "0002.png", "was cut off")]
    tiny_store(tmp_path / "failed.zarr", rows)
    words[2] = "failed.zarr"
    told = s4m(*words, made.image_root)
    assert told.status == 1
    assert "0002.png, image 2: not an image" in told.err
    assert "labelling it failed too: was cut off" in told.err


def test_files_that_are_there_are_left_alone(s4m, made, tmp_path):
    s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    (tmp_path / "precious.json").write_text("mine")
    (tmp_path / "precious.png").write_text("mine")
    (tmp_path / "folder").mkdir()
    show = ["labels", "show", "first.zarr", "--images", made.image_root, "--id", 1, "--output"]
    for words, name in (
        (["labels", "export", "first.zarr"], "precious.json"),
        (["labels", "export", "first.zarr", "--results"], "precious.json"),
        (["labels", "export", "first.zarr"], "folder"),
        (show, "precious.png"),
        (["refine-coco", made.annotations, made.image_root], "precious.json"),
    ):
        told = s4m(*words, name)
        assert told.status == 1
        assert f"{name} is already there and was left alone" in told.err
    assert {path.read_text() for path in tmp_path.glob("precious.*")} == {"mine"}
    other_ending = s4m(*show, "a.foo")
    assert other_ending.status == 2
    assert "must end in .png" in other_ending.err
    assert not (tmp_path / "a.foo").exists()


@pytest.mark.parametrize("name", ["afile/x.out", "afile/deeper/x.out"])
def test_outputs_below_a_file_are_told_in_a_line(s4m, made, tmp_path, name):
    s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    (tmp_path / "afile").write_text("mine")
    for words in (
        ["labels", "export", "first.zarr", name],
        ["labels", "export", "first.zarr", name, "--results"],
        ["labels", "import", made.annotations, made.annotations, name],
        ["refine-coco", made.annotations, made.image_root, name],
        ["labels", "show", "first.zarr", "--images", made.image_root, "--id", 1, "--output", f"{name}.png"],
    ):
        told = s4m(*words)
        assert told.status == 1, words
        (line,) = told.err.splitlines()
        assert line.startswith("afile"), words
    assert (tmp_path / "afile").read_text() == "mine"


def test_a_damaged_store_is_told_by_column(s4m, made, tmp_path):
    s4m("labels", "import", made.annotations, made.annotations, "first.zarr")
    assert "first.zarr is whole: 3 images" in s4m("labels", "verify", "first.zarr").out
    (chunk,) = [
        path
        for path in (tmp_path / "first.zarr/instances/score").rglob("*")
        if "zarr.json" not in path.name and path.is_file()
    ]
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    told = s4m("labels", "verify", "first.zarr")
    assert told.status == 1
    assert "instances/score" in told.err


@pytest.mark.parametrize("store", ["nowhere.zarr", "nowhere:refine", "set"])
def test_a_store_that_is_none_is_refused(s4m, made, store):
    told = s4m("labels", "export", store, "out.json")
    assert told.status == 1
    assert store.partition(":")[0] in told.err


def test_detections_that_cannot_be_used_are_all_told(s4m, made, tmp_path):
    write_json(tmp_path / "bad.json", [{"image_id": 99, "category_id": 3, "score": 2, "bbox": [0, 0, 1, 1]}, 7])
    told = s4m("labels", "import", "bad.json", made.annotations, "x.zarr")
    assert told.status == 1
    assert not (tmp_path / "x.zarr").exists()
    assert len(told.err.splitlines()) >= 3


@pytest.mark.slow
def test_a_coco_file_is_refined_without_an_experiment(s4m, made, tmp_path):
    words = ["refine-coco", made.annotations, made.image_root, "refined.json", "--preset", "s4m"]
    told = s4m(*words)
    assert told.status == 0, told.err
    content = json.loads((tmp_path / "refined.json").read_text())
    assert [each["id"] for each in content["annotations"]] == list(range(1, 10))
    assert sum(content["refinement"]["decisions"].values()) == 9
    assert all("refinement" in each for each in content["annotations"])
    assert [path.name for path in tmp_path.iterdir() if "refined" in path.name] == ["refined.json"]
    again = s4m(*words)
    assert again.status == 1
    assert "already there and was left alone" in again.err.replace("\n", " ")


@pytest.mark.slow
def test_refined_masks_are_measured_and_harm_is_warned_of(s4m, made, tmp_path):
    truth = json.loads(made.annotations.read_text())
    truth["images"].pop()
    truth["annotations"] = [each for each in truth["annotations"] if each["image_id"] < 3]
    write_json(tmp_path / "truth.json", truth)
    words = ["refine-coco", made.annotations, made.image_root, "refined.json", "--truth", "truth.json"]
    told = s4m(*words, "--preset", "s4m", "--set", "sam.input_side=64")
    assert told.status == 0, told.err
    assert "changed beyond recognition: " in told.out
    assert "mean agreement: 0." in told.out
    # The masks are the truth: nothing but harm is possible.
    assert re.search(r"measured on \d instances? of 2 images with a truth:", told.out)
    assert re.search(r"mean mask IoU: 1\.000 before, 0\.\d+ after \(−0\.\d+\)", told.out)
    assert "warning: " in told.err
    assert "this looks like harm: " in told.err
    missing = s4m(*words[:3], "other.json", "--truth", "nowhere.json")
    assert missing.status == 1
    assert "nowhere.json" in missing.err


@pytest.fixture
def stops_once(monkeypatch):
    """SIGTERM comes when the first shard, here of one image, is there."""
    publish = RefineWork.publish
    monkeypatch.setattr(refining, "IMAGES_PER_SHARD", 1)

    def stopping(work, shard, rows):
        report = publish(work, shard, rows)
        monkeypatch.setattr(RefineWork, "publish", publish)
        os.kill(os.getpid(), signal.SIGTERM)
        return report

    monkeypatch.setattr(RefineWork, "publish", stopping)


@pytest.mark.slow
def test_a_stopped_refinement_goes_on_where_it_was(s4m, made, tmp_path, stops_once):
    words = ["refine-coco", made.annotations, made.image_root, "refined.json", "--preset", "s4m"]
    stopped = s4m(*words)
    assert stopped.status == 143
    assert "\nrefined.json: stopped, finished work is kept. Give the same command to continue.\n" in stopped.err
    assert [path.name for path in tmp_path.glob("*refined*")] == [".refined.json.refining"]
    told = s4m(*words)
    assert told.status == 0, told.err
    assert "refine: 1 of 3 images were done before\n" in told.err
    assert [path.name for path in tmp_path.glob("*refined*")] == ["refined.json"]
    s4m(*words[:3], "at_once.json", *words[4:])
    assert (tmp_path / "at_once.json").read_bytes() == (tmp_path / "refined.json").read_bytes()


@pytest.mark.slow
def test_what_was_done_with_other_settings_is_not_used(s4m, made, tmp_path, stops_once):
    words = ["refine-coco", made.annotations, made.image_root, "refined.json", "--preset"]
    assert s4m(*words, "s4m").status == 143
    told = s4m(*words, "s4m", "--set", "refine.passes=5")
    assert told.status == 0, told.err
    assert "done before" not in told.err
    assert [path.name for path in tmp_path.glob("*refined*")] == ["refined.json"]


@pytest.mark.slow
def test_two_refinements_into_one_file_are_refused(s4m, made, tmp_path):
    (tmp_path / ".x.json.refining").mkdir()
    with (tmp_path / ".x.json.refining/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = s4m("refine-coco", made.annotations, made.image_root, "x.json")
    assert told.status == 1
    assert "x.json is being made by another process" in told.err
    assert s4m("refine-coco", made.annotations, made.image_root, "x.json", "--preset", "s4m").status == 0


@pytest.mark.slow
def test_a_wrong_image_folder_is_told_and_nothing_is_written(s4m, made, tmp_path):
    mistyped = s4m("refine-coco", made.annotations, "imags", "x.json")
    assert mistyped.status == 2
    assert "no such folder: imags" in mistyped.err
    other = s4m("refine-coco", made.annotations, tmp_path, "x.json")
    assert other.status == 1
    assert "0001.png: no such file" in other.err
    assert not (tmp_path / "x.json").exists()
    assert s4m("refine-coco", made.annotations, made.image_root, "x.json", "--preset", "s4m").status == 0


@pytest.mark.parametrize("name", ["ck #1/w.pt", "5", 'Gewichte: ü "1" 🐈.pt', "null"])
def test_a_checkpoint_is_the_path_that_was_given(s4m, made, name):
    told = s4m("refine-coco", made.annotations, made.image_root, "x.json", "--checkpoint", name)
    assert told.status == 1
    assert f"{name}: no weights for sam_tiny: there is no such file" in told.err


def test_a_gate_that_needs_no_sam_is_refused(s4m, made):
    told = s4m("refine-coco", made.annotations, made.image_root, "x.json", "--set", "refine.gate=teacher")
    assert told.status == 1
    assert "refine.gate (set over the file): teacher keeps every mask as it is, and SAM has nothing to do" in told.err


def test_settings_of_refine_coco_are_checked_like_an_experiment(s4m, made):
    told = s4m(
        "refine-coco",
        made.annotations,
        made.image_root,
        "x.json",
        "--set",
        "refine.preset=bset",
        "--set",
        "refine.poins=3",
    )
    assert told.status == 1
    assert 'refine.preset (set over the file): given "bset"; expected one of best, s4m, samrefiner' in told.err
    assert "did you mean refine.points?" in told.err


def test_a_sam_that_is_none_says_what_there_is(s4m, made):
    told = s4m("refine-coco", made.annotations, made.image_root, "x.json", "--sam", "vit_x")
    assert told.status == 1
    assert (
        'sam.model (set over the file): given "vit_x"; expected one of sam_tiny, vit_b, vit_l, vit_h or hf:' in told.err
    )


def test_missing_weights_say_where_to_put_them(s4m, made, tmp_path):
    told = s4m("refine-coco", made.annotations, made.image_root, "x.json", "--sam", "vit_b")
    assert told.status == 1
    assert "s4m weights get vit_b" in told.err
    assert "sam_vit_b_01ec64.pth" in told.err
    assert s4m("weights", "check", "sam_tiny").status == 0
    assert s4m("weights", "get", "sam_tiny").status == 1
