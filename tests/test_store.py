"""The store: sealed results, damage found, pruning that spares what is in use, locks that go with their process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.files.identity import hash_text
from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.result_store import EMBEDDINGS, StoreRoot
from pipeline.workflow.seals import SEAL


@pytest.fixture
def store(tmp_path):
    return StoreRoot(tmp_path / "stores")


def fingerprint(points: int = 3) -> Fingerprint:
    return Fingerprint("refine", 1, {"refine.points": points}, {}, {})


def seal(store: StoreRoot, of: Fingerprint, files: dict[str, bytes]) -> Path:
    folder = store.partial(of.stage, of.id)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    store.seal(of, "mine", 1.5, {"images": len(files)}, {"zarr": "3"})
    return store.path(of.stage, of.id)


def test_a_sealed_result_says_what_made_it(store):
    made = fingerprint()
    folder = seal(store, made, {"a": b"1", "deep/b": b"22"})
    record = store.seal_of("refine", made.id)
    assert record.fingerprint == made.to_dict()
    assert (record.files, record.size_bytes, record.seconds, record.summary) == (2, 3, 1.5, {"images": 2})
    assert record.made_by["experiment"] == "mine"
    assert store.is_sealed("refine", made.id)
    assert not store.partial("refine", made.id).exists()
    assert (folder / "deep/b").read_bytes() == b"22"


def test_an_unsealed_result_does_not_count(store):
    made = fingerprint()
    folder = store.partial("refine", made.id)
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"1")
    assert store.seal_of("refine", made.id) is None
    assert not store.is_sealed("refine", made.id)


def test_the_digest_is_of_the_content_alone(tmp_path):
    digests = []
    for name in ("one", "two"):
        store = StoreRoot(tmp_path / name)
        seal(store, fingerprint(), {"a": b"1", "b": b"2"})
        digests.append(store.seal_of("refine", fingerprint().id).digest)
    other = StoreRoot(tmp_path / "three")
    seal(other, fingerprint(), {"a": b"1", "b": b"3"})
    assert digests[0] == digests[1] != other.seal_of("refine", fingerprint().id).digest


def damage_flip(folder: Path) -> str:
    content = bytearray((folder / "a").read_bytes())
    content[0] ^= 1
    (folder / "a").write_bytes(bytes(content))
    return "a: content changed"


def damage_remove(folder: Path) -> str:
    (folder / "a").unlink()
    return "a: missing"


def damage_add(folder: Path) -> str:
    (folder / "c").write_bytes(b"")
    return "c: not part of the result"


def damage_list(folder: Path) -> str:
    (folder / "files.json").write_text("[")
    return "files.json: cannot be read"


def damage_list_otherwise(folder: Path) -> str:
    (folder / "files.json").write_text("[]")
    return "files.json: cannot be read"


def change_seal(folder: Path, **changes: object) -> None:
    content = json.loads((folder / SEAL).read_text()) | changes
    (folder / SEAL).write_text(json.dumps(content))


def damage_seal(folder: Path) -> str:
    change_seal(folder, seconds=9.5)
    return "seal.json: content changed"


def damage_older_seal(folder: Path) -> str:
    change_seal(folder, format=1, record_digest="", digest="0")
    return "seal.json: its digest is not that of the files"


def damage_seal_beyond_reading(folder: Path) -> str:
    (folder / SEAL).write_bytes(b'{"stage"')
    return "seal.json: not a completion record that can be read"


DAMAGES = (
    damage_flip,
    damage_remove,
    damage_add,
    damage_list,
    damage_list_otherwise,
    damage_seal,
    damage_older_seal,
    damage_seal_beyond_reading,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(store, damage):
    folder = seal(store, fingerprint(), {"a": b"hello", "b": b"world"})
    assert store.verify("refine", fingerprint().id) == []
    expected = damage(folder)
    (problem,) = store.verify("refine", fingerprint().id)
    assert expected in problem


def test_any_flipped_bit_of_a_record_is_found(store):
    made = Fingerprint("refine", 1, {"refine.gate": "fixed"}, {"images": "ab"}, {"predict": "cd"})
    folder = seal(store, made, {"a": b"hello"})
    content = (folder / SEAL).read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        (folder / SEAL).write_bytes(damaged)
        if json_or_none(damaged) != json.loads(content):
            assert store.verify("refine", made.id), damaged[max(place - 20, 0) : place + 20]


def json_or_none(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_a_record_of_before_records_had_a_digest_is_whole(store):
    folder = seal(store, fingerprint(), {"a": b"hello"})
    content = json.loads((folder / SEAL).read_text())
    del content["record_digest"], content["consumed"]
    content["format"] = 1
    (folder / SEAL).write_text(json.dumps(content))
    assert store.verify("refine", fingerprint().id) == []


def test_a_summary_comes_back_as_it_was_sealed(store):
    made = fingerprint()
    store.partial("refine", made.id).mkdir(parents=True)
    store.seal(made, "mine", 1.0, {"by class": {10: 0.1, 9: (1, 2)}, "none": None}, {})
    assert store.verify("refine", made.id) == []


def test_one_damaged_record_hides_no_other_result(store):
    damaged, whole = fingerprint(3), fingerprint(5)
    folder = seal(store, damaged, {"a": b"hello"})
    seal(store, whole, {"a": b"hello"})
    size = (folder / "a").stat().st_size + (folder / "files.json").stat().st_size + 2
    (folder / SEAL).write_bytes(b"{}")
    found = {result.id: result for result in store.results()}
    assert found[damaged.id].seal is None
    assert "not a completion record that can be read" in found[damaged.id].problem
    assert found[damaged.id].size_bytes == size
    assert (found[whole.id].seal.id, found[whole.id].problem) == (whole.id, "")


def test_a_record_that_cannot_be_read_is_refused_with_the_remedy(store):
    folder = seal(store, fingerprint(), {"a": b"1"})
    (folder / SEAL).write_text("{}")
    with pytest.raises(StoreError, match=f"Remove the folder {folder}"):
        store.seal_of("refine", fingerprint().id)


def test_results_know_who_points_at_them(store, tmp_path):
    used, unused = fingerprint(3), fingerprint(5)
    for made in (used, unused):
        seal(store, made, {"a": b"1"})
    record = tmp_path / "work/mine/refine.done"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"id": used.id}))
    store.references.add("refine", used.id, record, "mine")
    store.references.add("refine", unused.id, record, "mine")  # it pointed there once
    assert {result.id: result.references for result in store.results()} == {used.id: ("mine",), unused.id: ()}


def test_a_reference_from_another_machine_counts(store, tmp_path, monkeypatch):
    made = fingerprint()
    seal(store, made, {"a": b"1"})
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    store.references.add("refine", made.id, tmp_path / "refine.done", "theirs")
    monkeypatch.undo()
    (result,) = store.results()
    assert result.references == ("theirs on elsewhere",)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"experiment": "mine", "host": "here", "record": 3}'])
def test_a_reference_that_cannot_be_read_counts(store, content):
    made = fingerprint()
    seal(store, made, {"a": b"1"})
    file = store.root / ".references/refine" / made.id / "x.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    (result,) = store.results()
    assert result.references == (f"a reference that cannot be read ({file})",)


def test_a_removed_result_is_gone_whole(store):
    folder = seal(store, fingerprint(), {"a": b"1"})
    (result,) = store.results()
    store.remove(result)
    assert not folder.exists()
    assert list(store.results()) == []
    assert [path.name for path in folder.parent.iterdir()] == []


def test_what_is_in_use_by_now_is_not_removed(store, tmp_path):
    folder = seal(store, fingerprint(), {"a": b"1"})
    (result,) = store.results()
    assert not store.in_use(result)
    with store.locks.making("refine", result.id, "theirs"):
        assert store.in_use(result)
        with pytest.raises(StoreError, match=f"{folder}: not removed: now in use"):
            store.remove(result)
    record = tmp_path / "refine.done"
    record.write_text(json.dumps({"id": result.id}))
    store.references.add("refine", result.id, record, "theirs")
    with pytest.raises(StoreError, match=f"{folder}: not removed: now in use"):
        store.remove(result)
    assert (folder / "a").read_bytes() == b"1"


def test_what_is_gone_by_now_is_told(store):
    seal(store, fingerprint(), {"a": b"1"})
    (result,) = store.results()
    store.remove(result)
    with pytest.raises(StoreError, match=f"{result.path}: already removed"):
        store.remove(result)


def test_embeddings_are_not_removed_while_anybody_refines(store):
    kept = Fingerprint(EMBEDDINGS, 1, {}, {}, {})
    folder = seal(store, kept, {"a": b"1"})
    (result,) = store.results()
    with store.locks.making("refine", "x", "theirs"):
        assert store.in_use(result)
        with pytest.raises(StoreError, match=f"{folder}: not removed: now in use"):
            store.remove(result)
    assert not store.in_use(result)
    store.remove(result)
    assert not folder.exists()


def test_an_interrupted_removal_is_finished_by_the_next(store, tmp_path, monkeypatch):
    folder = seal(store, fingerprint(), {"a": b"1"})
    (result,) = store.results()

    def interrupted(_folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", interrupted)
        store.remove(result)
    seal(store, fingerprint(), {"a": b"1"})  # made again, and pointed at
    record = tmp_path / "refine.done"
    record.write_text(json.dumps({"id": result.id}))
    store.references.add("refine", result.id, record, "mine")
    left, again = store.results()
    assert (left.id, left.seal, left.references) == (result.id, None, ())
    with store.locks.making("refine", result.id, "theirs"):
        assert store.in_use(left)
    store.remove(left)
    assert list(folder.parent.iterdir()) == [again.path]


def test_leftovers_of_an_interrupted_run_are_listed(store):
    folder = store.partial("refine", fingerprint().id)
    folder.mkdir(parents=True)
    (folder / "shard").write_bytes(b"12345")
    (result,) = store.results()
    assert (result.seal, result.size_bytes, result.id) == (None, 5, fingerprint().id)


HOLD = """
import sys, time
from pathlib import Path
from pipeline.workflow.result_store import StoreRoot
with StoreRoot(Path(sys.argv[1])).locks.making("refine", "x", "theirs"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_keeps_others_off_and_goes_with_its_process(store):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(store.root)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        holder = store.locks.holder("refine", "x")
        assert (holder.experiment, holder.pid) == ("theirs", process.pid)
        with pytest.raises(BlockingIOError), store.locks.making("refine", "x", "mine"):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert store.locks.holder("refine", "x") is None
    with store.locks.making("refine", "x", "mine"):
        assert store.locks.holder("refine", "x").pid == os.getpid()


# ---- records that are no records, and results that are not what was sealed -------------------------------


@pytest.mark.parametrize("content", [b"", b"garbage", b"[]", b"null", b"{}", b'{"stage": 1}', b"\xff\xfe", b"[" * 9999])
def test_a_result_with_a_broken_record_does_not_count_as_made(store, content):
    folder = seal(store, fingerprint(), {"a": b"1"})
    (folder / SEAL).write_bytes(content)
    assert not store.is_sealed("refine", fingerprint().id)
    with pytest.raises(StoreError, match=f"not a completion record that can be read.*Remove the folder {folder} to"):
        store.require_absent("refine", fingerprint().id)


def test_a_folder_without_a_record_is_in_the_way_of_a_result(store):
    folder = seal(store, fingerprint(), {"a": b"1"})
    (folder / SEAL).unlink()
    with pytest.raises(StoreError, match="no completion record. Remove this folder"):
        store.require_absent("refine", fingerprint().id)


@pytest.mark.parametrize("more", [{}, {"stage": {"new": "shape"}}, {"new_field": 1}])
def test_a_record_of_a_newer_version_is_told_as_such(store, more):
    folder = seal(store, fingerprint(), {"a": b"1"})
    (folder / SEAL).write_text(json.dumps(json.loads((folder / SEAL).read_text()) | {"format": 3} | more))
    with pytest.raises(StoreError, match="format 3, which a newer version of this program wrote.*Update this program"):
        store.seal_of("refine", fingerprint().id)
    assert not store.is_sealed("refine", fingerprint().id)


def test_records_of_the_first_format_are_whole(store):
    folder = seal(store, fingerprint(), {"a": b"1"})
    record = json.loads((folder / SEAL).read_text())
    del record["consumed"], record["record_digest"]
    record["format"] = 1
    record["record_digest"] = hash_text(json.dumps(record))  # as the first version did
    (folder / SEAL).write_text(json.dumps(record))
    assert store.verify("refine", fingerprint().id) == []
    assert store.seal_of("refine", fingerprint().id).consumed == {}


@pytest.mark.parametrize("damage", [damage_flip, damage_remove])
def test_a_changed_result_is_refused_with_what_to_do(store, damage):
    folder = seal(store, fingerprint(), {"a": b"1", "b": b"2"})
    assert store.require_unchanged("refine", fingerprint().id).files == 2
    reason = damage(folder)
    with pytest.raises(StoreError) as raised:
        store.require_unchanged("refine", fingerprint().id)
    assert reason in str(raised.value)
    assert "Remove this folder; make then makes it again" in str(raised.value)


def test_a_result_says_when_what_it_was_made_from_was_made_again_otherwise(store):
    upstream, made = fingerprint(1), fingerprint(2)
    folder = seal(store, upstream, {"a": b"1"})
    name = f"refine/{upstream.id}"
    store.partial("refine", made.id).mkdir(parents=True)
    digest = store.seal_of("refine", upstream.id).digest
    record = store.seal(made, "mine", 1.0, {}, {}, {name: digest})
    assert store.made_from_others(record) == []
    shutil.rmtree(folder)
    assert store.made_from_others(record) == []  # removed, not made otherwise
    seal(store, upstream, {"a": b"1"})
    assert store.made_from_others(record) == []
    shutil.rmtree(folder)
    seal(store, upstream, {"a": b"2"})
    (line,) = store.made_from_others(record)
    assert f"made from a refine of other content ({digest[:8]})" in line
    assert str(store.path("refine", made.id)) in line
    assert store.verify("refine", made.id) == [f"{store.path('refine', made.id)}: {line}"]
