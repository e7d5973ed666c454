from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from segment_anything import sam_model_registry

from pipeline.errors import S4MError
from pipeline.sam import weights
from pipeline.sam.build import WRAPPERS, build_sam, embedding_shape, read_state
from pipeline.sam.files import PublishedFile
from pipeline.sam.tiny.model import build_sam_tiny
from pipeline.sam.weights import download_weights, hash_weights, identify_weights

CONTENT = bytes(range(256)) * 4096


def shapes_of(model: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        sam = sam_model_registry[model]()
    return {name: tensor.shape for name, tensor in sam.state_dict().items()}


def small_state(model: str) -> dict[str, torch.Tensor]:
    """Tensors of a model's shapes, each a single number in the file."""
    return {name: torch.full((), 0.25).expand(shape) for name, shape in shapes_of(model).items()}


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


# Loading


def test_custom_weights_load_without_copies(tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.pth", small_state("vit_b"))
    sam = build_sam("vit_b", path)
    assert {tensor.device.type for tensor in (*sam.parameters(), *sam.buffers())} == {"cpu"}
    assert all((tensor == 0.25).all() for tensor in sam.state_dict().values())
    assert sam.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert sam.pixel_std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])
    assert not sam.training
    assert not any(tensor.is_contiguous() for tensor in sam.parameters() if tensor.numel() > 1)


def test_custom_weights_are_known_by_content(tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.pth", small_state("vit_b"))
    known = identify_weights("vit_b", path)
    assert known == weights.Weights("vit_b", path, hashlib.sha256(path.read_bytes()).hexdigest(), published=False)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("prefix", ["", "sam.", "module.", "module.model."])
def test_checkpoints_of_trainings(tmp_path: Path, wrapper: str, prefix: str) -> None:
    """As MedSAM, micro-sam and others write them: beside optimizers and counters, under names of a larger module."""
    state = OrderedDict((f"{prefix}{name}", tensor) for name, tensor in small_state("vit_b").items())
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    path = saved(tmp_path / "mine.pth", {wrapper: state, "optimizer": optimizer, "epoch": 3, "best": 0.9})
    sam = build_sam("vit_b", path)
    assert all((tensor == 0.25).all() for tensor in sam.state_dict().values())


def test_half_precision_is_widened(tmp_path: Path) -> None:
    state = {name: torch.zeros((), dtype=torch.half).expand(shape) for name, shape in shapes_of("vit_b").items()}
    sam = build_sam("vit_b", saved(tmp_path / "half.pth", state))
    assert {tensor.dtype for tensor in sam.state_dict().values()} == {torch.float32}


def test_sam_tiny_keeps_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in build_sam_tiny().state_dict().items()
    }
    sam = build_sam("sam_tiny", saved(tmp_path / "tiny.pt", state))
    for name, value in sam.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype)), name


