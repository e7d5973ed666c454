"""Child processes that end with their parent, also where that is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from multiprocessing import parent_process
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent(number: int = signal.SIGKILL, parent: int | None = None) -> None:
    """Have the kernel send a signal to this process when its parent ends.

    parent: its number, for the case that it has ended already.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def end_with_starter() -> None:
    """End this process when the one that started it through multiprocessing ends, whatever this one does then.

    That one need not be the parent: a fork server may stand between the two.
    """
    starter = parent_process()
    if starter is None:
        return

    def wait() -> None:
        starter.join()
        os._exit(1)

    threading.Thread(target=wait, name="ends with its starter", daemon=True).start()
