"""Measure latency in onnxruntime: several models are timed in turn in one process, so the results are comparable."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narfx.errors import RunError, UsageError
from narfx.support.onnx_session import onnxruntime_module
from narfx.support.text import first_line

__all__ = [
    "CPU_PROVIDER", "Call", "Latency", "check_provider", "cpu_model", "in_calling_thread", "measure_latency",
    "open_call", "time_calls",
]  # fmt: skip

CPU_PROVIDER = "CPUExecutionProvider"
_FEWEST_ROUNDS = 10


@dataclass(frozen=True)
class Latency:
    """The median time of one call in milliseconds, with its batch, threads and provider."""

    milliseconds: float
    batch: int
    threads: int
    provider: str


@dataclass(frozen=True)
class Call:
    """An onnxruntime session with its input, float32 (batch, C, H, W) by name."""

    session: Any
    feed: dict[str, NDArray[np.float32]]

    def __call__(self) -> None:
        """Run the network once."""
        self.session.run(None, self.feed)


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return (names or [platform.processor(), platform.machine()])[0] or platform.machine() or "unknown"


def check_provider(provider: str) -> None:
    """Check that onnxruntime has this execution provider here.

    Raises:
        UsageError: It does not; the message lists those that it has.
    """
    onnxruntime = onnxruntime_module()

    known = onnxruntime.get_available_providers()
    if provider not in known:
        raise UsageError(
            f"onnxruntime here has no provider {provider!r}: choose from {', '.join(known)}",
            where="--provider",
            kind="provider",
        )


def open_call(
    model: Path | bytes,
    input_shape: tuple[int, int, int],
    *,
    batch: int = 1,
    threads: int = 1,
    provider: str = CPU_PROVIDER,
) -> Call:
    """Open an ONNX model (a path or its bytes) to run on ``batch`` samples of random values.

    Raises:
        UsageError: onnxruntime does not have the provider, or fell back to another one.
        RunError: onnxruntime cannot load the model.
    """
    onnxruntime = onnxruntime_module()

    check_provider(provider)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # Otherwise the threads of one session keep spinning while the next one is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        source = model if isinstance(model, bytes) else str(model)
        session = onnxruntime.InferenceSession(source, options, providers=[provider])
    except Exception as error:  # onnxruntime has an exception class for each error code
        raise RunError(
            f"onnxruntime cannot load the model to be timed: {first_line(error)}", kind="onnxruntime"
        ) from error
    if session.get_providers()[0] != provider:
        raise UsageError(
            f"onnxruntime cannot use {provider} and fell back to {session.get_providers()[0]}: choose that one, or "
            "install what the provider needs",
            where="--provider",
            kind="provider",
        )
    image = np.random.default_rng(0).standard_normal((batch, *input_shape), dtype=np.float32)
    return Call(session, {session.get_inputs()[0].name: image})


def time_calls(
    calls: Mapping[str, Call], *, cpu_time: bool, rounds: int = 100, seconds: float = 60.0
) -> dict[str, NDArray[np.float64]]:
    """Time all calls in rounds; in one round each call is timed once.

    So a temporary slow-down of the machine affects all calls alike. A call runs twice and only the second run is
    timed, so that caches are warm. The first tenth of the rounds is warm-up and is not returned. After ``seconds``, and
    at least 10 rounds, no further round starts.

    Args:
        calls: The calls, by name.
        cpu_time: Whether to measure the CPU time of the calling thread, without other processes. It equals the elapsed
            time on an idle machine if the call does all its work in this thread.
        rounds: The number of rounds, including the warm-up.
        seconds: The limit for all rounds together.

    Returns:
        Milliseconds of each timed run, by name.
    """
    clock = time.thread_time if cpu_time else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.monotonic()
    for done in range(max(rounds, 1)):
        if done >= _FEWEST_ROUNDS and time.monotonic() - begun > seconds:
            break
        for name, call in calls.items():
            call()
            start = clock()
            call()
            taken[name].append(clock() - start)
    return {name: np.array(each[len(each) // 10 :]) * 1e3 for name, each in taken.items()}


def measure_latency(
    files: Mapping[str, Path],
    input_shape: tuple[int, int, int],
    *,
    batch: int = 1,
    threads: int = 1,
    provider: str = CPU_PROVIDER,
    rounds: int = 100,
) -> dict[str, Latency]:
    """Time ONNX files in rounds (see :func:`time_calls`) and return each one's median.

    With one thread on the CPU this is the CPU time of the thread, otherwise the elapsed time.

    Args:
        files: The ONNX files, by name.
        input_shape: (channels, height, width) of one sample.
        batch: Samples per call.
        threads: Threads of onnxruntime.
        provider: Execution provider of onnxruntime.
        rounds: The number of rounds.

    Raises:
        UsageError: onnxruntime does not have the provider.
        RunError: onnxruntime cannot load a file.
    """
    calls = {
        name: open_call(path, input_shape, batch=batch, threads=threads, provider=provider)
        for name, path in files.items()
    }
    taken = time_calls(calls, cpu_time=in_calling_thread(threads, provider), rounds=rounds)
    return {
        name: Latency(float(np.median(milliseconds)), batch, threads, provider) for name, milliseconds in taken.items()
    }


def in_calling_thread(threads: int, provider: str) -> bool:
    """Whether onnxruntime does all its work in the thread that calls it."""
    return threads == 1 and provider == CPU_PROVIDER
