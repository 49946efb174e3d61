"""A run is a directory: its config, its events, its checkpoint.

``events.jsonl`` is the record, one JSON object a line. ``checkpoint.pt`` holds the whole state at the end of a phase
and the length that ``events.jsonl`` had then: a resumed run drops the events after that and does the phase again.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from narfx.errors import InterruptedRunError, RunError, UsageError
from narfx.runs.events import EVENTS, Event, Saved, Subscriber, from_line, read_events
from narfx.support.devices import is_out_of_memory
from narfx.support.files import (
    check_output,
    check_regular,
    disk_errors,
    read_json,
    refuse_inside,
    write_bytes,
    write_json,
)
from narfx.support.ranks import Ranks

__all__ = ["EVENTS", "RunFolder", "interruptible", "read_events"]

CONFIG, CHECKPOINT, LOCK = "config.json", "checkpoint.pt", ".lock"


class RunFolder:
    """The directory of one run; a context manager that holds a lock on it, so that no second run uses it.

    Of the ranks of one run, rank 0 alone takes the lock, writes and informs subscribers.

    Raises:
        UsageError: A file of the run is a pipe, a device or a folder; or, on entry, another process has the lock.
    """

    def __init__(self, path: Path, ranks: Ranks | None = None) -> None:
        self.path, self.ranks = path, ranks or Ranks()
        for file in (path / EVENTS, path / LOCK):
            if file.exists():
                check_regular(file, f"there is no file {file}")  # opening a pipe would never end
        self._lock = FileLock(path / LOCK, timeout=0)
        self._subscribers: list[Subscriber] = []
        self._started = time.monotonic()

    @classmethod
    def create(
        cls,
        path: Path,
        config: dict[str, Any],
        *,
        overwrite: bool = False,
        inputs: Iterable[Path] = (),
        files: Mapping[str, Any] | None = None,
        ranks: Ranks | None = None,
    ) -> RunFolder:
        """Make a new run; the JSON ``files`` are part of it from the start. Of several ranks, rank 0 alone writes.

        Raises:
            UsageError: ``path`` is not empty and may not be replaced, or one of the ``inputs`` lies in it.
        """
        if not (ranks or Ranks()).first:
            return cls(path, ranks)
        check_output(path, overwrite=overwrite)
        with disk_errors(path):
            if path.is_dir() and any(path.iterdir()):
                refuse_inside(path, inputs)
                with cls(path):  # a run that another process is still working on is not removed
                    pass
                shutil.rmtree(path)
            path.mkdir(parents=True, exist_ok=True)
        for name, value in {**(files or {}), CONFIG: config}.items():
            write_json(path / name, value)
        return cls(path, ranks)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run, to be resumed; ``UsageError`` where there is none."""
        if not (path / CONFIG).is_file():
            raise UsageError(f"{path} holds no run: it has no {CONFIG}", where=str(path), kind="no_run")
        return cls(path)

    def config(self) -> Any:
        """The effective configuration."""
        return read_json(self.path / CONFIG)

    def __enter__(self) -> RunFolder:
        if self.ranks.first:
            with disk_errors(self.path):
                self._acquire()
        return self

    def _acquire(self) -> None:
        try:
            self._lock.acquire()
        except Timeout as error:
            raise UsageError(
                f"another process is running in {self.path}: wait for it, or choose another folder",
                where=str(self.path),
                kind="run_locked",
            ) from error

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Send each event from now on to ``subscriber``, as soon as it is written."""
        self._subscribers.append(subscriber)

    def write(self, event: Event) -> None:
        """Append one event and send it to the subscribers."""
        self._append(event.line())

    def event(self, kind: str, **values: Any) -> None:
        """Append one event by its kind and values; :meth:`write` takes a typed record."""
        self._append({"event": kind, **values})

    def _append(self, values: dict[str, Any]) -> None:
        """Write one line; a value that is not finite becomes null, so that every line is valid JSON."""
        if not self.ranks.first:
            return
        line = _finite({**values, "seconds": self._seconds()})
        with disk_errors(self.path / EVENTS), (self.path / EVENTS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")
        self._send(from_line(line))

    def _seconds(self) -> float:
        return round(time.monotonic() - self._started, 3)

    def _send(self, event: Event) -> None:
        for subscriber in self._subscribers:
            subscriber(event)

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint of tensors and plain values, whole or not at all."""
        if not self.ranks.first:
            return
        events = self.path / EVENTS
        state = {
            "state": state,
            "events": events.stat().st_size if events.exists() else 0,
            "seconds": time.monotonic() - self._started,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self.path / CHECKPOINT, buffer.getvalue())
        self._send(Saved(seconds=self._seconds()))

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to resume."""
        return (self.path / CHECKPOINT).is_file()

    def load(self) -> dict[str, Any] | None:
        """The state at the last checkpoint, later events dropped; ``None`` (and no events) without a checkpoint.

        Raises:
            UsageError: The checkpoint cannot be read.
        """
        events = self.path / EVENTS
        if not self.has_checkpoint:
            if self.ranks.first:
                events.unlink(missing_ok=True)
            return None
        try:
            saved = torch.load(self.path / CHECKPOINT, map_location="cpu", weights_only=True)
            state: dict[str, Any] = saved["state"]
            length = int(saved["events"])
            self._started = time.monotonic() - float(saved["seconds"])
        except Exception as error:
            raise UsageError(
                f"the checkpoint of {self.path} cannot be read ({type(error).__name__}): delete {CHECKPOINT} to start "
                "over",
                where=str(self.path / CHECKPOINT),
                kind="bad_checkpoint",
            ) from error
        with disk_errors(events):
            if events.exists() and self.ranks.first:
                os.truncate(events, min(length, events.stat().st_size))
        return state


@contextmanager
def interruptible(folder: RunFolder, *, resumable: bool = False) -> Iterator[None]:
    """Turn Ctrl-C, and what a machine runs out of, into the error that says how to go on.

    ``resumable`` says that the folder can be resumed without a checkpoint of its own.
    """
    resume = f"the run in {folder.path} resumes with --resume --out {folder.path}"
    try:
        yield
    except KeyboardInterrupt as error:
        kept = resumable or folder.has_checkpoint
        raise InterruptedRunError(
            f"interrupted; {resume}" if kept else f"interrupted before the first checkpoint of {folder.path}",
            resumable=kept,
            where=str(folder.path),
        ) from error
    except RunError as error:
        kept = resumable or folder.has_checkpoint
        left = "the last checkpoint is kept" if kept else "there is no checkpoint yet"
        raise RunError(f"{error}; {left}", where=error.where, kind=error.kind, details=error.details) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        left = resume if resumable or folder.has_checkpoint else "there is no checkpoint yet"
        raise RunError(
            f"out of memory: use a smaller batch; {left}", where=str(folder.path), kind="out_of_memory"
        ) from error


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value
