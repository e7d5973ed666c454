"""Renders HTML pages from templates, each page in one self-contained file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES: Final = Path(__file__).parent / "templates"


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return a template as a whole page, without text that UTF-8 cannot encode.

    Everything that comes from data is escaped, and only the page's own script can run.
    """
    html = _environment().get_template(template).render(**values, script_hash=_script_hash())
    # File names may be bytes that are not UTF-8.
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
    """Return the hash by which the content security policy names the page's script."""
    script = _environment().get_template("page.js.html").render()
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
