"""A limit on each step with a user's model (import, constructor, trace, first forward), because it may never end.

The alarm of the operating system raises an exception in the model's code, again and again until that code ends, so a
loop that catches everything ends too. Code of another language is not interrupted so; in the ``narfx`` command the
system ends the process once it has used the limit on each CPU and once more, and the parent process says so.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from narfx import _supervisor
from narfx.errors import UsageError
from narfx.graph.source import is_model_code
from narfx.support.slow_model import MODEL_SECONDS, TOO_SLOW, too_slow

__all__ = ["model_time"]

_DEFAULT, _AGAIN = 600.0, 1.0
_NARFX = Path(__file__).parents[1]
_running = [False]


class _ExpiredError(BaseException):
    """The time is over; no ``except Exception`` of a model holds it."""


@contextmanager
def model_time() -> Iterator[None]:
    """Give the block, or the decorated function, ten minutes; $NARFX_MODEL_SECONDS is another limit, 0 none.

    There is no limit in a thread other than the main one, where the system has no alarm (Windows), and where a program
    has set one itself. A block in another one has the limit of the outer one.

    Raises:
        UsageError: The block did not end in time (``kind="model_time"``), or the variable is no number.
    """
    seconds = _seconds()
    if not seconds or not _may_set_alarm():
        yield
        return
    lines: list[str | None] = []

    def expire(_: int, frame: FrameType | None) -> None:
        if _running[0]:
            lines.append(_line(frame))
            raise _ExpiredError

    previous, unraisable = signal.signal(signal.SIGALRM, expire), sys.unraisablehook

    def report(lost: sys.UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, _ExpiredError):  # raised in a __del__ or so, which Python would print
            unraisable(lost)

    _running[0], sys.unraisablehook = True, report
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
            if _supervisor.is_supervised():
                signal.setitimer(signal.ITIMER_VIRTUAL, (os.cpu_count() or 1) * seconds + seconds + 1)
            yield
        finally:
            _running[0], sys.unraisablehook = False, unraisable
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGALRM, previous)
    except BaseException as error:
        if not lines or isinstance(error, KeyboardInterrupt):
            raise
        place = next((line for line in lines if line), None)
        raise UsageError(too_slow(f"{seconds:g} s", place), where=place, kind=TOO_SLOW) from error


def _seconds() -> float:
    text = os.environ.get(MODEL_SECONDS, "")
    try:
        seconds = float(text) if text else _DEFAULT
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise UsageError(
            f"${MODEL_SECONDS} is {text!r}: it must be a number of seconds, or 0 for no limit",
            where=MODEL_SECONDS,
            kind="bad_variable",
        )
    return seconds


def _may_set_alarm() -> bool:
    return (
        not _running[0]
        and hasattr(signal, "setitimer")
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    )


def _line(frame: FrameType | None) -> str | None:
    """``file:line`` of the innermost frame in code that is neither narfx's nor a library's, if there is one."""
    for found in reversed(traceback.extract_stack(frame)):
        path = Path(found.filename)
        if is_model_code(found.filename) and _NARFX not in path.parents and "site-packages" not in path.parts:
            return f"{found.filename}:{found.lineno}"
    return None
