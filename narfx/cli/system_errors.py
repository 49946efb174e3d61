"""Errors of the operating system (memory, open files, names, packages) as errors with their exit codes.

The cause of an error is examined too: a proof that fails because no file can be opened says nothing about parity.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from narfx.errors import NarfxError, RunError, UsageError
from narfx.support.devices import is_out_of_memory

__all__ = ["exhausted", "of_system"]

_FILES = (errno.EMFILE, errno.ENFILE)
_TOO_MANY = re.compile(rf"Too many open files|system error number ({errno.EMFILE}|{errno.ENFILE})\b")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def exhausted(error: BaseException) -> RunError | None:
    """The error for an exhausted resource, if ``error`` or one of its causes is about one."""
    for cause in _causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if number in _FILES or _TOO_MANY.search(str(cause)[:10_000]):
            return RunError(
                "too many open files: raise the limit (ulimit -n), or close other programs", kind="too_many_files"
            )
        if is_out_of_memory(cause) or number == errno.ENOMEM or _is_unmapped(cause):
            return (
                error
                if isinstance(error, RunError)
                else RunError("out of memory: use a smaller batch or a smaller model", kind="out_of_memory")
            )
        if number in _DISK and not isinstance(error, RunError):
            name = f" {cause.filename}" if isinstance(cause, OSError) and cause.filename else ""
            return RunError(
                f"cannot write{name}: the disk is full; free some space and run the command again", kind="disk_full"
            )
    return None


def of_system(error: Exception) -> NarfxError | None:
    """An error about a path, a number or a missing package, as a usage error; else ``None``."""
    if isinstance(error, ModuleNotFoundError):
        return UsageError(
            f"{error.name or error} cannot be imported: run pip install {(error.name or 'narfx').partition('.')[0]}",
            where=error.name,
            kind="missing_package",
        )
    if isinstance(error, OSError) and error.errno is not None:
        name = str(error.filename) if error.filename is not None else "a file or stream"
        return UsageError(f"cannot use {name}: {error.strerror}", where=name, kind="unusable_file")
    if isinstance(error, OverflowError):
        return UsageError(f"a number is too large ({str(error)[:200]}): give a smaller one", kind="too_large")
    return None


def _is_unmapped(error: BaseException) -> bool:
    """Whether there was no memory for a library."""
    return isinstance(error, ImportError) and "failed to map segment" in str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen and len(seen) < 50:
        yield found
        seen.append(found)
        found = found.__cause__ or found.__context__
