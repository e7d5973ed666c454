"""Where the machines of one training meet, and notice when one of them fails or is gone.

The first machine listens at an address that all know, as torchrun's does. The others connect to it, say who they are,
and keep the connection: it ends with their command, however that ends. What comes over it is only ever data.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

import msgspec

from pipeline.errors import StageError

MEET_SECONDS: Final = 600.0
"""Time in which all machines must come."""
_SILENT_SECONDS: Final = 30
"""Time after which a machine without network or power counts as gone."""
_SAY_AFTER_SECONDS: Final = 2.0
_LINE_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Machines:
    """The machines of a training. rank: of this one, from 0. host, port: where the first one listens.

    agreement: text that must be the same on all machines: what they train, with which program.
    """

    count: int
    rank: int
    host: str
    port: int
    agreement: str


class _Hello(msgspec.Struct, frozen=True):
    """What a machine says as it comes."""

    rank: int
    count: int
    agreement: str


class _Answer(msgspec.Struct, frozen=True):
    """What the first machine answers: the port of torch's store there, or why it refuses."""

    store_port: int = 0
    refusal: str = ""


class _End(msgspec.Struct, frozen=True):
    """What a machine says as it ends. reason: why it failed; empty if it ended in order."""

    reason: str


Line = TypeVar("Line", _Hello, _Answer, _End)


class Meeting:
    """The connections of this machine to others, by rank, while they train; a context manager.

    store_port: of torch's store on the first machine.
    """

    def __init__(self, machines: Machines, peers: Mapping[int, socket.socket], store_port: int) -> None:
        self._machines, self.store_port = machines, store_port
        self._peers = dict(peers)
        self._reason = "its command failed"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Tell the others how this machine ended, and close the connections."""
        for peer in self._peers.values():
            _send(peer, _End(self._reason))
            peer.close()

    @property
    def connections(self) -> list[socket.socket]:
        """Return what becomes readable when another machine ends."""
        return list(self._peers.values())

    def problem(self) -> str:
        """Return which machine failed or is gone, and why; empty if none did."""
        for rank, peer in list(self._peers.items()):
            if select.select([peer], [], [], 0)[0]:
                end = _received(peer, _End)
                peer.close()
                del self._peers[rank]
                name = f"machine {rank + 1} of the {self._machines.count} that train"
                if end is None:
                    return f"{name} is gone"
                if end.reason:
                    return end.reason if end.reason.startswith("machine ") else f"{name} failed: {end.reason}"
        return ""

    def wait_for_others(self, seconds: float) -> None:
        """Wait until the other machines have ended too, at most for some seconds."""
        deadline = time.monotonic() + seconds
        while self._peers and (left := deadline - time.monotonic()) > 0:
            select.select(self.connections, [], [], left)
            self.problem()

    def ends(self, reason: str) -> None:
        """Set what the others are told at the end: why this machine failed, or nothing."""
        self._reason = reason


def meet(
    machines: Machines, store_port: int, say: Callable[[str], None], is_over: Callable[[], bool]
) -> Meeting | None:
    """Wait until all machines are there. Return None if the training is over before.

    store_port: of torch's store, on the first machine. Raise StageError if one does not come, or does not belong here.
    """
    if machines.rank:
        return _go_to_first(machines, say, is_over)
    peers: dict[int, socket.socket] = {}
    try:
        with _listening(machines) as listener:
            _gather(machines, listener, peers, say)
        for peer in peers.values():
            _send(peer, _Answer(store_port))
    except BaseException:
        for peer in peers.values():
            peer.close()
        raise
    return Meeting(machines, peers, store_port)


def _listening(machines: Machines) -> socket.socket:
    """Return a socket that listens on all networks of this machine."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", machines.port), family=family, dualstack_ipv6=both)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise StageError(
            f"compute.master: cannot listen at port {machines.port} ({reason}): another training may use it; give all "
            "machines another port"
        ) from error


def _gather(
    machines: Machines, listener: socket.socket, peers: dict[int, socket.socket], say: Callable[[str], None]
) -> None:
    begun, said = time.monotonic(), False
    while _still_there(peers) < machines.count - 1:
        listener.settimeout(0.2)
        try:
            peer, _ = listener.accept()
        except TimeoutError:
            missing = [str(rank + 1) for rank in range(1, machines.count) if rank not in peers]
            where = f"machine {', '.join(missing)} of the {machines.count} that train"
            waited = time.monotonic() - begun
            if waited > MEET_SECONDS:
                raise StageError(
                    f"{where} did not come within {MEET_SECONDS:.0f} s: give the same command there, with its own "
                    f"NODE_RANK and with MASTER={machines.host}:{machines.port}"
                ) from None
            if waited > _SAY_AFTER_SECONDS and not said:
                say(f"waiting for {where}")
                said = True
            continue
        _welcome(machines, peer, peers)


