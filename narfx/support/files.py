"""Atomic file writes, and JSON reading with clear error messages."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from narfx.errors import RunError, UsageError
from narfx.support.hidden import hidden_prefix

__all__ = [
    "check_regular",
    "check_writable",
    "disk_errors",
    "locked",
    "read_bytes",
    "read_json",
    "to_json",
    "write_bytes",
    "write_json",
    "write_text",
]

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


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


def write_bytes(path: Path, *content: bytes | memoryview, keep: Path | None = None) -> None:
    """Write pieces of ``content`` to ``path`` by an atomic rename: readers see the old file or the new one.

    That holds on a crash too. Where ``path`` is a link, the file that it points to is written. An old file is moved to
    ``keep``, where that is given; a crash may then leave it there alone.

    Raises:
        UsageError: The path cannot be written, or a folder, a pipe or a device stands there.
        RunError: The disk is full.
    """
    check_writable(path)
    target = Path(os.path.realpath(path))
    with disk_errors(path):
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=hidden_prefix(target, os.getpid()))
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.writelines(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(0o644)
            if keep is not None and target.exists():
                target.replace(keep)
            Path(name).replace(target)
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
    content = read_bytes(path)
    try:
        return json.loads(content.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON: {error}", where=str(path), kind="malformed_json") from error


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", where=str(path), kind="unreadable_file") from error


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
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        raise UsageError(f"{path} is {kind}, not a regular file: give a file", where=str(path), kind="unreadable_file")


def check_writable(path: Path) -> None:
    """Refuse a path where something other than a regular file stands: writing would replace it by a file.

    Raises:
        UsageError: It is a folder, a pipe, a device or a socket, or a link to one.
    """
    with disk_errors(path):
        if not path.exists():
            return
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'a device')}, not a regular file, so it is not replaced: choose "
            "another name",
            where=str(path),
            kind="output_exists",
        )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text} is too large")
    return number
