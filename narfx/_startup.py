"""Answer in one sentence what can happen before the modules are imported: no passes, Ctrl-C, no memory, closed streams.

A checkout without symbolic links holds a small text file where the folder ``narfx/passes`` should be. Importing torch
takes seconds, and a traceback of that says nothing to a user. In another program than ``narfx`` Ctrl-C is left alone,
and the missing folder is an ``ImportError``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from narfx._supervisor import clean_up, supervise
from narfx.support.freed_memory import keep_freed_memory
from narfx.support.launched import is_silent
from narfx.support.slow_model import TOO_SLOW, too_slow

__all__ = ["INTERRUPTS"]

INTERRUPTS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)
"""The signals that interrupt a command: Ctrl-C, ``kill``, the end of a terminal, and a scheduler's warning."""

_NO_PASSES = (
    "narfx/passes is not a folder with the passes, because this copy of narfx was made without symbolic links: run "
    "`git config core.symlinks true` and `git checkout -- narfx/passes`, or put a copy of the folder passes/ there"
)


def _check_passes() -> None:
    spec = find_spec("narfx.passes")
    if spec is not None and spec.origin is not None:
        return
    if not _is_program():
        raise ImportError(_NO_PASSES, name="narfx.passes")
    _tell(2, "broken_checkout", _NO_PASSES, where="narfx/passes")
    raise SystemExit(2)


def _check_folder() -> None:
    try:
        os.getcwd()  # noqa: PTH109 (the system's own answer is wanted)
    except OSError:  # torch ends the process without a working folder
        _tell(2, "no_working_folder", "the working folder was removed: change to a folder that exists", where=".")
        os._exit(2)


def _heed_interrupts() -> None:
    if _is_program() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        for number in INTERRUPTS:
            if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _end)  # nohup ignores SIGHUP, and it stays ignored


def _open_closed_streams() -> None:
    """Open the standard streams that the caller closed; otherwise the next file gets their number and their text."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number
            if number:
                stream = os.fdopen(number, "w", encoding="utf-8", closefd=False)
                setattr(sys, "stdout" if number == 1 else "stderr", stream)
            if number == 1:
                os.environ["_NARFX_STDOUT_CLOSED"] = str(os.getpid())


def _report(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Report in one sentence what ended the imports: too little memory, or a package that does not load."""
    if "narfx.cli.console" in sys.modules or issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    short = issubclass(kind, MemoryError) or any(word in str(error) for word in ("alloc", "failed to map", "memory"))
    code, reason = (7, "out_of_memory") if short else (2, "installation")
    cause = "it is out of memory" if short else "a package that it needs does not load"
    cure = "make more memory available" if short else "install the package again"
    _tell(code, reason, f"narfx cannot start, {cause} ({kind.__name__}: {' '.join(str(error).split())[:300]}): {cure}")
    os._exit(code)


def _crashed(process: int, number: signal.Signals) -> int:
    """Report that the process which did the work was ended by the system."""
    _open_closed_streams()
    left = clean_up(process, sys.orig_argv)
    if number == signal.SIGKILL:
        _tell(
            7,
            "killed",
            f"the command was killed{left}: the machine may be out of memory; use a smaller batch or a smaller model",
        )
    elif number == signal.SIGVTALRM:  # set by narfx.graph.time_limit
        _tell(2, TOO_SLOW, f"{too_slow('its time, in code that Python cannot interrupt')}{left}")
        return 2
    else:
        cause = f"torch or another native library crashed ({signal.strsignal(number)})"
        cure = "python -X faulthandler -m narfx with the same options shows where; another version of torch may help"
        _tell(7, "native_crash", f"{cause}{left}: {cure}")
    return 7


def _is_program() -> bool:
    as_module = sys.argv[:1] == ["-m"] and ("-m", "narfx") in pairwise(sys.orig_argv)
    return as_module or Path(sys.argv[0] if sys.argv else "").stem == "narfx"


def _end(*_: Any) -> None:
    _tell(130, "interrupted", "interrupted")
    os._exit(130)  # an exception would end as a traceback of the import that it met


def _tell(code: int, kind: str, message: str, where: str | None = None) -> None:
    if is_silent():
        return
    with contextlib.suppress(OSError):
        sys.stderr.write(f"narfx: {message}\n")
        sys.stderr.flush()
    if "--json" in sys.argv:
        error = {"code": code, "kind": kind, "message": message, "where": where}
        with contextlib.suppress(OSError):
            sys.stdout.write(json.dumps({"error": error}, indent=2) + "\n")
            sys.stdout.flush()


if _is_program():
    if not {"--help", "--version"} & set(sys.orig_argv):
        supervise(INTERRUPTS, _crashed)
        keep_freed_memory()
    _open_closed_streams()
    sys.excepthook = _report
    _check_folder()
_check_passes()
_heed_interrupts()
