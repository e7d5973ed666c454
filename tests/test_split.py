from __future__ import annotations

import json
import random

import pytest

from pipeline.coco.reading import read_coco
from pipeline.datasets.split import LABELLED, TRUTH, UNLABELLED, Split, split_by_list, split_by_percent, write_split
from pipeline.errors import DatasetError
from tests.tiny_coco import tiny_coco, tiny_dict, write_json


def dataset_of(tmp_path, content):
    return read_coco(write_json(tmp_path / "dataset.json", content))


def one_category_an_image(tmp_path, categories):
    """200 images; category k on every 2**k-th of them only, so that high ones are rare."""
    content = {**tiny_dict(images=200), "annotations": []}
    content["categories"] = [{"id": each, "name": str(each)} for each in range(categories)]
    square = {"bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0, "segmentation": [[1, 1, 10, 1, 10, 10, 1, 10]]}
    for image in content["images"]:
        shown = [each for each in range(categories) if image["id"] % 2**each == 0]
        for each in shown:
            number = len(content["annotations"]) + 1
            content["annotations"].append({"id": number, "image_id": image["id"], "category_id": each, **square})
    return content


@pytest.mark.parametrize(("percent", "labelled"), [(0.001, 1), (1, 2), (5, 10), (7.7, 15), (50, 100), (100, 200)])
def test_how_many_images_are_labelled(tmp_path, percent, labelled):
    dataset = dataset_of(tmp_path, tiny_dict(images=200, instances=1))
    split = split_by_percent(dataset, percent, seed=1)
    assert len(split.labelled_ids) == labelled
    assert sorted(split.labelled_ids + split.unlabelled_ids) == [image.id for image in dataset.images]


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan")])
def test_impossible_percentages_are_refused(tmp_path, percent):
    with pytest.raises(DatasetError, match="percent"):
        split_by_percent(dataset_of(tmp_path, tiny_dict()), percent, seed=1)


def test_splits_of_one_seed_are_nested_and_seeds_differ(tmp_path):
    dataset = dataset_of(tmp_path, tiny_dict(images=200, instances=2))
    splits = {seed: [split_by_percent(dataset, percent, seed) for percent in (5, 10, 30)] for seed in range(4)}
    for small, middle, large in splits.values():
        assert small.labelled_ids == middle.labelled_ids[: len(small.labelled_ids)]
        assert middle.labelled_ids == large.labelled_ids[: len(middle.labelled_ids)]
    assert len({of_seed[2].labelled_ids for of_seed in splits.values()}) == 4


def test_the_order_of_the_file_does_not_matter(tmp_path):
    content = tiny_dict(images=60, instances=2)
    expected = split_by_percent(dataset_of(tmp_path, content), 20, seed=3)
    for key in ("images", "annotations", "categories"):
        random.Random(0).shuffle(content[key])
    assert split_by_percent(dataset_of(tmp_path, content), 20, seed=3) == expected


def test_a_seed_stands_for_the_same_split_everywhere_and_always(tmp_path):
    """Experiments are compared by percent and seed: this order may never change."""
    content = {**tiny_dict(images=10), "annotations": []}
    split = split_by_percent(dataset_of(tmp_path, content), 30, seed=0)
    assert split == Split((9, 6, 4), (5, 2, 8, 3, 1, 7, 10))


def test_draws_are_fair(tmp_path):
    dataset = dataset_of(tmp_path, {**tiny_dict(images=50), "annotations": []})
    times = dict.fromkeys(dataset.image_by_id, 0)
    for seed in range(400):
        for image_id in split_by_percent(dataset, 10, seed).labelled_ids:
            times[image_id] += 1
    assert sum(times.values()) == 2000
    assert min(times.values()) > 15  # 40 on average, 6 the standard deviation
    assert max(times.values()) < 70


@pytest.mark.parametrize("seed", range(5))
def test_every_category_is_labelled_where_there_is_room(tmp_path, seed):
    dataset = dataset_of(tmp_path, one_category_an_image(tmp_path, 8))
    split = split_by_percent(dataset, 0.5, seed)  # one image: only the rarest category's shows all
    assert split.labelled_ids == (128,)
    labelled = set(split_by_percent(dataset, 5, seed).labelled_ids)
    assert {each.category_id for each in dataset.annotations if each.image_id in labelled} == set(range(8))


def test_rarest_categories_come_first_where_there_is_no_room(tmp_path):
    content = one_category_an_image(tmp_path, 4)
    for annotation in content["annotations"]:  # every image shows its rarest category only
        others = [each for each in content["annotations"] if each["image_id"] == annotation["image_id"]]
        annotation["iscrowd"] = int(annotation["category_id"] != max(each["category_id"] for each in others))
    dataset = dataset_of(tmp_path, content)
    first = split_by_percent(dataset, 2, seed=1).labelled_ids
    rarest = [max(each.category_id for each in dataset.annotations_by_image[image_id]) for image_id in first]
    assert sorted(rarest) == [0, 1, 2, 3]
    assert rarest[-1] == 0


def test_crowds_do_not_count_as_shown(tmp_path):
    content = {**tiny_dict(images=100, instances=1, category_ids=(3,))}
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(annotation["image_id"] != 50)
    dataset = dataset_of(tmp_path, content)
    assert all(split_by_percent(dataset, 1, seed).labelled_ids == (50,) for seed in range(5))


CITYSCAPES = ["aachen/aachen_000000_000019_leftImg8bit.png", "bonn/bonn_000001_000019_leftImg8bit.png"]


def listed(tmp_path, text, file_names=None, name="list.txt"):
    """Labelled ids of 4 images, ids 1 to 4, for a list of this text."""
    content = tiny_dict()
    for image, file_name in zip(content["images"], file_names or [], strict=False):
        image["file_name"] = file_name
    (tmp_path / name).write_text(text)
    return split_by_list(dataset_of(tmp_path, content), tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "2\n3\n",
        "\ufeff3\n2",
        "0003.png\r\n\r\n  0002.png  ",
        "0002\n0003",
        "[2, 3]",
        '["0002", 3]',
        '["0003.png", "2"]',
    ],
)
def test_lists_by_id_and_by_name(tmp_path, text):
    assert listed(tmp_path, text) == Split((2, 3), (1, 4))


