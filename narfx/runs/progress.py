"""What a person sees of a long run: bars with the time left on a terminal, one line a phase elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from narfx.support.text import one_line

__all__ = ["ConsoleProgress", "Reporter", "Silent"]

T = TypeVar("T")


class Reporter(Protocol):
    """Where a run says what it does."""

    def say(self, text: str) -> None:
        """One line of news: the end of a phase, a warning, a result."""
        ...

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """Pass the items through, showing how far a phase is."""
        ...


class Silent:
    """Says nothing: the default for callers from Python."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """Pass the items through."""
        yield from items


class ConsoleProgress:
    """Writes to standard error, so that standard output stays free for results."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, soft_wrap=True, highlight=False)

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(one_line(text), markup=False)

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """A bar on a terminal, nothing elsewhere: the caller says a line when the phase ends."""
        if not self.console.is_terminal:
            yield from items
            return
        columns: tuple[Any, ...] = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(one_line(label), total=total)
            for item in items:
                yield item
                bar.advance(task)
