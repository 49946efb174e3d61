"""What the command line answers in one sentence before its modules are imported: no passes, and Ctrl-C.

A checkout without symbolic links holds a small text file where the folder ``narfx/passes`` should be. Importing torch
takes seconds, and a traceback of that says nothing to a user. In another program than ``narfx`` Ctrl-C is left alone,
and the missing folder is an ``ImportError``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

__all__: list[str] = []

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


def _heed_interrupts() -> None:
    if _is_program() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)


def _is_program() -> bool:
    as_module = sys.argv[:1] == ["-m"] and ("-m", "narfx") in pairwise(sys.orig_argv)
    return as_module or Path(sys.argv[0] if sys.argv else "").stem == "narfx"


def _end(*_: Any) -> None:
    _tell(130, "interrupted", "interrupted")
    os._exit(130)  # an exception would end as a traceback of the import that it met


def _tell(code: int, kind: str, message: str, where: str | None = None) -> None:
    sys.stderr.write(f"narfx: {message}\n")
    sys.stderr.flush()
    if "--json" in sys.argv:
        error = {"code": code, "kind": kind, "message": message, "where": where}
        sys.stdout.write(json.dumps({"error": error}, indent=2) + "\n")
        sys.stdout.flush()


_check_passes()
_heed_interrupts()