def test_random_weights_are_repeatable_and_use_positions() -> None:
    first, again, other = (build_sam("sam_tiny", random_weights_seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["mask_decoder.iou_token.weight"], other["mask_decoder.iou_token.weight"])


def test_random_weights_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_sam("sam_tiny", random_weights_seed=0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
def test_random_weights_give_positions_an_effect() -> None:
    state = build_sam("vit_b", random_weights_seed=0).state_dict()
    for name in ("image_encoder.pos_embed", "image_encoder.blocks.0.attn.rel_pos_h"):
        assert state[name].std() > 0.05, name


# Refusing


def refusal(model: str, path: Path) -> str:
    with pytest.raises(S4MError) as caught:
        build_sam(model, path)
    return str(caught.value)


def test_unknown_model(tmp_path: Path) -> None:
    assert refusal("vit_x", tmp_path / "a") == "vit_x: no such SAM; there are sam_tiny, vit_b, vit_l, vit_h"


@pytest.mark.slow
def test_another_models_tensors(tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.pth", small_state("vit_l"))
    assert refusal("vit_b", path) == f"{path}: these are weights of vit_l, not of vit_b: set sam.model to vit_l"


def test_another_models_published_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "renamed.pth", small_state("vit_l"))
    monkeypatch.setitem(weights.PUBLISHED, "vit_l", PublishedFile("l.pth", path.stat().st_size, hash_weights(path)))
    assert refusal("vit_b", path) == f"{path}: these are the weights of vit_l, not of vit_b: set sam.model to vit_l"


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    state = small_state("vit_b")
    del state["mask_decoder.iou_token.weight"]
    state["mask_decoder.hf_token.weight"] = torch.zeros(1)
    state["image_encoder.pos_embed"] = torch.zeros(1, 32, 32, 768)
    path = saved(tmp_path / "other.pth", state)
    assert refusal("vit_b", path) == (
        f"{path}: does not fit vit_b: missing: mask_decoder.iou_token.weight; unknown: mask_decoder.hf_token.weight; "
        "image_encoder.pos_embed is (1, 32, 32, 768), expected (1, 64, 64, 768)"
    )


def test_many_differences_are_counted(tmp_path: Path) -> None:
    path = saved(tmp_path / "other.pth", {f"layer.{index}": torch.zeros(1) for index in range(5)})
    assert "unknown: layer.0, layer.1, layer.2 and 2 more" in refusal("vit_b", path)


def test_whole_numbers_for_weights(tmp_path: Path) -> None:
    state = small_state("vit_b")
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 256, dtype=torch.int64)
    path = saved(tmp_path / "other.pth", state)
    assert "mask_decoder.iou_token.weight is torch.int64, expected torch.float32" in refusal("vit_b", path)


def test_a_checkpoint_without_a_model(tmp_path: Path) -> None:
    path = saved(tmp_path / "epoch.pth", {"weights": small_state("vit_b"), "epoch": 3, "model": "vit_b"})
    assert refusal("vit_b", path) == (
        f"{path}: expected a state_dict (names to tensors), found epoch, model, weights: save the model's state_dict "
        "alone"
    )


def test_a_wrong_training_checkpoint_is_told_by_its_tensors(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in small_state("vit_b").items()}
    state["module.head.weight"] = state.pop("module.mask_decoder.mask_tokens.weight")
    path = saved(tmp_path / "epoch.pth", {"model_state": state, "epoch": 3})
    assert refusal("vit_b", path) == (
        f"{path}: does not fit vit_b: missing: mask_decoder.mask_tokens.weight; unknown: head.weight"
    )


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def test_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = saved(tmp_path / "evil.pth", {"a": Evil(trace)})
    message = refusal("vit_b", path)
    assert message == (
        f"{path}: holds more than tensors (posix.system), which is refused, as loading it could run programs: "
        "save the model's state_dict alone"
    )
    assert not trace.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_custom_file(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path / "mine.pth", small_state("vit_b"))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert refusal("vit_b", path) == f"{path}: truncated, or not a file of torch.save (a zip archive): fetch it again"


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_checkpoint_that_the_system_does_not_give_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    real = io.open

    def failing(file: str, *arguments: str) -> io.IOBase:
        if file == str(path):
            raise OSError(number, os.strerror(number), str(file))
        return real(file, *arguments)

    monkeypatch.setattr(io, "open", failing)
    assert refusal("vit_b", path) == f"{path}: cannot be read: {os.strerror(number)}"


def test_a_bare_pickle(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "trace")))
    assert "not a file of torch.save" in refusal("vit_b", path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.pth", {"a": torch.arange(10.0)})
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            read_state(path)  # not all damage can be seen: some of it lies in the tensors' values
        except S4MError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 20


def test_missing_file_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4M_WEIGHTS", str(tmp_path))
    with pytest.raises(S4MError) as caught:
        build_sam("vit_b")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'sam_vit_b_01ec64.pth'}: no weights for vit_b: there is no such file.")
    assert "`s4m weights get vit_b`" in message
    assert "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth (375,042,383 bytes" in message


def test_missing_custom_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    assert refusal("vit_b", path) == f"{path}: no weights for vit_b: there is no such file: check sam.checkpoint"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> PublishedFile:
    """A small file published in the place of vit_b."""
    file = PublishedFile("sam_small.pth", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(weights.PUBLISHED, "vit_b", file)
    return file


def test_published_file_is_known_under_any_name(tmp_path: Path, published: PublishedFile) -> None:
    path = tmp_path / "renamed.pth"
    path.write_bytes(CONTENT)
    assert identify_weights("vit_b", path).published


def test_published_name_with_other_content(tmp_path: Path, published: PublishedFile) -> None:
    path = tmp_path / published.name
    path.write_bytes(CONTENT[::-1])
    found = hashlib.sha256(CONTENT[::-1]).hexdigest()
    with pytest.raises(S4MError, match=f"expected SHA-256 {published.sha256}, found {found}"):
        identify_weights("vit_b", path)


def test_published_file_truncated(tmp_path: Path, published: PublishedFile) -> None:
    path = tmp_path / published.name
    path.write_bytes(CONTENT[:1000])
    with pytest.raises(S4MError, match="truncated: 1,000 bytes of 1,048,576"):
        identify_weights("vit_b", path)


# Fetching


class Server(ThreadingHTTPServer):
    """Serves CONTENT, or `content`; `cut_after`: ends the next answer early. Remembers the ranges asked for."""

    content = CONTENT
    cut_after: int | None = None
    knows_ranges = True
    status: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.paths: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        server.paths.append(self.path)
        if server.status is not None:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.knows_ranges else 0
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cut_after is not None:
            body, server.cut_after = body[: server.cut_after], None
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, progress: weights.Progress | None = None) -> weights.Weights:
    return download_weights("vit_b", folder, progress, f"http://127.0.0.1:{server.server_port}")


