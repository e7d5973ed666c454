"""The output of the commands: results to standard output, progress and messages to standard error."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

from pipeline.presentation import words

# A notebook takes plain lines best; its streams call themselves terminals, and would keep every state of a bar.
_IN_NOTEBOOK = "ipykernel" in sys.modules


class SafeConsole(Console):
    """A console on which no text can give commands to the terminal: names of files and of classes are not trusted."""

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print as a console does, with control characters of texts as their codes."""
        super().print(*(words.visible(each) if isinstance(each, str) else each for each in objects), **settings)


def _console(*, stderr: bool) -> SafeConsole:
    terminal = False if _IN_NOTEBOOK else None
    return SafeConsole(
        stderr=stderr, highlight=False, soft_wrap=True, markup=False, force_terminal=terminal, force_jupyter=False
    )


out = _console(stderr=False)
err = _console(stderr=True)
