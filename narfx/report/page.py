"""From a page's parts to HTML: one file without any address in it, so that nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from narfx._version import __version__
from narfx.report.network import NetworkView
from narfx.report.parts import Cell, Command, Facts, Figure, Page, Table

__all__ = ["as_html"]

_KINDS: dict[type, str] = {
    str: "text", Figure: "figure", Table: "table", Facts: "facts", Command: "command", NetworkView: "network"
}  # fmt: skip


def as_html(page: Page) -> str:
    """The page as one HTML document. All texts in it are escaped; only its own script may run."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["kind"] = lambda part: _KINDS[type(part)]
    environment.filters["cell"] = lambda cell: cell if isinstance(cell, Cell) else Cell(str(cell))
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values: dict[str, Any] = {
        "page": page,
        "version": __version__,
        "style": Markup(_file("page.css")),
        "script": Markup(script),
        "script_digest": digest,
    }
    return environment.from_string(_file("page.html")).render(values)


def _file(name: str) -> str:
    return resources.files("narfx.report").joinpath("templates", name).read_text(encoding="utf-8")