def test_fetches_and_reports_progress(tmp_path: Path, server: Server, published: PublishedFile) -> None:
    seen: list[tuple[int, int]] = []
    found = fetch(server, tmp_path / "new", lambda done, total: seen.append((done, total)))
    path = tmp_path / "new" / published.name
    assert found == weights.Weights("vit_b", path, published.sha256, published=True)
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == [published.name]
    assert server.paths == [f"/{published.name}"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_what_is_there_is_not_fetched_again(tmp_path: Path, server: Server, published: PublishedFile) -> None:
    fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert server.ranges == [None]


def test_goes_on_after_a_cut(tmp_path: Path, server: Server, published: PublishedFile) -> None:
    server.cut_after = 300_000
    with pytest.raises(
        S4MError, match=r"the connection ended after 300,000 of 1,048,576 bytes; what has arrived is kept"
    ):
        fetch(server, tmp_path)
    assert (tmp_path / f"{published.name}.part").stat().st_size == 300_000
    assert not (tmp_path / published.name).exists()
    assert fetch(server, tmp_path).published
    assert server.ranges == [None, "bytes=300000-"]


def test_starts_over_where_the_server_knows_no_ranges(tmp_path: Path, server: Server, published: PublishedFile) -> None:
    (tmp_path / f"{published.name}.part").write_bytes(CONTENT[:1000])
    server.knows_ranges = False
    assert fetch(server, tmp_path).published


@pytest.mark.parametrize("leftover", [len(CONTENT), len(CONTENT) + 1])
def test_whole_or_too_long_leftovers(tmp_path: Path, server: Server, published: PublishedFile, leftover: int) -> None:
    (tmp_path / f"{published.name}.part").write_bytes((CONTENT + b"x")[:leftover])
    assert fetch(server, tmp_path).published
    assert server.ranges == ([] if leftover == len(CONTENT) else [None])


def test_wrong_content_is_deleted(tmp_path: Path, server: Server, published: PublishedFile) -> None:
    server.content = CONTENT[::-1]
    with pytest.raises(S4MError, match=f"expected {published.sha256}: it was deleted"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_not_found(tmp_path: Path, server: Server, published: PublishedFile) -> None:
    server.status = 404
    with pytest.raises(S4MError, match="the server answered 404 Not Found"):
        fetch(server, tmp_path)


def test_no_network_says_what_to_put_where(tmp_path: Path, published: PublishedFile) -> None:
    with pytest.raises(S4MError) as caught:
        download_weights("vit_b", tmp_path, publisher="http://127.0.0.1:9")
    message = str(caught.value)
    assert "the server cannot be reached" in message
    assert f"put https://dl.fbaipublicfiles.com/segment_anything/{published.name} " in message
    assert str(tmp_path / published.name) in message


def test_two_processes_do_not_fetch_at_once(tmp_path: Path, server: Server, published: PublishedFile) -> None:
    import fcntl

    part = tmp_path / f"{published.name}.part"
    with part.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(S4MError, match="another process is fetching this file"):
            fetch(server, tmp_path)
    assert server.ranges == []


def test_sam_tiny_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(
        S4MError, match="sam_tiny: has no published weights to fetch; those that have: vit_b, vit_l, vit_h"
    ):
        download_weights("sam_tiny", tmp_path)


def test_identifying_needs_no_torch() -> None:
    code = "import sys, pipeline.sam.weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_small_sam_takes_other_input_sides() -> None:
    sam = build_sam("sam_tiny", input_side=64)
    assert (sam.image_encoder.img_size, build_sam("sam_tiny").image_encoder.img_size) == (64, 256)


def test_a_published_sam_takes_its_own_input_side_only() -> None:
    with pytest.raises(S4MError, match="vit_b takes images of 1024 pixels only: leave sam.input_side out"):
        embedding_shape("vit_b", 512)


def test_embedding_shapes() -> None:
    assert embedding_shape("vit_b") == embedding_shape("vit_b", 1024) == (256, 64, 64)
    assert embedding_shape("sam_tiny") == (128, 32, 32)
    assert embedding_shape("sam_tiny", 256) == (128, 32, 32)
