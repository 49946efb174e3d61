"""The events of a run as typed records: one class for each kind of line in ``events.jsonl``.

A line is a JSON object with its kind under ``event``, then the values of the record, then ``seconds`` since the run
began, then ``crc``, the CRC-32 of all before it. Reading is tolerant of other versions: a value that is not there is
``None``, a kind that is not known here is an :class:`Other`, and keys without a field are kept in ``more``.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

__all__ = [
    "EVENTS",
    "Distilled",
    "Done",
    "Epoch",
    "Event",
    "Other",
    "Saved",
    "Scored",
    "StageBegan",
    "Step",
    "Subscriber",
    "Trained",
    "Weights",
    "from_line",
    "from_texts",
    "iter_events",
    "read_events",
    "readable_events",
    "to_text",
]

EVENTS = "events.jsonl"
_CRC = ', "crc": '


@dataclass(frozen=True, kw_only=True)
class Event:
    """What all events share: the ``seconds`` since the run began, and the values that have no field of their own."""

    kind: ClassVar[str]
    more: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None

    def line(self) -> dict[str, Any]:
        """The line without its seconds: the kind, the fields that are not ``None``, and ``more``."""
        own = {entry.name: getattr(self, entry.name) for entry in _own_fields(type(self))}
        return {"event": self.kind, **{name: value for name, value in own.items() if value is not None}, **self.more}


@dataclass(frozen=True, kw_only=True)
class Weights(Event):
    """A search trained its shared weights for one epoch (from 1): the mean ``loss`` and the last learning rate."""

    kind: ClassVar[str] = "weights"
    epoch: int | None = None
    loss: float | None = None
    lr: float | None = None


@dataclass(frozen=True, kw_only=True)
class Distilled(Event):
    """A search taught its operators the base's features for one epoch (from 1).

    ``loss`` is the mean error of all operators, ``errors`` that of each, by the name of the site and of the operator:
    the squared error over the variance of the base's output. ``left_out`` counts the batches that were left out
    because they gave NaN, by ``"operator at site"``.
    """

    kind: ClassVar[str] = "distilled"
    epoch: int | None = None
    loss: float | None = None
    lr: float | None = None
    errors: dict[str, dict[str, float | None]] | None = None
    left_out: dict[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Scored(Event):
    """A search measured what replacements change; the strategy's metrics are in ``more``."""

    kind: ClassVar[str] = "scored"
    epoch: int | None = None
    images: int | None = None
    vectors: int | None = None


@dataclass(frozen=True, kw_only=True)
class Step(Event):
    """One step of a strategy: the proposed ``vectors``, their ``rewards`` and, in ``more``, the strategy's metrics."""

    kind: ClassVar[str] = "step"
    metric: str | None = None
    epoch: int | None = None
    vectors: list[list[int]] | None = None
    rewards: list[float] | None = None

    @property
    def reward(self) -> Any:
        """The mean reward of the batch."""
        return self.more.get("reward")

    @property
    def gradient(self) -> Any:
        """The norm of the policy's gradient by part, where the strategy logs it."""
        return self.more.get("gradient")

    @property
    def assigned(self) -> Any:
        """The assigned rewards of the batch, where the strategy logs them."""
        return self.more.get("assigned")

    @property
    def spread(self) -> Any:
        """The running spread s of R − b; an alternating search logs it with its policy."""
        return self.more["spread"] if "spread" in self.more else self.more["policy"]["spread"]


@dataclass(frozen=True, kw_only=True)
class StageBegan(Event):
    """A search of several stages began one that follows another: its number (from 2), strategy and legal choices."""

    kind: ClassVar[str] = "stage"
    stage: int | None = None
    strategy: str | None = None
    legal: list[list[int]] | None = None


@dataclass(frozen=True, kw_only=True)
class Epoch(Event):
    """A stand-alone training ended one epoch (from 1)."""

    kind: ClassVar[str] = "epoch"
    epoch: int | None = None
    loss: float | None = None
    lr: float | None = None


