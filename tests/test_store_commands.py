"""`s4m stores`: one damaged record hides nothing else, and prune stops at nothing that changed while it asked."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from pipeline.embeddings.embedding_columns import ImageRow
from pipeline.embeddings.embedding_store import embeddings_in, prepare_embeddings, write_embeddings
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import Status
from pipeline.structure.target_columns import MAP_SIDE, ImageTargets
from pipeline.structure.target_writing import seal_targets, write_target_shard
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.result_store import EMBEDDINGS, StoreRoot
from pipeline.workflow.seals import SEAL
from tests.tiny_labels import CATEGORIES, tiny_row


@pytest.fixture
def store(tmp_path) -> StoreRoot:
    """Three sealed results that nobody points at."""
    root = StoreRoot(tmp_path / "stores")
    for points in (1, 2, 3):
        sealed(root, Fingerprint("refine", 1, {"refine.points": points}, {}, {}))
    return root


def sealed(root: StoreRoot, made: Fingerprint) -> Path:
    folder = root.partial(made.stage, made.id)
    folder.mkdir(parents=True)
    (folder / "a").write_text("hello")
    root.seal(made, "mine", 1.0, {}, {})
    return root.path(made.stage, made.id)


def paths(root: StoreRoot) -> list[Path]:
    return [result.path for result in root.results()]


def test_one_damaged_record_hides_no_other_damage(s4m, store):
    unreadable, changed, whole = paths(store)
    (unreadable / SEAL).write_bytes(b'{"stage"')
    (changed / "a").write_text("jello")
    listed = s4m("stores")
    assert "3 results" in listed.out
    assert f"{unreadable}  " in listed.out
    assert "damaged: its completion record cannot be read; used by nobody" in listed.out
    told = s4m("stores", "verify")
    assert told.status == 1
    assert f"{unreadable / SEAL}: not a completion record that can be read" in told.err
    assert f"{changed / 'a'}: content changed" in told.err
    assert f"{whole}: whole" in told.err
    pruned = s4m("stores", "prune", "--yes", "--older-than", "0")
    assert (pruned.status, paths(store)) == (0, [])


def test_a_reference_that_cannot_be_read_spares_its_result(s4m, store):
    spared, *_ = paths(store)
    file = store.root / ".references/refine" / spared.name / "x.json"
    file.parent.mkdir(parents=True)
    file.touch()
    assert f"used by a reference that cannot be read ({file})" in s4m("stores").out
    assert "removed 2 results" in s4m("stores", "prune", "--yes", "--older-than", "0").out
    assert paths(store) == [spared]


def test_what_changed_while_prune_asked_is_left_alone_and_the_rest_removed(s4m, store, monkeypatch, tmp_path):
    made, gone, pointed_at, unused = *paths(store), sealed(store, Fingerprint("split", 1, {}, {}, {}))
    record = tmp_path / "work/mine/refine.done"
    record.parent.mkdir(parents=True)
    with ExitStack() as held:

        def meanwhile(_question: str) -> bool:
            held.enter_context(store.locks.making("refine", made.name, "theirs"))
            store.remove(next(result for result in store.results() if result.path == gone))
            record.write_text(json.dumps({"id": pointed_at.name}))
            store.references.add("refine", pointed_at.name, record, "mine")
            return True

        monkeypatch.setattr("typer.confirm", meanwhile)
        told = s4m("stores", "prune", "--older-than", "0")
    assert told.status == 0
    assert f"{made}: not removed: now in use" in told.err
    assert f"{gone}: already removed" in told.err
    assert f"{pointed_at}: not removed: now in use" in told.err
    assert "removed 1 results, 5 B" in told.out
    assert sorted(paths(store)) == sorted([made, pointed_at])
    assert not unused.exists()


def test_prune_spares_embeddings_while_anybody_refines(s4m, tmp_path):
    root = StoreRoot(tmp_path / "stores")
    folder = sealed(root, Fingerprint(EMBEDDINGS, 1, {}, {}, {}))
    with root.locks.making("refine", "x", "theirs"):
        assert "every result is in use" in s4m("stores", "prune", "--yes", "--older-than", "0").out
    assert "removed 1 results" in s4m("stores", "prune", "--yes", "--older-than", "0").out
    assert not folder.exists()


def tables_in(folder: Path) -> list[Path]:
    """A label store, structural targets and kept embeddings, of one image each."""
    write_label_store(folder / "labels.zarr", [tiny_row(1)], CATEGORIES, {})
    maps = np.zeros((2, MAP_SIDE, MAP_SIDE), np.uint8)
    windows_xyxy = np.array([[0, 0, 50, 40]] * 2, np.int32)
    row = ImageTargets(1, "1.png", 50, 40, Status.OK, "", np.zeros((2, 2), np.float32), windows_xyxy, maps)
    write_target_shard(folder / "shards", 0, [row])
    seal_targets(folder / "shards", [[1]], folder / "structure.zarr", {})
    shutil.rmtree(folder / "shards")
    prepare_embeddings(folder, [[1]], (4, 2, 3))
    write_embeddings(folder, 0, 0, [ImageRow(1, 50, 40, np.ones((4, 2, 3), np.float16))], (4, 2, 3))
    embeddings_in(folder, (4, 2, 3)).seal([[1]], {}, {})
    return sorted(folder.glob("*.zarr"))


@pytest.fixture
def tables(tmp_path) -> list[Path]:
    """The tables of a sealed result: embeddings, labels, targets."""
    root, made = StoreRoot(tmp_path / "stores"), Fingerprint("refine", 1, {}, {}, {})
    names = [path.name for path in tables_in(root.partial("refine", made.id))]
    root.seal(made, "mine", 1.0, {}, {})
    return [root.path("refine", made.id) / name for name in names]


def test_verify_names_the_columns_of_every_kind_of_table(s4m, tables):
    told = s4m("stores", "verify")
    assert (told.status, told.out) == (0, "1 results are whole\n")
    files = {"features/c/0/0/0/0": tables[0], "instances/score/c/0": tables[1], "anchors/map/c/0/0/0": tables[2]}
    for name, table in files.items():
        path = table / name
        content = path.read_bytes()
        path.write_bytes(content[:5] + bytes([content[5] ^ 1]) + content[6:])
        told = s4m("stores", "verify")
        path.write_bytes(content)
        assert told.status == 1
        assert f"{path}: content changed" in told.err
        assert f"{table}: column {name.partition('/c/')[0]} is damaged: {name}" in told.err
    assert s4m("stores", "verify").status == 0


def test_verify_names_tables_that_were_not_whole_when_they_were_sealed(s4m, tmp_path):
    root, made = StoreRoot(tmp_path / "stores"), Fingerprint("refine", 1, {}, {}, {})
    tables = tables_in(root.partial("refine", made.id))
    for table in tables:
        content = json.loads((table / "zarr.json").read_text())
        content["attributes"]["digest"] = "0" * 32
        (table / "zarr.json").write_text(json.dumps(content))
    root.seal(made, "mine", 1.0, {}, {})
    told = s4m("stores", "verify")
    assert told.status == 1
    for table in tables:
        path = root.path("refine", made.id) / table.name / "zarr.json"
        assert f"{path}: the attributes are damaged: they do not match their digest" in told.err


def test_a_table_of_another_version_is_no_damage_and_said_to_be_left_out(s4m, tmp_path):
    root, made = StoreRoot(tmp_path / "stores"), Fingerprint("distill", 2, {}, {}, {})
    folder = root.partial("distill", made.id)
    (folder / "structure.zarr").mkdir(parents=True)
    attributes = {"format": "s4m-structure", "version": 1, "images": 3}
    (folder / "structure.zarr" / "zarr.json").write_text(json.dumps({"attributes": attributes}))
    root.seal(made, "mine", 1.0, {}, {})
    told = s4m("stores", "verify")
    assert told.status == 0
    path = root.path("distill", made.id)
    assert f"{path}: whole\n" in told.err
    assert f"{path / 'structure.zarr'}: columns not checked: this program does not read s4m-structure 1" in told.err
