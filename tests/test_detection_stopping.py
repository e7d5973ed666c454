"""Signals that wait for the end of an iteration."""

from __future__ import annotations

import os
import signal

import pytest

from pipeline.detection import stopping
from pipeline.detection.stopping import StopSignals


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def notes():
    return []


@pytest.fixture
def stop(notes):
    """Ready to catch what, before it, raised KeyboardInterrupt; as it was afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signals = StopSignals(notes.append)
    with signals.caught():
        yield signals
    assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_acts_at_once_where_it_is_not_held(stop, notes):
    with pytest.raises(KeyboardInterrupt):
        send()
    assert notes == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_held_acts_on_release(stop, notes, number):
    stop.hold()
    send(number)
    assert len(notes) == 1
    assert stop.waits_in_any_process()
    with pytest.raises(KeyboardInterrupt):
        stop.release()


def test_without_a_signal_nothing_happens(stop, notes):
    stop.hold()
    assert not stop.waits_in_any_process()
    stop.release()
    assert notes == []


def test_a_second_signal_does_not_wait(stop, monkeypatch):
    monkeypatch.setattr(stopping, "ONE_STOP_SECONDS", 0.0)
    stop.hold()
    send()
    with pytest.raises(KeyboardInterrupt):
        send()


def test_a_signal_that_comes_twice_at_a_time_is_one(stop, monkeypatch):
    monkeypatch.setattr(stopping, "ONE_STOP_SECONDS", 600.0)
    stop.hold()
    send(signal.SIGTERM)
    send(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        stop.release()
    send()  # while what is done is being saved


def test_what_is_ignored_or_left_to_the_system_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals(lambda _: None).caught():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_loaders_worker_leaves_the_signal_to_the_process_that_trains(stop):
    worker = os.fork()
    if worker == 0:
        try:
            send()
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
