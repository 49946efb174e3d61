"""Output folders: built next to their place under a hidden name, and moved there when they are complete.

The hidden folder ``.NAME.narfx-*`` holds ``new`` (what is being built), ``old`` (what it replaces, for the moment of
the swap) and ``lock``, which the process holds as long as it lives. What a killed process left is removed by the next
command that writes into the same place, and an old folder that had lost its place is put back.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from narfx.errors import UsageError
from narfx.support.files import disk_errors, locked, read_json
from narfx.support.hidden import HIDDEN, OLD, hidden_for, hidden_prefix, remove_hidden

__all__ = [
    "Stage",
    "busy",
    "check_output",
    "check_replaceable",
    "output_folder",
    "refuse_inside",
    "replace_folder",
    "sweep",
]

_NEW, _LOCK = "new", "lock"
_UNLOCKED_SECONDS = 7 * 24 * 3600  # without a lock only its age says that a folder is abandoned
# A folder that narfx made holds a JSON object with these keys, and one of these files beside it.
_SIGNS: tuple[tuple[str, frozenset[str], tuple[str, ...]], ...] = (
    ("config.json", frozenset(), (".lock", "events.jsonl", "checkpoint.pt")),
    ("report.json", frozenset({"parity", "versions"}), ("report.json",)),
    ("proxy.json", frozenset({"identities", "held_out"}), ("proxy.json",)),
    ("solve.json", frozenset({"points", "prediction"}), ("solve.json",)),
    ("points.json", frozenset({"points", "hypervolume"}), ("points.json",)),
    ("landscape.json", frozenset({"measure", "networks"}), ("landscape.json",)),
    ("variance.json", frozenset({"measure", "networks"}), ("variance.json",)),
    ("cells.json", frozenset({"variant", "genotypes"}), ("cells.json",)),
)


class Stage:
    """A folder in the making: ``work`` becomes ``path`` when it is placed.

    A link at ``path`` stays: the folder that it points to is made or replaced.

    Args:
        path: The folder to make.
        overwrite: Whether it may replace a folder that is not empty.
        alone: Whether another living process may not be making the same folder.

    Raises:
        UsageError: The folder cannot be made here, or another process is making it.
    """

    def __init__(self, path: Path, *, overwrite: bool, alone: bool = False) -> None:
        self.path, self._target, self._overwrite = path, Path(os.path.realpath(path)), overwrite
        self._open = ExitStack()
        with disk_errors(path):
            self._target.parent.mkdir(parents=True, exist_ok=True)
            with locked(self._target) if alone else nullcontext():
                sweep(self._target.parent)
                if alone and any(map(_held, hidden_for(path))):
                    raise busy(path)
                hidden = self._open.enter_context(_hidden_beside(self._target))
            self.work = hidden / _NEW
            self.work.mkdir()
            self.work.chmod(0o755)

    def place(self) -> None:
        """Move the new folder to its place; an old one is deleted after that.

        Raises:
            UsageError: Another command has made the folder meanwhile, or narfx did not make what stands there.
        """
        with disk_errors(self.path):
            try:
                self.work.rename(self._target)  # succeeds where nothing stands, or an empty folder
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if not self._overwrite:
                    raise _taken(self.path) from error
                check_replaceable(self.path)
                replace_folder(self.work, self._target)
        self.discard()

    def discard(self) -> None:
        """Delete what is left of the hidden folder."""
        self._open.close()


@contextmanager
def output_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` if the block succeeds, and is deleted if it raises.

    Of two processes that make the same folder one succeeds.

    Raises:
        UsageError: ``path`` is a file, cannot be created, or is a non-empty folder that may not be replaced.
    """
    check_output(path, overwrite=overwrite)
    stage = Stage(path, overwrite=overwrite)
    try:
        with disk_errors(path):
            yield stage.work
        if stage.work.exists():  # the block may have moved it elsewhere
            stage.place()
    finally:
        stage.discard()


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that may not be written, before any work is done.

    Raises:
        UsageError: ``path`` is a file, contains the working folder, or is a non-empty folder and ``overwrite`` is
            false.
    """
    with disk_errors(path):
        exists = path.exists()
    if exists and not path.is_dir():
        raise UsageError(f"{path} exists and is not a folder: choose another", where=str(path), kind="output_exists")
    if Path.cwd().is_relative_to(path.resolve()):
        raise UsageError(
            f"{path} is or contains the working folder, so it cannot be replaced: choose another folder",
            where=str(path),
            kind="output_exists",
        )
    with disk_errors(path):
        if path.is_dir() and any(path.iterdir()) and not overwrite:
            raise _taken(path)


def check_replaceable(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse to replace a folder that holds an input of the command or imported code, or that narfx did not make.

    Raises:
        UsageError: ``path`` is such a folder. Nothing, and an empty folder, may be replaced.
    """
    if not path.is_dir() or not any(path.iterdir()):
        return
    refuse_inside(path, [*inputs, *_imported()])
    if not any(_has(path, *sign) for sign in _SIGNS):
        raise UsageError(
            f"narfx did not make the folder {path}, so --overwrite does not replace it: choose another, or delete it",
            where=str(path),
            kind="output_exists",
        )


