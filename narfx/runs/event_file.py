"""Writing ``events.jsonl``: lines are appended, and those after a checkpoint are dropped when a run goes back to it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from narfx.runs.events import EVENTS, Event, from_line, from_texts, to_text
from narfx.support.files import disk_errors, read_bytes
from narfx.support.seals import damaged

__all__ = ["append_event", "flushed_length", "go_back"]


def append_event(run: Path, values: Mapping[str, Any]) -> Event:
    """Append one line to the events of the run in the folder ``run``, and return its record.

    A value that is not finite becomes null, so that every line is valid JSON.
    """
    line = _finite(values)
    with disk_errors(run / EVENTS), (run / EVENTS).open("a", encoding="utf-8") as stream:
        stream.write(to_text(line))
    return from_line(line)


def flushed_length(run: Path) -> int:
    """The length of the events in bytes, which are on the disk before the checkpoint that counts them."""
    events = run / EVENTS
    if not events.exists():
        return 0
    with disk_errors(events), events.open("ab") as stream:
        os.fsync(stream.fileno())
        return stream.tell()


def go_back(run: Path, length: int) -> None:
    """Drop the events after the first ``length`` bytes, which were there when a checkpoint was written.

    Raises:
        UsageError: The earlier events are damaged; nothing is changed then.
    """
    path = run / EVENTS
    if not path.exists():
        return
    content = read_bytes(path)[:length]
    try:
        for _ in from_texts(content.decode().splitlines(keepends=True)):
            pass
        whole = len(content) == length and content[-1:] in (b"", b"\n")
    except (ValueError, TypeError):
        whole = False
    if not whole:
        raise damaged(path, "restore it from a copy, or delete it to go on without the earlier events")
    with disk_errors(path):
        os.truncate(path, length)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value
