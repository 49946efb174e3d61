"""Ctrl-C while the command line starts, answered in one sentence.

Importing torch takes seconds, and a traceback of that says nothing to a user. Where the program is another one than
``narfx``, nothing is changed.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

__all__: list[str] = []


def _heed_interrupts() -> None:
    if _is_program() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)


def _is_program() -> bool:
    as_module = sys.argv[:1] == ["-m"] and ("-m", "narfx") in pairwise(sys.orig_argv)
    return as_module or Path(sys.argv[0] if sys.argv else "").stem == "narfx"


def _end(*_: Any) -> None:
    sys.stderr.write("narfx: interrupted\n")
    sys.stderr.flush()
    if "--json" in sys.argv:
        import json

        error = {"code": 130, "kind": "interrupted", "message": "interrupted", "where": None}
        sys.stdout.write(json.dumps({"error": error}, indent=2) + "\n")
        sys.stdout.flush()
    os._exit(130)  # an exception would end as a traceback of the import that it met


_heed_interrupts()