def _imported() -> list[Path]:
    """The files of all imported modules: what a user's model imports is an input too, though no option names it."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return [Path(file) for file in files if isinstance(file, str)]


def refuse_inside(folder: Path, inputs: Iterable[Path]) -> None:
    """Refuse to replace a folder that contains an input of the command, itself or as a link.

    Raises:
        UsageError: One of ``inputs`` is in ``folder``.
    """
    whole = folder.resolve()
    for path in inputs:
        places = (path.resolve(), path.parent.resolve() / path.name)
        if path.exists() and any(place.is_relative_to(whole) for place in places):
            raise UsageError(
                f"{path} is in {folder}, which would be replaced: choose another folder for the output",
                where=str(path),
                kind="input_in_output",
            )


def replace_folder(work: Path, path: Path) -> None:
    """Move the folder ``work`` to ``path``; the old folder is deleted only after the new one is in place."""
    if not path.exists():
        work.rename(path)
        return
    with _hidden_beside(path) as hidden:
        old = hidden / OLD / path.name
        old.parent.mkdir()
        path.rename(old)
        try:
            work.rename(path)
        except BaseException:
            old.rename(path)
            raise


def sweep(folder: Path) -> None:
    """Remove the hidden folders that killed processes left in ``folder``; those of living ones stay."""
    with suppress(OSError):
        for hidden in folder.glob(f".*{HIDDEN}*"):
            if hidden.is_dir() and not hidden.is_symlink() and _abandoned(hidden):
                remove_hidden(hidden)


def busy(path: Path) -> UsageError:
    """The error for a folder that another process is writing."""
    return UsageError(
        f"another process is running in {path}: wait for it, or choose another folder",
        where=str(path),
        kind="run_locked",
    )


@contextmanager
def _hidden_beside(path: Path) -> Iterator[Path]:
    """A hidden folder next to ``path`` with a lock that dies with this process; it is deleted after the block."""
    hidden = Path(tempfile.mkdtemp(dir=path.parent, prefix=hidden_prefix(path, os.getpid())))
    lock = FileLock(hidden / _LOCK, timeout=0)
    try:
        with suppress(NotImplementedError, OSError):  # a file system without locks: then nothing is swept there
            lock.acquire()
        yield hidden
    finally:
        lock.release()
        remove_hidden(hidden)


def _held(hidden: Path) -> bool | None:
    """Whether a living process holds the lock; ``None`` where there is no lock (yet), or the file system has none."""
    if not (hidden / _LOCK).is_file():
        return None
    try:
        with FileLock(hidden / _LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except (NotImplementedError, OSError):
        return None


def _abandoned(hidden: Path) -> bool:
    held = _held(hidden)
    return time.time() - hidden.stat().st_mtime > _UNLOCKED_SECONDS if held is None else not held


def _taken(path: Path) -> UsageError:
    return UsageError(
        f"the folder {path} exists and is not empty: choose another, or add --overwrite to replace it completely",
        where=str(path),
        kind="output_exists",
    )


def _has(folder: Path, name: str, keys: frozenset[str], beside: tuple[str, ...]) -> bool:
    if not any((folder / other).is_file() for other in beside):
        return False
    try:
        value = read_json(folder / name)
    except UsageError:
        return False
    return isinstance(value, dict) and keys <= value.keys()
