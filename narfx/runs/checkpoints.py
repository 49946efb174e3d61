"""The two checkpoint files of a run: the last one, and the one before it.

A checkpoint holds the state of the run, the length that its events had then, and the seconds since it began.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from narfx.errors import UsageError
from narfx.support.files import disk_errors, read_bytes, write_bytes
from narfx.support.seals import damaged, seal_bytes, unsealed_bytes

__all__ = [
    "CHECKPOINT",
    "PREVIOUS",
    "check_checkpoint",
    "has_checkpoint",
    "has_previous",
    "make_last",
    "read_checkpoint",
    "remove_checkpoints",
    "write_checkpoint",
]

CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def has_checkpoint(run: Path) -> bool:
    """Whether the run in the folder ``run`` has a checkpoint."""
    return (run / CHECKPOINT).is_file() or has_previous(run)


def has_previous(run: Path) -> bool:
    """Whether the checkpoint before the last is there."""
    return (run / PREVIOUS).is_file()


def write_checkpoint(run: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all; the checkpoint before is kept."""
    buffer = io.BytesIO()
    import torch  # takes seconds, and what only reads a run's events does without it

    torch.save(content, buffer)
    write_bytes(run / CHECKPOINT, seal_bytes(buffer.getvalue()), keep=run / PREVIOUS)


def read_checkpoint(run: Path, *, previous: bool = False) -> tuple[Path, Any]:
    """The file and the content of the last checkpoint, or of the ``previous`` one.

    Raises:
        UsageError: The file is damaged, or of another version of torch; or there is no previous checkpoint.
    """
    if previous and not has_previous(run):
        raise UsageError(
            f"{run} has no {PREVIOUS}: resume it without --checkpoint previous",
            where=str(run),
            kind="no_checkpoint",
        )
    # A process that was killed while it wrote a checkpoint may leave the previous one alone.
    path = run / PREVIOUS if previous or not (run / CHECKPOINT).is_file() else run / CHECKPOINT
    return path, _opened(path)


def make_last(path: Path) -> None:
    """Make this file of a run its last checkpoint."""
    with disk_errors(path):
        path.replace(path.parent / CHECKPOINT)


def remove_checkpoints(run: Path) -> None:
    """Delete both checkpoints of a run that is complete."""
    for name in (CHECKPOINT, PREVIOUS):
        (run / name).unlink(missing_ok=True)


def check_checkpoint(run: Path) -> None:
    """Refuse what stands in the place of a checkpoint and is none, before anything of the run is changed."""
    path = run / CHECKPOINT
    if os.path.lexists(path) and not path.is_file():
        raise UsageError(
            f"{path} is not a regular file, so it is no checkpoint: restore it, or delete it to start over",
            where=str(path),
            kind="bad_checkpoint",
        )


def _opened(path: Path) -> Any:
    inner = unsealed_bytes(read_bytes(path))
    if inner is None:
        other = path.name == CHECKPOINT and has_previous(path.parent)
        raise damaged(
            path,
            "resume with --checkpoint previous from the one before it, which gives the same result"
            if other
            else "restore it from a copy, or start a new run",
        )
    try:
        import torch  # takes seconds, and what only reads a run's events does without it

        return torch.load(io.BytesIO(inner), map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no common class for what a file of another version may raise
        raise UsageError(
            f"{path} cannot be read by this torch ({type(error).__name__}): resume with the one that wrote it",
            where=str(path),
            kind="bad_checkpoint",
        ) from error
