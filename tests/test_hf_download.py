"""Downloading from a hub: one on this machine that answers as Hugging Face's does."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("huggingface_hub", reason="needs the extra hf: make setup EXTRAS=hf")

from pipeline.errors import S4MError
from pipeline.sam.hf.download import RECORD, Origin, download_model, origin_of

NAME = "somebody/sam2-small"
REVISIONS = {"main": "a" * 40, "v1": "b" * 40}
FILES = {
    "config.json": json.dumps({"model_type": "sam2"}).encode(),
    "preprocessor_config.json": b'{"image_processor_type": "X"}',
    "model.safetensors": bytes(range(256)) * 40,
    "pytorch_model.bin": b"not wanted",
    "README.md": b"not wanted",
}


class Hub(ThreadingHTTPServer):
    """`refusal`: a status and error code for every answer. `files`: what the repository has."""

    refusal: tuple[int, str] | None = None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.sent = dict(FILES), []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self):
        self.answer(with_body=True)

    def do_HEAD(self):
        self.answer(with_body=False)

    def answer(self, with_body):
        hub, path = self.server, self.path.partition("?")[0]
        if hub.refusal is not None:
            return self.send(hub.refusal[0], b"", {"X-Error-Code": hub.refusal[1], "X-Error-Message": "no"})
        if path.startswith("/api/models/"):
            revision = path.partition("/revision/")[2] or "main"
            commit = REVISIONS.get(revision, revision if revision in REVISIONS.values() else None)
            if commit is None:
                return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            listed = [{"rfilename": name} for name in hub.files]
            return self.send(200, json.dumps({"id": NAME, "sha": commit, "siblings": listed}).encode(), {})
        commit, _, name = path.removeprefix(f"/{NAME}/resolve/").partition("/")
        content = hub.files.get(name)
        if commit not in REVISIONS.values() or content is None:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        if with_body:
            hub.sent.append(name)
        return self.send(200, content, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, with_body=with_body)

    def send(self, status, content, headers, *, with_body=True):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body and self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
        hub.shutdown()
        thread.join()


def test_a_model_is_fetched_once_and_its_revision_recorded(hub, tmp_path):
    folder = tmp_path / "mine"
    assert download_model(NAME, folder) == origin_of(folder) == Origin(NAME, REVISIONS["main"])
    wanted = ["config.json", "preprocessor_config.json", "model.safetensors"]
    assert hub.sent == wanted
    assert all((folder / name).read_bytes() == FILES[name] for name in wanted)
    assert not (folder / "pytorch_model.bin").exists()
    for revision in (None, "main", REVISIONS["main"]):
        assert download_model(NAME, folder, revision) == Origin(NAME, REVISIONS["main"])
    assert hub.sent == wanted
    hub.refusal = (500, "")
    assert download_model(NAME, folder).revision == REVISIONS["main"]  # needs no hub


def test_another_revision_gets_a_folder_of_its_own(hub, tmp_path):
    folder = tmp_path / "mine"
    assert download_model(NAME, folder, "v1").revision == REVISIONS["v1"]
    with pytest.raises(S4MError, match=f"holds revision {'b' * 40}, asked for {'a' * 40}: delete the folder"):
        download_model(NAME, folder, "main")
    assert download_model(NAME, tmp_path / "other", "main").revision == REVISIONS["main"]


def test_a_download_that_stops_goes_on(hub, tmp_path):
    folder, content = tmp_path / "mine", hub.files.pop("model.safetensors")
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "1.safetensors"}}).encode()
    with pytest.raises(S4MError, match="weights named in model.safetensors.index.json are missing: 1.safetensors"):
        download_model(NAME, folder)
    assert origin_of(folder) is None
    hub.files["1.safetensors"] = content
    download_model(NAME, folder)
    assert (folder / "1.safetensors").read_bytes() == content
    assert hub.sent.count("config.json") == 1


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (
            (403, "GatedRepo"),
            rf"{NAME}: its authors ask for accepted terms: accept them at http://.*/{NAME}, then .*HF_TOKEN",
        ),
        ((404, "RepoNotFound"), f"{NAME}: no such model at http://.*, or a private one: check the name"),
    ],
)
def test_what_the_hub_refuses_is_told(hub, tmp_path, refusal, message):
    hub.refusal = refusal
    with pytest.raises(S4MError, match=message):
        download_model(NAME, tmp_path / "mine")
    assert not (tmp_path / "mine" / RECORD).exists()


def test_no_such_revision(hub, tmp_path):
    with pytest.raises(S4MError, match=f"{NAME}: has no such revision; .*/{NAME}/commits/main lists them"):
        download_model(NAME, tmp_path / "mine", "v9")


def test_without_a_network(tmp_path):
    with pytest.raises(
        S4MError, match=r"cannot be fetched from http://127\.0\.0\.1:1 \(.*copy the folder from another"
    ):
        download_model(NAME, tmp_path / "mine", hub="http://127.0.0.1:1")


def test_a_repository_in_another_layout(hub, tmp_path):
    del hub.files["config.json"]
    with pytest.raises(
        S4MError, match="not in the layout of transformers, which has config.json and model.safetensors"
    ):
        download_model(NAME, tmp_path / "mine")


def test_the_command_says_how_to_use_it(hub, s4m, tmp_path, monkeypatch):
    monkeypatch.setenv("S4M_WEIGHTS", str(tmp_path / "weights"))
    told = s4m("weights", "get", f"hf:{NAME}")
    assert told.status == 0
    found = "".join(told.out.split())
    assert f"{tmp_path}/weights/hf/{NAME}:{NAME},revision{'a' * 40}.Useitassam.model:hf:{NAME}" in found
    checked = "".join(s4m("weights", "check", f"hf:{NAME}").out.split())
    assert f"customweightsofhf:{NAME},SHA-256" in checked
    assert checked.endswith(f",revision{'a' * 40}of{NAME}")
    elsewhere = s4m("weights", "get", f"hf:{NAME}", "--folder", tmp_path / "mine", "--revision", "v1")
    assert "".join(elsewhere.out.split()).endswith(f"revision{'b' * 40}.Useitassam.model:hf:{tmp_path}/mine")


def test_the_command_refuses_what_is_no_name(s4m):
    assert "expected a name as hf:facebook/sam2.1-hiera-tiny" in " ".join(s4m("weights", "get", "hf:mine").err.split())
    assert "has one revision only" in s4m("weights", "get", "vit_b", "--revision", "v1").err
