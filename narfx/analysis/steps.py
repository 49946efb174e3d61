"""The strategy's steps of a run, read from its events, and the statistics of a curve over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narfx.errors import UsageError
from narfx.runs.events import EVENTS, Event, Scored, Step, iter_events
from narfx.runs.folder import RunFolder
from narfx.support.text import count

__all__ = ["LEAST", "curve", "enough", "malformed", "read_operators", "read_steps"]

LEAST = 3


def read_steps(run: Path) -> tuple[str, list[Step]]:
    """The strategy of the run in a folder, and its steps.

    Raises:
        UsageError: The folder holds no run, or the run no steps of a strategy (yet), or its events cannot be read.
    """
    config = RunFolder.open(run).config()
    try:
        events = list(iter_events(run, Event))
    except FileNotFoundError:
        events = []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise malformed(run, error) from error
    steps = [event for event in events if isinstance(event, Step)]
    if not steps and any(isinstance(event, Scored) for event in events):
        raise UsageError(
            f"{run} has no steps of a strategy: a search that measures, as solve does, takes none; name another one",
            where=str(run / EVENTS),
            kind="no_events",
        )
    if not steps:
        raise UsageError(
            f"{run} has no steps of a strategy in its {EVENTS}: name a search that has passed its warm-up epochs",
            where=str(run / EVENTS),
            kind="no_events",
        )
    return str(config.get("strategy") if isinstance(config, dict) else None), steps


def read_operators(run: Path) -> tuple[str, ...]:
    """The names of the operators of the run in a folder, none where its configuration does not list them."""
    config = RunFolder.open(run).config()
    operators = config.get("operators") if isinstance(config, dict) else None
    return tuple(map(str, operators)) if isinstance(operators, list) else ()


def enough(run: Path, steps: int, what: str) -> None:
    """Refuse a curve of fewer than three points."""
    if steps < LEAST:
        raise UsageError(
            f"{run} has {count(steps, 'step')} with {what}, and a curve needs at least {LEAST}: search for longer",
            where=str(run / EVENTS),
            kind="too_few_steps",
        )


def malformed(run: Path, error: Exception) -> UsageError:
    """The error for events that no search writes."""
    return UsageError(
        f"the events of {run} cannot be read ({type(error).__name__}: {error}): repeat the search",
        where=str(run / EVENTS),
        kind="malformed_events",
    )


def curve(values: Sequence[float] | NDArray[np.float64]) -> dict[str, Any]:
    """Mean, standard deviation, their quotient and the lag-1 autocorrelation; null where a quotient does not exist.

    The standard deviation is that of all values (divided by their number), and the autocorrelation
    Σ (x_t − m)(x_{t+1} − m) / Σ (x_t − m)².
    """
    series = np.asarray(values, dtype=float)
    mean, spread = float(series.mean()), float(series.std())
    centred = series - mean
    # The rounding errors of a constant are no variation.
    varies = spread > 1e-12 * abs(mean) and spread > 0
    lag = float(centred[:-1] @ centred[1:] / (centred @ centred)) if varies else None
    return {
        "mean": mean,
        "std": spread,
        "std_over_mean": spread / abs(mean) if mean and math.isfinite(spread / abs(mean)) else None,
        "lag1": lag,
    }