@dataclass(frozen=True, kw_only=True)
class Trained(Event):
    """A comparison trained one network with one seed; its vector and metrics are in ``more``."""

    kind: ClassVar[str] = "trained"
    name: str | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Done(Event):
    """A search ended; the costs of the kept vector are in ``more``, with all else that its ``arch.json`` says."""

    kind: ClassVar[str] = "done"


@dataclass(frozen=True, kw_only=True)
class Saved(Event):
    """A checkpoint was written. Subscribers receive it; it is no line of the file."""

    kind: ClassVar[str] = "saved"


@dataclass(frozen=True, kw_only=True)
class Other(Event):
    """An event of a kind that is not known here; all its values are in ``more``."""

    kind: ClassVar[str] = "other"
    name: str = ""

    def line(self) -> dict[str, Any]:
        """The line without its seconds, under its own kind."""
        return {"event": self.name, **self.more}


Subscriber: TypeAlias = Callable[[Event], None]
"""What receives each event of a run as soon as it is written."""

E = TypeVar("E", bound=Event)

_KINDS: dict[str, type[Event]] = {
    record.kind: record for record in (Weights, Distilled, Scored, Step, StageBegan, Epoch, Trained, Done)
}  # fmt: skip


def from_line(line: Mapping[str, Any]) -> Event:
    """The record of one line.

    Raises:
        KeyError: The line names no kind.
    """
    kind = line["event"]
    rest = {key: value for key, value in line.items() if key not in ("event", "seconds")}
    record = _KINDS.get(kind)
    if record is None:
        return Other(name=str(kind), more=rest, seconds=line.get("seconds"))
    known = {entry.name: rest.pop(entry.name) for entry in _own_fields(record) if entry.name in rest}
    return record(**known, more=rest, seconds=line.get("seconds"))


def to_text(line: Mapping[str, Any]) -> str:
    """One line of the file, with its check sum and the newline."""
    text = json.dumps(line, allow_nan=False)
    return f"{text[:-1]}{_CRC}{_crc(text)}}}\n"


def from_texts(texts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The objects in whole lines of one file, without their check sums; a file of an older version has none.

    Raises:
        ValueError: A line is not JSON, or not what was written.
        TypeError: A line is not an object.
    """
    sums: bool | None = None
    for text in texts:
        line = json.loads(text)
        if not isinstance(line, dict):
            raise TypeError(f"a line is {text[:60]!r}, not an object")
        known = line.pop("crc", None)
        sums = known is not None if sums is None else sums
        if (known is not None) != sums or (sums and _crc(text.rpartition(_CRC)[0] + "}") != known):
            raise ValueError(f"the line {text[:60]!r} is damaged: its check sum differs")
        yield line


def _crc(text: str) -> int:
    return zlib.crc32(text.encode())


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of the run in the folder ``path`` as plain objects; a last line cut short by a crash is left out.

    Raises:
        ValueError: As for :func:`from_texts`.
        TypeError: As for :func:`from_texts`.
    """
    with (path / EVENTS).open(encoding="utf-8") as stream:
        yield from from_texts(line for line in stream if line.endswith("\n"))


def iter_events(path: Path, kind: type[E]) -> Iterator[E]:
    """The events of one kind in the run in the folder ``path`` (all with :class:`Event`), in their order.

    Raises:
        FileNotFoundError: The run has no events.
        ValueError: A line is not JSON, or damaged.
        TypeError: A line is not an object.
        KeyError: A line names no kind.
    """
    return (event for event in map(from_line, read_events(path)) if isinstance(event, kind))


def readable_events(path: Path) -> tuple[list[Event], int]:
    """All events of the run in the folder ``path`` that can be read, and the number of lines that cannot.

    For those who look at a run that is damaged, or that another process is writing: a line that is cut off, not JSON,
    not what was written, or without a kind is left out. A run without the file has no events.
    """
    found: list[Event] = []
    damaged = 0
    try:
        content = (path / EVENTS).read_bytes()
    except OSError:
        return found, damaged
    for text in content.splitlines():
        try:
            found += [from_line(line) for line in from_texts([text.decode()])]
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged += 1
    return found, damaged


def _own_fields(record: type[Event]) -> list[dataclasses.Field[Any]]:
    return [entry for entry in dataclasses.fields(record) if entry.name not in ("more", "seconds")]
