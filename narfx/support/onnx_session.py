"""onnxruntime without telemetry, with a clear error if it is missing, and interruptible while it computes."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from narfx.errors import UsageError

__all__ = ["onnxruntime_module", "run_session"]


def onnxruntime_module() -> Any:
    """The package ``onnxruntime``, imported on first use (it takes a second), with its telemetry off.

    The telemetry would write files to the user's home folder.

    Raises:
        UsageError: The package is not installed, or does not load.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            f"onnxruntime cannot be imported ({error}): run pip install onnxruntime",
            where="onnxruntime",
            kind="missing_package",
        ) from error
    return onnxruntime


def run_session(session: Any, outputs: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
    """``session.run`` that Ctrl-C can interrupt, because a file may contain an endless loop.

    Python handles signals only between its own instructions, so the call runs in another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return list(session.run(outputs, feeds))
    options = onnxruntime_module().RunOptions()
    found: list[Any] = []
    errors: list[Exception] = []

    def call() -> None:
        try:
            found.extend(session.run(outputs, feeds, options))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True, name="narfx-onnxruntime")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(1.0)
    except BaseException:
        options.terminate = True  # checked between two nodes
        thread.join(2.0)
        raise
    if errors:
        raise errors[0]
    return found
