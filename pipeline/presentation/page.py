"""Pages of HTML from templates, each in one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES: Final = Path(__file__).parent / "templates"
_SCRIPT: Final = "page.js.html"


def render(template: str, values: Mapping[str, Any]) -> str:
    """A template as a whole page, that UTF-8 can hold.

    Whatever comes from data is escaped, and no script but the page's own may run.
    """
    html = _environment().get_template(template).render(**values, script_hash=_script_hash())
    # File names may be bytes that are no text at all.
    return html.encode("utf-8", "backslashreplace").decode("utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@cache
def _script_hash() -> str:
    """The page's script as its content security policy names it."""
    script = _environment().get_template(_SCRIPT).render()
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
