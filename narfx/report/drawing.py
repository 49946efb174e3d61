"""Figures by matplotlib as SVG inside a page: their colours are the page's, and their points can be focused.

A figure is drawn in placeholder colours, which stand for the page's CSS variables; so one drawing serves light, dark
and print. An artist whose gid begins with ``point-`` becomes a point that a reader can hover, focus and click.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

__all__ = ["COLOURS", "SERIES", "Point", "colour", "draw"]

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
SERIES = tuple(f"series-{index}" for index in range(8))
"""The colours of choices and lines, in order; ``series-0`` is that of the base."""
COLOURS = ("ink", "muted", "line", "card", "refined", "base", "random", *SERIES)
"""The names of the page's colours."""
_KEYS = {name: f"#0a0b{index:02x}" for index, name in enumerate(COLOURS)}
_NAMES = {key: name for name, key in _KEYS.items()}
_KEY = re.compile(r"#0a0b[0-9a-f]{2}")
_REFERENCE = re.compile(r"(url\(#|^#)([^)]+)")
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be selected, read aloud, and takes the page's font
    "svg.hashsalt": "narfx",
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": 10,
    "text.color": _KEYS["ink"],
    "axes.labelcolor": _KEYS["muted"],
    "axes.edgecolor": _KEYS["line"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _KEYS["line"],
    "grid.linewidth": 0.7,
    "xtick.color": _KEYS["line"],
    "ytick.color": _KEYS["line"],
    "xtick.labelcolor": _KEYS["muted"],
    "ytick.labelcolor": _KEYS["muted"],
    "axes.formatter.use_mathtext": False,
}


@dataclass(frozen=True)
class Point:
    """What a point of a figure says when it is hovered or focused, and what a click on it copies."""

    text: str
    copy: str


def colour(name: str) -> str:
    """What matplotlib is given for one of the page's colours."""
    return _KEYS[name]


def draw(
    name: str,
    paint: Callable[[Any], None],
    *,
    width: float = 5.0,
    height: float = 3.0,
    label: str = "",
    points: Mapping[str, Point] | None = None,
) -> Markup:
    """What ``paint`` puts on a matplotlib figure, as an ``<svg>`` element.

    Args:
        name: Unique in the page: the ids inside the element begin with it.
        paint: Is called with the figure.
        width: In inches; text has 10 points.
        height: In inches.
        label: What a screen reader says of the figure.
        points: By the gid of their artists.
    """
    import matplotlib as mpl
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with style.context("default"), mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        paint(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _for_page(buffer.getvalue(), name, label, points or {})


def _for_page(svg: str, name: str, label: str, points: Mapping[str, Point]) -> Markup:
    """The element without what a file needs, with the page's colours, its own ids, and its points."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK)
    root = ElementTree.fromstring(svg.partition("<svg ")[1] + svg.partition("<svg ")[2])
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    for child in [child for child in root if child.tag == f"{{{_SVG}}}metadata"]:
        root.remove(child)
    for defs in root.iter(f"{{{_SVG}}}defs"):
        for sheet in defs.findall(f"{{{_SVG}}}style"):
            defs.remove(sheet)
    for element in root.iter():
        point = points.get(element.get("id", ""))
        if point is not None:
            _make_point(element, point)
    _rename(root, name)
    root.set("role", "group" if points else "img")
    root.set("aria-label", label)
    return Markup(_KEY.sub(_variable, ElementTree.tostring(root, encoding="unicode")))


def _variable(found: re.Match[str]) -> str:
    return f"var(--{_NAMES[found[0]]})" if found[0] in _NAMES else found[0]


def _make_point(element: ElementTree.Element, point: Point) -> None:
    for key, value in (
        ("class", "point"), ("tabindex", "-1"), ("role", "button"), ("aria-label", point.text.replace("\n", ", ")),
        ("data-tip", point.text), ("data-copy", point.copy),
    ):  # fmt: skip
        element.set(key, value)


def _rename(root: ElementTree.Element, name: str) -> None:
    """Give the ids that something refers to the figure's own prefix, and remove all others."""
    used = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key.endswith("href") or "url(#" in value:
                used |= {found[2] for found in _REFERENCE.finditer(value)}
                element.set(key, _REFERENCE.sub(lambda found: f"{found[1]}{name}-{found[2]}", value))
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{name}-{own}")
        if "style" in element.attrib and "font:" in element.attrib["style"]:
            element.set("style", re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", element.attrib["style"]))
