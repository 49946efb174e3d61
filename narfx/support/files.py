"""Atomic file and folder writes, and JSON reading with clear error messages."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from narfx.errors import RunError, UsageError

__all__ = [
    "check_output",
    "check_regular",
    "disk_errors",
    "locked",
    "output_folder",
    "read_json",
    "refuse_inside",
    "replace_folder",
    "to_json",
    "write_bytes",
    "write_json",
    "write_text",
]


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Translate ``OSError`` on writing ``path``.

    Raises:
        RunError: The disk is full (exit code 7).
        UsageError: The path is not writable (exit code 2).
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunError(
                f"cannot write {path}: {error.strerror}; free some space and run the command again",
                where=str(path),
                kind="disk_full",
            ) from error
        raise UsageError(
            f"cannot write {path}: {error.strerror}; choose another path, or change its permissions",
            where=str(path),
            kind="not_writable",
        ) from error


def write_bytes(path: Path, content: bytes, *, keep: Path | None = None) -> None:
    """Write ``content`` to ``path`` by an atomic rename: readers see the old file or the new one, also on a crash.

    An old file is moved to ``keep``, where that is given; a crash may then leave it there alone.
    """
    with disk_errors(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(0o644)
            if keep is not None and path.exists():
                path.replace(keep)
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Exclude other processes on this machine that lock the same file, for the duration of the block.

    The lock is a file of its own in the system's temporary folder, because ``path`` itself is replaced when it is
    written. Where that folder cannot be used, nothing is locked.
    """
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"narfx-{digest}.lock", mode=0o666)
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(lock)
        yield


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def to_json(value: Any) -> str:
    """Valid JSON; a number that is not finite raises ``ValueError`` instead of becoming NaN."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, to_json(value))


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UsageError: The file does not exist, cannot be read, or is not JSON (NaN and Infinity are not JSON).
    """
    check_regular(path, f"there is no file {path}: check the path")
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", where=str(path), kind="unreadable_file") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON: {error}", where=str(path), kind="malformed_json") from error


def check_regular(path: Path, missing: str) -> None:
    """Refuse a path that is not a regular file: reading a pipe or a device may never end.

    Raises:
        UsageError: Nothing is there (the message is then ``missing``), or it is a folder, a pipe, a device or a socket.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(missing, where=str(path), kind="missing_file") from error
    except (OSError, ValueError) as error:  # a name that is too long, or contains a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot read {path}: {reason}", where=str(path), kind="unreadable_file") from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise UsageError(f"{path} is {kind}, not a regular file: give a file", where=str(path), kind="unreadable_file")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text} is too large")
    return number


@contextmanager
def output_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder next to ``path`` that replaces it if the block succeeds, and is deleted if it raises.

    Raises:
        UsageError: ``path`` is a file, cannot be created, or is a non-empty folder and ``overwrite`` is false.
    """
    check_output(path, overwrite=overwrite)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        work.chmod(0o755)
    try:
        with disk_errors(path):
            yield work
            replace_folder(work, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


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
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise UsageError(
            f"the folder {path} exists and is not empty: choose another, or add --overwrite to replace it completely",
            where=str(path),
            kind="output_exists",
        )


def replace_folder(work: Path, path: Path) -> None:
    """Move the folder ``work`` to ``path``; the old folder is deleted only after the new one is in place."""
    if not path.exists():
        work.rename(path)
        return
    shelf = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    path.rename(shelf / "old")
    try:
        work.rename(path)
    except BaseException:
        (shelf / "old").rename(path)
        shelf.rmdir()
        raise
    shutil.rmtree(shelf, ignore_errors=True)


def refuse_inside(folder: Path, inputs: Iterable[Path]) -> None:
    """Refuse to replace a folder that contains an input of the command.

    Raises:
        UsageError: One of ``inputs`` is in ``folder``.
    """
    for path in inputs:
        if path.exists() and path.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"{path} is in {folder}, which would be replaced: choose another folder for the output",
                where=str(path),
                kind="input_in_output",
            )