def _still_there(peers: dict[int, socket.socket]) -> int:
    """Return how many machines wait, without those that are gone again: waiting, they send nothing."""
    for rank, peer in list(peers.items()):
        if _is_gone(peer):
            peers.pop(rank).close()
    return len(peers)


def _is_gone(peer: socket.socket) -> bool:
    """Return whether a machine that waits has left: its connection has something to read."""
    return bool(select.select([peer], [], [], 0)[0])


def _welcome(machines: Machines, peer: socket.socket, peers: dict[int, socket.socket]) -> None:
    """Take a machine in. Raise StageError for one that trains something else; others are sent away."""
    hello = _received(peer, _Hello)
    if hello is None:  # somebody else, or gone again
        peer.close()
        return
    refusal = ""
    if hello.count != machines.count:
        refusal = f"compute.nodes is {hello.count} on machine {hello.rank + 1}, and {machines.count} on the first"
    elif hello.agreement != machines.agreement:
        refusal = (
            f"machine {hello.rank + 1} does not train the same as the first, or runs another version of this program: "
            f"{hello.agreement} there, {machines.agreement} here"
        )
    elif not 0 < hello.rank < machines.count:
        refusal = f"compute.node_rank is {hello.rank}, with compute.nodes = {machines.count}"
    elif hello.rank in peers and not _is_gone(peers[hello.rank]):
        _send(peer, _Answer(refusal=f"another process has come as compute.node_rank = {hello.rank}"))
        peer.close()
        return
    if refusal:
        _send(peer, _Answer(refusal=refusal))
        peer.close()
        raise StageError(refusal)
    _notice_silence(peer)
    peers[hello.rank] = peer


def _go_to_first(machines: Machines, say: Callable[[str], None], is_over: Callable[[], bool]) -> Meeting | None:
    begun, said, failure = time.monotonic(), False, "it did not begin"
    while not is_over():
        waited = time.monotonic() - begun
        if waited > MEET_SECONDS:
            raise StageError(
                f"compute.master: the first machine was not to be met at {machines.host}:{machines.port} within "
                f"{MEET_SECONDS:.0f} s ({failure}): give the same command there, with NODE_RANK=0"
            )
        if waited > _SAY_AFTER_SECONDS and not said:
            say(f"waiting for the first of the {machines.count} machines, at {machines.host}:{machines.port}")
            said = True
        try:
            first = socket.create_connection((machines.host, machines.port), timeout=5)
        except OSError as error:
            failure = error.strerror or str(error)
            time.sleep(0.2)
            continue
        _notice_silence(first)
        _send(first, _Hello(machines.rank, machines.count, machines.agreement))
        answer = _received(first, _Answer, MEET_SECONDS)
        if answer is not None and answer.refusal:
            first.close()
            raise StageError(answer.refusal)
        if answer is not None:
            return Meeting(machines, {0: first}, answer.store_port)
        first.close()  # it was ended meanwhile, and may be started again
        time.sleep(0.2)
    return None


def _notice_silence(connection: socket.socket) -> None:
    """Have the system end a connection to a machine that has lost its network or its power."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in ((socket.TCP_KEEPIDLE, _SILENT_SECONDS // 3), (socket.TCP_KEEPINTVL, _SILENT_SECONDS // 6)):
        connection.setsockopt(socket.IPPROTO_TCP, option, seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def _send(peer: socket.socket, line: msgspec.Struct) -> None:
    """Send a line; to a machine that is gone there is nothing to send."""
    try:
        peer.sendall(msgspec.json.encode(line) + b"\n")
    except OSError:
        return


def _received(peer: socket.socket, kind: type[Line], seconds: float = 5.0) -> Line | None:
    """Return the next line that a machine sends; None if it is gone, silent, or sends something else."""
    deadline, text = time.monotonic() + seconds, b""
    try:
        while not text.endswith(b"\n") and len(text) < _LINE_BYTES:
            peer.settimeout(max(deadline - time.monotonic(), 0.01))
            byte: Any = peer.recv(1)  # one line and no more: the next is for a later call
            if not byte:
                return None
            text += byte
        return msgspec.json.decode(text, type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
