"""Latency in onnxruntime: several files measured in turn, in one process, so that they can be compared."""

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
from narfx.support.text import first_line

__all__ = [
    "CPU_PROVIDER", "Call", "Latency", "check_provider", "cpu_model", "in_calling_thread", "measure_latency",
    "open_call", "time_calls",
]  # fmt: skip

CPU_PROVIDER = "CPUExecutionProvider"
_FEWEST_ROUNDS = 10


@dataclass(frozen=True)
class Latency:
    """The median time of one call in milliseconds, and what it was measured with."""

    milliseconds: float
    batch: int
    threads: int
    provider: str


@dataclass(frozen=True)
class Call:
    """A session of onnxruntime with the one input that it is timed on."""

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
    """Raise ``UsageError`` where onnxruntime has no such execution provider here."""
    import onnxruntime

    known = onnxruntime.get_available_providers()
    if provider not in known:
        raise UsageError(
            f"onnxruntime has no {provider!r} here: it has {', '.join(known)}", where="--provider", kind="provider"
        )


def open_call(
    model: Path | bytes,
    input_shape: tuple[int, int, int],
    *,
    batch: int = 1,
    threads: int = 1,
    provider: str = CPU_PROVIDER,
) -> Call:
    """An ONNX model ready to run on ``batch`` samples of random values.

    Raises:
        UsageError: The provider is not there, or onnxruntime fell back to another one.
        RunError: onnxruntime cannot load the model.
    """
    import onnxruntime

    check_provider(provider)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # The threads of one session would otherwise spin on into the turn of the next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        source = model if isinstance(model, bytes) else str(model)
        session = onnxruntime.InferenceSession(source, options, providers=[provider])
    except Exception as error:  # onnxruntime has a class of its own for each of its codes
        raise RunError(
            f"onnxruntime cannot load what is to be timed: {first_line(error)}", kind="onnxruntime"
        ) from error
    if session.get_providers()[0] != provider:
        raise UsageError(
            f"onnxruntime cannot use {provider} and fell back to {session.get_providers()[0]}",
            where="--provider",
            kind="provider",
        )
    image = np.random.default_rng(0).standard_normal((batch, *input_shape), dtype=np.float32)
    return Call(session, {session.get_inputs()[0].name: image})


def time_calls(
    calls: Mapping[str, Call], *, cpu_time: bool, rounds: int = 100, seconds: float = 60.0
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each call, round after round; in one round each call is timed once.

    What slows the machine down for a while slows all calls alike. A call is made twice and timed the second time, so
    that it finds the caches as a network that runs again and again does. The first tenth of the rounds warms up and
    is not returned. Once ``seconds`` have passed no further round is begun behind the tenth.

    Args:
        calls: What is timed, by name.
        cpu_time: Count the time of the calling thread alone, which other processes do not enter. It is the elapsed
            time of a call on an idle machine, where the call stays in this thread.
        rounds: How many rounds, the warm-up among them.
        seconds: A limit for all rounds together.
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
    """Time each file once a round, round after round, and take each one's median.

    With one thread on the CPU the time is that of the thread itself, with more it is the time that passes.
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
