"""What a page is made of: tables, figures and sections, as plain records; the template writes them down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from narfx.support.text import one_line

__all__ = ["Cell", "Command", "Facts", "Figure", "Key", "Page", "Section", "Table", "Tile", "Verdict", "amount"]
__all__ += ["number", "percent", "plain", "share", "vector_text"]

Number = int | float


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and what a button beside it copies."""

    text: str
    copy: str | None = None
    colour: str | None = None


@dataclass(frozen=True)
class Table:
    """A table; the first column holds the headers of the rows, ``numeric`` columns are set to the right."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a text and the name of a colour."""

    text: str
    colour: str


@dataclass(frozen=True)
class Figure:
    """A drawing with a title, a description for those who do not see it, its legend, and its numbers as a table.

    ``points`` says that points of it can be hovered, focused and clicked.
    """

    title: str
    svg: Markup
    description: str
    keys: tuple[Key, ...] = ()
    table: Table | None = None
    note: str = ""
    points: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Command:
    """A command that a reader may copy, with a sentence before it."""

    text: str
    said: str = ""


@dataclass(frozen=True)
class Facts:
    """Names and values, as a list of definitions."""

    entries: tuple[tuple[str, str], ...]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; ``parts`` are texts, figures, tables, facts, commands or networks."""

    id: str
    title: str
    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Tile:
    """One number that people look for first."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """What may be said, in a sentence.

    ``mood`` is a class of the page: ``better``, ``worse``, ``undecided``, ``none`` or ``note-only``.
    """

    text: str
    mood: str = "none"

    @property
    def word(self) -> str:
        """The mood as a word, so that it is not told by a colour alone."""
        words = {"better": "Better", "worse": "Worse", "undecided": "Not told apart", "note-only": "Note"}
        return words.get(self.mood, "No verdict")


@dataclass(frozen=True)
class Page:
    """A report: what kind of run it is of, its title, and all that it shows."""

    kind: str
    title: str
    subtitle: str
    verdicts: tuple[Verdict, ...]
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    warnings: tuple[str, ...] = field(default=())
    version: str = ""


def plain(value: object, longest: int = 120) -> str:
    """A text from a file as one line that is safe in HTML and XML; the middle of a long one is left out."""
    line = "".join(letter if _allowed(letter) else "�" for letter in one_line(str(value)))
    return line if len(line) <= longest else f"{line[: longest * 2 // 3]}…{line[-longest // 4 :]}"


def _allowed(letter: str) -> bool:
    """Whether XML may hold a character."""
    return letter not in "\ufffe\uffff" and not "\ud800" <= letter <= "\udfff"


def number(value: Any) -> float | None:
    """A finite number, else ``None``."""
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def amount(value: float | None, metric: str = "") -> str:
    """A cost in a few digits: ``1.81 G``, ``3.20 ms``."""
    if value is None:
        return "–"
    if metric == "latency":
        return f"{value:.3g} ms"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " K")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def percent(value: float | None) -> str:
    """An accuracy as a percentage."""
    return "–" if value is None else f"{100 * value:.2f}\N{NO-BREAK SPACE}%"


def share(value: float | None, base: float | None, digits: int = 1) -> str:
    """How much more or less than the base's a cost is; empty where one of them is not known."""
    if value is None or not base:
        return ""
    return f"{100 * (value / base - 1):+.{digits}f}\N{NO-BREAK SPACE}%".replace("-", "−")


def vector_text(vector: Sequence[int], skips: Sequence[Sequence[int]] | None = None) -> str:
    """A vector as an ``arch.json`` and ``narfx`` take it."""
    text = f"[{', '.join(map(str, vector))}]"
    if skips is None:
        return text
    return f'{{"vector": {text}, "skips": [{", ".join(f"[{a}, {b}]" for a, b in skips)}]}}'