@pytest.mark.parametrize(
    "entry",
    [
        "bonn/bonn_000001_000019_leftImg8bit.png",
        "bonn_000001_000019_leftImg8bit.png",
        "bonn_000001_000019_leftImg8bit",
        "bonn_000001_000019",
        "bonn/bonn_000001_000019_leftImg8bit",
        "bonn/bonn_000001_000019",
    ],
)
def test_lists_of_cityscapes(tmp_path, entry):
    assert listed(tmp_path, entry, CITYSCAPES).labelled_ids == (2,)


def test_a_coco_file_lists_its_images(tmp_path):
    content = {"images": [{"id": 900, "file_name": "0004.png", "width": 64, "height": 48}]}
    assert listed(tmp_path, json.dumps(content)).labelled_ids == (4,)
    with pytest.raises(DatasetError, match=r"image 900: 'x\.png' is not an image of"):
        listed(tmp_path, json.dumps(content).replace("0004.png", "x.png"))


def test_a_whole_file_name_is_taken_before_anything_else(tmp_path):
    names = ["2", "a/2.png", "b/2.png"]
    assert listed(tmp_path, "2", names).labelled_ids == (1,)
    assert listed(tmp_path, "a/2.png", names).labelled_ids == (2,)
    assert listed(tmp_path, "[2]", names).labelled_ids == (2,)


def test_everything_wrong_with_a_list_is_told_at_once(tmp_path):
    with pytest.raises(DatasetError) as caught:
        listed(tmp_path, "1\n\nmissing.png\na/x\nx.png\n0001\n77", ["0001.jpg", "a/x.png", "b/x.png"])
    assert caught.value.source == str(tmp_path / "list.txt")
    dataset = tmp_path / "dataset.json"
    assert [str(problem) for problem in caught.value.problems] == [
        f"line 3: 'missing.png' is not an image of {dataset}",
        "line 5: 'x.png' may be any of the images 2 (a/x.png), 3 (b/x.png): write whole file names",
        "line 6: '0001' was named before, at line 1",
        f"line 7: '77' is not an image of {dataset}",
    ]
    with pytest.raises(DatasetError, match=r"entry 2: 9 is not an image"):
        listed(tmp_path, "[1, 9]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no image"),
        (" \n\n", "names no image"),
        ("[]", "names no image"),
        ("[1.5]", "neither a text file nor a JSON list"),
        ("[1", "neither a text file nor a JSON list"),
        ("[[1]]", "neither a text file nor a JSON list"),
        ('{"1.0": [1]}', "images: is missing"),
    ],
)
def test_what_is_no_list(tmp_path, text, message):
    with pytest.raises(DatasetError, match=message):
        listed(tmp_path, text)


def test_unreadable_lists(tmp_path):
    dataset = dataset_of(tmp_path, tiny_dict())
    with pytest.raises(DatasetError, match="cannot be read"):
        split_by_list(dataset, tmp_path / "missing.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe1\0")
    with pytest.raises(DatasetError, match="neither a text file"):
        split_by_list(dataset, tmp_path / "binary.txt")


def test_written_files(tmp_path):
    tiny = tiny_coco(tmp_path / "data", images=6)
    write_split(read_coco(tiny.annotations), Split((5, 2), (1, 6, 4, 3)), tmp_path / "split")
    labelled, unlabelled, truth = (
        json.loads((tmp_path / "split" / n).read_text()) for n in (LABELLED, UNLABELLED, TRUTH)
    )
    annotations = tiny.content["annotations"]
    assert labelled["images"] == [tiny.content["images"][1], tiny.content["images"][4]]
    assert labelled["annotations"] == [each for each in annotations if each["image_id"] in (2, 5)]
    assert [image["id"] for image in unlabelled["images"]] == [1, 3, 4, 6]
    assert "annotations" not in unlabelled
    assert truth["images"] == unlabelled["images"]
    assert truth["annotations"] == [each for each in annotations if each["image_id"] in (1, 3, 4, 6)]
    assert labelled["categories"] == unlabelled["categories"] == truth["categories"] == tiny.content["categories"]
    assert (tmp_path / "split" / TRUTH).parent != tmp_path / "split"
    read_coco(tmp_path / "split" / LABELLED)
    read_coco(tmp_path / "split" / UNLABELLED, annotations_required=False)


def test_written_bytes_do_not_hang_on_the_order_of_the_file(tmp_path):
    content = tiny_dict(images=20)
    written = []
    for _ in range(2):
        dataset = dataset_of(tmp_path, content)
        write_split(dataset, split_by_percent(dataset, 30, seed=1), tmp_path / "split")
        written.append([(tmp_path / "split" / name).read_bytes() for name in (LABELLED, UNLABELLED, TRUTH)])
        random.Random(1).shuffle(content["images"])
        random.Random(1).shuffle(content["annotations"])
    assert written[0] == written[1]
