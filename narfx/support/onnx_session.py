"""onnxruntime without telemetry, with a clear error if it is missing, and interruptible while it computes."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from narfx.errors import UsageError

__all__ = ["onnxruntime_module", "open_session", "run_session"]


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


def open_session(source: str | bytes, *, optimise: bool = True) -> Any:
    """A silent session on the CPU, with as many threads as torch has.

    onnxruntime would take a thread for each core by itself, and they wait by spinning: a process that was given one
    thread would use a second core for nothing.

    Args:
        source: The path of an ONNX file, or its bytes.
        optimise: Whether onnxruntime may optimise the graph.
    """
    import torch  # takes seconds, and the commands that only write need no more of this module than its name

    onnxruntime = onnxruntime_module()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


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
