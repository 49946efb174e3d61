"""The scalars of a run for TensorBoard, drawn from its events: while it runs, and when it is finished.

Both ways read ``events.jsonl``, and the first thing that a process writes takes the place of what was there before: so
a run that was resumed has each step once.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from narfx.errors import UsageError
from narfx.runs.events import (
    EVENTS,
    Distilled,
    Done,
    Epoch,
    Event,
    Saved,
    Scored,
    Step,
    Trained,
    Weights,
    from_line,
    from_texts,
)
from narfx.runs.folder import RunFolder
from narfx.support.files import check_writable, disk_errors, write_bytes

__all__ = ["FOLDER", "TensorBoard", "check_tensorboard", "follow", "write_tensorboard"]

FOLDER = "tensorboard"
_FILE = "events.out.tfevents.narfx"
_KEPT = (Saved, Done, Trained)


def check_tensorboard(wanted: bool = True) -> None:
    """Refuse to begin without the extra, where it is ``wanted``.

    Raises:
        UsageError: The package ``tensorboard`` is not installed.
    """
    if not wanted:
        return
    try:
        from tensorboard.compat.proto import event_pb2  # noqa: F401
        from tensorboard.summary.writer import record_writer  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--tensorboard needs the package tensorboard, which is not installed: pip install 'narfx[tensorboard]'",
            where="--tensorboard",
            kind="missing_extra",
        ) from error


class TensorBoard:
    """A subscriber that writes what has become part of a run: all up to its last checkpoint.

    Args:
        run: The folder of the run, whose place it takes at its first checkpoint.
        logs: The folder that gets the file; ``tensorboard`` in the run by default.

    Raises:
        UsageError: The package ``tensorboard`` is not installed.
    """

    def __init__(self, run: Path, logs: Path | None = None) -> None:
        check_tensorboard()
        self._run, self._logs = run, logs or run / FOLDER
        self._read = self._steps = 0
        self._began: float | None = None

    def __call__(self, event: Event) -> None:
        """Write the new events once a checkpoint holds them, or the run ends."""
        if isinstance(event, _KEPT):
            self.catch_up()

    def catch_up(self) -> None:
        """Write all whole lines of the events that are not written yet; a damaged line is left out."""
        events = self._new_events()
        if not events and self._read:
            return
        place, first = self._logs / _FILE, self._began is None
        if self._began is None:
            self._began = self._beginning(events)
        content = _records(self._scalars(events), self._began, first=first)
        check_writable(place)
        with disk_errors(place):
            self._logs.mkdir(parents=True, exist_ok=True)
            if not first:
                with place.open("ab") as stream:
                    stream.write(content)
        if first:
            write_bytes(place, content)

    def _beginning(self, events: Sequence[Event]) -> float:
        """When the run began, as the time of its last event says it; in seconds since 1970."""
        last = next((event.seconds for event in reversed(events) if _is_number(event.seconds)), 0.0)
        path = self._run / EVENTS
        return (path.stat().st_mtime if path.is_file() else time.time()) - (last or 0.0)

    def _new_events(self) -> list[Event]:
        path = self._run / EVENTS
        if not path.is_file():
            return []
        with path.open("rb") as stream:
            stream.seek(self._read)
            content = stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        found = []
        for text in whole.splitlines():
            try:
                found += [from_line(line) for line in from_texts([text.decode()])]
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
        return found

    def _scalars(self, events: Iterable[Event]) -> Iterator[tuple[str, float, int, float]]:
        """Tag, value, step and seconds of all numbers in events; steps of a strategy are counted from 1."""
        for event in events:
            self._steps += isinstance(event, Step)
            for tag, value, step in _numbers(event, self._steps):
                yield tag, value, step, event.seconds or 0.0


def follow(folder: RunFolder, logs: str = FOLDER, *, of: RunFolder | None = None) -> None:
    """Write the scalars of a run into TensorBoard's folder ``logs`` in it (or in the run ``of``) from now on.

    Raises:
        UsageError: The package ``tensorboard`` is not installed.
    """
    folder.subscribe(TensorBoard(folder.out, (of or folder).out / logs))


def write_tensorboard(run: Path) -> Path:
    """Write the scalars of a run that is there; returns the folder for ``tensorboard --logdir``.

    The networks of a comparison are runs of their own in it.

    Raises:
        UsageError: The package ``tensorboard`` is not installed, or the folder cannot be written.
    """
    TensorBoard(run).catch_up()
    inner = run / "runs"
    for folder in sorted(inner.iterdir()) if inner.is_dir() else ():
        if (folder / EVENTS).is_file():
            TensorBoard(folder, run / FOLDER / folder.name).catch_up()
    return run / FOLDER


def _numbers(event: Event, steps: int) -> Iterator[tuple[str, float, int]]:
    if isinstance(event, (Weights, Distilled, Epoch)):
        step = event.epoch if type(event.epoch) is int else 0
        head = event.kind if not isinstance(event, Epoch) else "train"
        yield from _tagged(head, {"loss": event.loss, "learning_rate": event.lr}, step)
    elif isinstance(event, Step):
        rewards = [reward for reward in event.rewards or () if _is_number(reward)]
        yield from _tagged("strategy", {**event.more, "best_reward": max(rewards, default=None)}, steps)
        yield from _tagged("probability", _probabilities(event.more.get("probabilities")), steps)
    elif isinstance(event, Scored):
        yield from _tagged("scored", {"vectors": event.vectors, **event.more}, event.epoch or 0)
    elif isinstance(event, Done):
        yield from _tagged("result", event.more, 0)
    elif isinstance(event, Trained):
        yield from _tagged(f"trained/{event.name}", event.more, event.seed or 0)


def _tagged(head: str, values: Mapping[str, Any], step: int) -> Iterator[tuple[str, float, int]]:
    """The numbers among values and, one level down, in objects among them."""
    for key, value in values.items():
        if isinstance(value, dict):
            known = {f"{head}/{key}/{inner}": entry for inner, entry in value.items()}
        else:
            known = {f"{head}/{key}": value}
        yield from ((tag, float(entry), step) for tag, entry in known.items() if _is_number(entry))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _probabilities(table: Any) -> dict[str, float]:
    """The mean probability of each choice over the slots."""
    try:
        longest = max(map(len, table))
        mean = np.array([[*row, *[0.0] * (longest - len(row))] for row in table], dtype=float).mean(0)
    except (TypeError, ValueError):
        return {}
    return {f"choice_{index}": float(value) for index, value in enumerate(mean)}


def _records(scalars: Iterable[tuple[str, float, int, float]], began: float, *, first: bool) -> bytes:
    """Events in TensorBoard's format."""
    from tensorboard.compat.proto.event_pb2 import Event as Record
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    if first:
        writer.write(Record(wall_time=began, file_version="brain.Event:2").SerializeToString())
    for tag, value, step, seconds in scalars:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        writer.write(Record(wall_time=began + seconds, step=step, summary=summary).SerializeToString())
    return buffer.getvalue()
