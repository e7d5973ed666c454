"""`s4m stores`: one damaged record hides nothing else, and prune stops at nothing that changed while it asked."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.result_store import EMBEDDINGS, SEAL, StoreRoot


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
    pruned = s4m("stores", "prune", "--yes")
    assert (pruned.status, paths(store)) == (0, [])


def test_a_reference_that_cannot_be_read_spares_its_result(s4m, store):
    spared, *_ = paths(store)
    file = store.root / ".references/refine" / spared.name / "x.json"
    file.parent.mkdir(parents=True)
    file.touch()
    assert f"used by a reference that cannot be read ({file})" in s4m("stores").out
    assert "removed 2 results" in s4m("stores", "prune", "--yes").out
    assert paths(store) == [spared]


def test_what_changed_while_prune_asked_is_left_alone_and_the_rest_removed(s4m, store, monkeypatch, tmp_path):
    made, gone, pointed_at, unused = *paths(store), sealed(store, Fingerprint("split", 1, {}, {}, {}))
    record = tmp_path / "work/mine/refine.done"
    record.parent.mkdir(parents=True)
    with ExitStack() as held:

        def meanwhile(_question: str) -> bool:
            held.enter_context(store.lock("refine", made.name, "theirs"))
            store.remove(next(result for result in store.results() if result.path == gone))
            record.write_text(json.dumps({"id": pointed_at.name}))
            store.refer("refine", pointed_at.name, record, "mine")
            return True

        monkeypatch.setattr("typer.confirm", meanwhile)
        told = s4m("stores", "prune")
    assert told.status == 0
    assert f"{made}: left alone: now in use" in told.err
    assert f"{gone}: left alone: no longer there" in told.err
    assert f"{pointed_at}: left alone: now in use" in told.err
    assert "removed 1 results, 5 B" in told.out
    assert sorted(paths(store)) == sorted([made, pointed_at])
    assert not unused.exists()


def test_prune_spares_embeddings_while_anybody_refines(s4m, tmp_path):
    root = StoreRoot(tmp_path / "stores")
    folder = sealed(root, Fingerprint(EMBEDDINGS, 1, {}, {}, {}))
    with root.lock("refine", "x", "theirs"):
        assert "every result is in use" in s4m("stores", "prune", "--yes").out
    assert "removed 1 results" in s4m("stores", "prune", "--yes").out
    assert not folder.exists()
