"""The output of the commands: results to standard output, progress and messages to standard error."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from pipeline.presentation import words


class SafeConsole(Console):
    """A console on which no text can give commands to the terminal: names of files and of classes are not trusted."""

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print as a console does, with control characters of texts as their codes."""
        super().print(*(words.visible(each) if isinstance(each, str) else each for each in objects), **settings)


out = SafeConsole(highlight=False, soft_wrap=True, markup=False)
err = SafeConsole(stderr=True, highlight=False, soft_wrap=True, markup=False)
