"""One maker for a result: a second process waits for the first, and then uses its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pipeline.workflow.fingerprint import Fingerprint
from pipeline.workflow.result_store import StoreRoot

WAIT_SECONDS = 2.0


@contextmanager
def held(
    store: StoreRoot, fingerprint: Fingerprint, what: str, experiment: str, say: Callable[[str], None]
) -> Iterator[bool]:
    """Hold a result's lock, after waiting for another holder; give False where that holder has made the result."""
    said = False
    with ExitStack() as lock:
        while True:
            try:
                lock.enter_context(store.lock(fingerprint.stage, fingerprint.id, experiment))
                break
            except BlockingIOError:
                if not said:
                    holder = store.holder(fingerprint.stage, fingerprint.id)
                    say(f"{what}: waiting for {holder or 'another process'}, which makes it")
                    said = True
                time.sleep(WAIT_SECONDS)
        yield not store.is_sealed(fingerprint.stage, fingerprint.id)
