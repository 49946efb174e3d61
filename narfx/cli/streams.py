"""Standard output and standard error that may be closed, on a full disk, a pipe without a reader, or without UTF-8.

Text that cannot be written to standard error is dropped, because a log must not end a run of days. A result that cannot
be written to standard output is an error (exit code 7), except when the reader of a pipe has ended (exit code 0).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from narfx.errors import RunError

__all__ = ["ReaderGoneError", "plain_streams", "write_result"]


class ReaderGoneError(Exception):
    """The reader of standard output has ended."""


class _Log:
    """A stream that drops what it cannot write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


@contextlib.contextmanager
def plain_streams() -> Iterator[None]:
    """While the block runs, standard error never fails, and both streams accept any text in their encoding."""
    outputs = sys.stdout, sys.stderr
    for stream in outputs:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")
    if sys.stderr is not None:
        sys.stderr = cast(TextIO, _Log(sys.stderr))
    try:
        yield
    finally:
        sys.stderr = outputs[1]


def write_result(stream: TextIO, text: str) -> None:
    """Write a result to standard output completely.

    Raises:
        ReaderGoneError: The reader of a pipe has ended.
        RunError: The disk is full, or standard output is closed.
    """
    try:
        if os.environ.get("_NARFX_STDOUT_CLOSED") == str(os.getpid()):
            raise OSError("it is closed")
        stream.write(text)
        stream.flush()
    except BrokenPipeError as error:
        _discard(stream)
        raise ReaderGoneError from error
    except (OSError, ValueError) as error:
        _discard(stream)
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(
            f"the result cannot be written to standard output: {reason}; files that the command writes are complete",
            where="standard output",
            kind="output",
        ) from error


def _discard(stream: TextIO) -> None:
    """Redirect a stream and standard output to the null device, so that text left in the buffer does not fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in {stream.fileno(), 1}:
        os.dup2(nowhere, number)
    os.close(nowhere)
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
