"""The hidden folders in which output folders are built: their names, and how they are removed.

Only the standard library is imported here, because the parent process of the command uses this before anything else.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from glob import escape
from pathlib import Path

__all__ = ["HIDDEN", "OLD", "hidden_for", "hidden_prefix", "remove_hidden"]

HIDDEN = ".narfx-"
"""What stands in the name of everything that is not yet in its place."""
OLD = "old"
"""Where a hidden folder holds what is being replaced, under its own name."""
_LONGEST = 100  # a name and the marks around it must fit into the 255 bytes of a file system


def hidden_prefix(path: Path, process: int | None = None) -> str:
    """How the names of the hidden folders and files for ``path`` begin, all of them or those of one process."""
    return f".{path.name[:_LONGEST]}{HIDDEN}{'' if process is None else f'{process}-'}"


def hidden_for(path: Path, process: int | None = None) -> list[Path]:
    """The hidden folders that are to become ``path``, all of them or those of one process."""
    target = Path(os.path.realpath(path))
    return list(target.parent.glob(f"{escape(hidden_prefix(target, process))}*"))


def remove_hidden(hidden: Path) -> None:
    """Delete a hidden folder; an old folder in it whose place is empty goes back there first."""
    with suppress(OSError):
        for old in (hidden / OLD).iterdir():
            if not (hidden.parent / old.name).exists():
                old.rename(hidden.parent / old.name)
    shutil.rmtree(hidden, ignore_errors=True)
