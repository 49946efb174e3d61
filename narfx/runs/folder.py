"""A run is a directory: its configuration, its events, its checkpoints.

``events.jsonl`` is the record, one JSON object a line. ``checkpoint.pt`` holds the whole state at the end of a phase
and the length that ``events.jsonl`` had then: a resumed run drops the events after that and does the phase again.
``checkpoint.previous.pt`` is the checkpoint before. ``origin.json`` holds what the run began with (its configuration,
and digests of its files and of all that it reads): a run is resumed only from the same. Each file that is read back
carries a digest of its own content.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from narfx.errors import RunError, UsageError
from narfx.runs.checkpoints import (  # fmt: skip
    check_checkpoint,
    has_checkpoint,
    has_previous,
    make_last,
    read_checkpoint,
    remove_checkpoints,
    write_checkpoint,
)
from narfx.runs.event_file import append_event, flushed_length, go_back
from narfx.runs.events import EVENTS, Event, Saved, Subscriber
from narfx.runs.origin import CONFIG, ORIGIN, write_origin
from narfx.support.collectives import broadcast, gather, share_state
from narfx.support.files import check_regular, disk_errors, read_json, write_json
from narfx.support.folders import Stage, busy, check_output, check_replaceable, sweep
from narfx.support.hidden import HIDDEN
from narfx.support.ranks import Ranks
from narfx.support.seals import file_digest

__all__ = ["LOCK", "RunFolder"]

LOCK = ".lock"
_SEEN_SECONDS = 5.0


class RunFolder:
    """The directory of one run; a context manager that holds a lock on it, so that no second run uses it.

    Of the ranks of one run, rank 0 alone takes the lock, writes and informs subscribers. ``previous`` says that the run
    is resumed from the checkpoint before the last.

    Args:
        path: The directory, or its path in the run ``inside`` which it is.
        ranks: Which rank this process is.
        stage: The new directory in the making.
        inside: The run that this one is a part of.

    Raises:
        UsageError: A file of the run is a pipe, a device or a folder; or, on entry, another process has the lock.
    """

    def __init__(
        self, path: Path, ranks: Ranks | None = None, *, stage: Stage | None = None, inside: RunFolder | None = None
    ) -> None:
        self._place, self.ranks, self._stage, self._inside = path, ranks or Ranks(), stage, inside
        for file in (self.path / EVENTS, self.path / LOCK):
            if file.exists():
                check_regular(file, f"there is no file {file}")  # opening a pipe would never end
        self.previous = False
        self._lock: FileLock | None = None
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
        reads: Mapping[str, str] | None = None,
        ranks: Ranks | None = None,
        staged: bool = False,
    ) -> RunFolder:
        """Make a new run; the JSON ``files`` are part of it from the start. Of several ranks, rank 0 alone writes.

        ``reads`` are digests of what the run reads from elsewhere, as :func:`narfx.runs.origin.write_origin` takes
        them. A ``staged`` run is built under a hidden name and gets its place at its first checkpoint, or at the end of
        the ``with`` block. Where that raises before, an old run stays, and nothing is left of the new one, unless it
        had to stop (``RunError``) and replaces nothing: then it can be resumed.

        Raises:
            UsageError: ``path`` is not empty and may not be replaced, or one of the ``inputs`` lies in it.
        """
        if not (ranks or Ranks()).first:
            return cls(path, ranks)
        check_output(path, overwrite=overwrite)
        check_replaceable(path, inputs)
        with cls(path).unused():
            stage = Stage(path, overwrite=overwrite, alone=True)
        for name, value in (files or {}).items():
            write_json(stage.work / name, value)
        write_origin(stage.work, config, files or (), reads)
        folder = cls(path, ranks, stage=stage)
        if not staged:
            folder.place()
        return folder

    @classmethod
    def open(cls, path: Path, *, previous: bool = False, ranks: Ranks | None = None) -> RunFolder:
        """An existing run, to be resumed; ``UsageError`` where there is none."""
        if path.parent.is_dir() and (ranks or Ranks()).first:
            sweep(path.parent)
        if not (path / CONFIG).is_file():
            raise UsageError(
                f"{path} holds no run (it has no {CONFIG}): check the path", where=str(path), kind="no_run"
            )
        check_checkpoint(path)
        folder = cls(path, ranks)
        folder.previous = previous
        return folder

    def part(self, name: str) -> RunFolder:
        """A run inside this one, in its subfolder ``name``, which exists afterwards; it is not locked by itself.

        It is resumed from its previous checkpoint where this one is and where it has one.
        """
        part = RunFolder(Path(name), self.ranks, inside=self)
        if self.ranks.first:
            part.path.mkdir(parents=True, exist_ok=True)
        part.previous = self.previous and has_previous(part.path)
        return part

    @property
    def path(self) -> Path:
        """The directory; that of a staged run changes when it gets its place."""
        if self._inside is not None:
            return self._inside.path / self._place
        return self._place if self._stage is None else self._stage.work

    @property
    def out(self) -> Path:
        """The directory as the user named it, which a staged run does not have yet."""
        return self._place if self._inside is None else self._inside.out / self._place

    @property
    def staged(self) -> bool:
        """Whether the run does not have its place yet."""
        return self._stage is not None if self._inside is None else self._inside.staged

    def place(self) -> None:
        """Give a staged run its place; an old run there is replaced.

        Raises:
            UsageError: Another command has made the folder meanwhile, or works in it.
        """
        if self._inside is not None:
            self._inside.place()
        elif self._stage is not None:
            with RunFolder(self._place).unused():
                self._stage.place()
            self._stage = None

    @contextmanager
    def unused(self) -> Iterator[None]:
        """While the block runs, no other process works in the run, if there is one.

        Raises:
            UsageError: One does.
        """
        if not (self._place / LOCK).is_file():
            yield
            return
        with self:
            yield

    def config(self) -> Any:
        """The effective configuration."""
        return read_json(self.path / CONFIG)

    def __enter__(self) -> RunFolder:
        if self.ranks.first:
            with disk_errors(self.path):
                self._acquire()
        return self

    def _acquire(self) -> None:
        lock = FileLock(self.path / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise busy(self.path) from error
        self._lock = lock  # it stays held when the directory moves
        for left in self.path.rglob(f".*{HIDDEN}*"):  # a process that was killed while it wrote a file
            left.unlink(missing_ok=True)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Without room or memory the user makes some, and resumes; what a run would replace stays until a checkpoint.
        resumable = kind is not None and issubclass(kind, RunError) and not self._place.exists()
        if self.ranks.first and (kind is None or resumable):
            self.place()
        if self._stage is not None:
            self._stage.discard()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

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
        if self.ranks.first:
            self._send(append_event(self.path, {**values, "seconds": self._seconds()}))

    def _seconds(self) -> float:
        return round(time.monotonic() - self._started, 3)

    def _send(self, event: Event) -> None:
        for subscriber in self._subscribers:
            subscriber(event)

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint of tensors and plain values, whole or not at all; the one before is kept."""
        if not self.ranks.first:
            return
        seconds = time.monotonic() - self._started
        write_checkpoint(self.path, {"state": state, "events": flushed_length(self.path), "seconds": seconds})
        self.place()
        self._send(Saved(seconds=self._seconds()))

    def remove_checkpoints(self) -> None:
        """Delete both checkpoints of a run that is complete."""
        remove_checkpoints(self.path)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to resume."""
        return has_checkpoint(self.path)

    def load(self) -> dict[str, Any] | None:
        """The state at the last checkpoint, later events dropped; ``None`` (and no events) without a checkpoint.

        Of a run that is resumed from the previous checkpoint, that becomes the last one. Of several ranks, rank 0 reads
        the file, and all get its state: they call this at once.

        Raises:
            UsageError: The checkpoint or the events are damaged, or there is no previous checkpoint.
        """
        state: dict[str, Any] | None = share_state(self.ranks, self._load() if self.ranks.first else None)
        return state

    def _load(self) -> dict[str, Any] | None:
        check_checkpoint(self.path)
        if not self.has_checkpoint:
            (self.path / EVENTS).unlink(missing_ok=True)
            return None
        file, saved = read_checkpoint(self.path, previous=self.previous)
        go_back(self.path, int(saved["events"]))
        make_last(file)
        self._started = time.monotonic() - float(saved["seconds"])
        state: dict[str, Any] = saved["state"]
        return state

    def check_seen(self) -> None:
        """Check that all ranks see this run on their file systems, as they must to resume it; they call this at once.

        Raises:
            UsageError: One does not; each rank raises it.
        """
        if self.ranks.alone:
            return
        parent = Path(os.path.realpath(self.out)).parent
        place, known = broadcast(self.ranks, self._described(parent) if self.ranks.first else None)
        seen = gather(self.ranks, _holds(parent / place / ORIGIN, known))
        if not all(seen):
            raise UsageError(
                f"rank {seen.index(False)} of {self.ranks.size} does not see the run folder {self.out} that rank 0 "
                "writes: name a folder with --out that all machines share",
                where=str(self.out),
                kind="run_not_shared",
            )

    def _described(self, parent: Path) -> tuple[str, str | None]:
        """Where the run lies, seen from a folder, and a digest by which it is known."""
        origin = self.path / ORIGIN
        place = os.path.relpath(os.path.realpath(self.path), parent)
        return place, file_digest(origin) if origin.is_file() else None


def _holds(file: Path, digest: str | None) -> bool:
    """Whether a file has this digest; a shared file system may need a moment to show a new one."""
    end = time.monotonic() + (0 if digest is None else _SEEN_SECONDS)
    while not file.is_file() and time.monotonic() < end:
        time.sleep(0.1)
    return (file_digest(file) if file.is_file() else None) == digest
