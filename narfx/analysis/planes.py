"""The loss, or the variance of the gradient, over a plane of weights, of several networks side by side.

The loss landscape is that of Li et al. (arXiv 1712.09913), the gradient variance over the same plane that of Shu, Wang
and Cai (arXiv 1909.09569): mean_p(E_b[g_bp^2] - E_b[g_bp]^2) over fixed minibatches b and all weights p. A run is
resumed at the row of the grid at which it stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from narfx.analysis.instrument import Instrument, Opened
from narfx.analysis.plane_config import PlaneConfig, Subject, open_subjects
from narfx.analysis.plane_plots import plot_contours, plot_surfaces
from narfx.errors import UsageError
from narfx.graph.batchnorm import batch_statistics
from narfx.runs.folder import RunFolder
from narfx.runs.progress import Reporter
from narfx.support.text import count
from narfx.training.estimate import Estimate, duration
from narfx.training.gradients import gradient_variance

__all__ = ["estimate_plane", "look_at_plane", "resume_plane"]

_BATCHNORM = {
    "stored": "every point has the BatchNorm statistics of the network's own weights",
    "batch": "every point has the BatchNorm statistics of its own batches",
}
_VERBS = {"loss": "landscape", "variance": "variance"}
Measure = Callable[[], float]


def look_at_plane(
    config: PlaneConfig,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
    relative_to: Path | None = None,
) -> dict[str, Any]:
    """Measure every point of the grid of every network; ``out`` becomes a run with the numbers and the figures.

    Returns:
        ``{"measure", "data", "part", "images", "batchnorm", "axis", "networks": [{"name", "target", "weights",
        "params", "centre", "values", "lowest", "median", "highest", "not_finite"}], "files"}``. ``values[i][j]`` is
        measured at ``axis[j]`` times the first plus ``axis[i]`` times the second direction, and ``None`` where it is
        not finite; ``not_finite`` counts these.

    Raises:
        UsageError: A network, the data or an option is wrong, or the grid is too large; ``out`` is not touched.
        RunError: The machine ran out of memory or disk; the rows so far are kept.
        InterruptedRunError: Ctrl-C.
    """
    instrument = _INSTRUMENTS[config.measure]
    return instrument.begin(config, Path(out), device=device, overwrite=overwrite, reporter=reporter, start=relative_to)


def resume_plane(
    out: Path | str,
    *,
    measure: str,
    device: str = "auto",
    previous: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Go on with the run in ``out``, whose measure is this one; arguments and errors as for :func:`look_at_plane`."""

    def check(config: PlaneConfig) -> None:
        if config.measure != measure:
            raise UsageError(
                f"the run in {out} is one of narfx analyze {_VERBS[config.measure]}: resume it with that",
                where=str(out),
                kind="another_verb",
            )

    instrument = _INSTRUMENTS[measure]
    return instrument.resume(Path(out), device=device, previous=previous, reporter=reporter, check=check)


def estimate_plane(config: PlaneConfig, *, device: str = "auto", relative_to: Path | None = None) -> dict[str, Any]:
    """Check a run and measure how long it takes; nothing is written.

    Returns:
        ``{"dry_run": True, "estimate": {"seconds", "points", "images"}, "message"}``; errors as for the run.
    """
    subjects = [subject for subject, _ in _open(config, device, relative_to).networks]
    seconds = 0.0
    for subject in subjects:
        with _measuring(config, subject) as measure:
            start = time.monotonic()
            measure()
            seconds += config.grid**2 * (time.monotonic() - start)
    points = config.grid**2 * len(subjects)
    text = (
        f"{_VERBS[config.measure]}: {count(len(subjects), 'network')}, {count(points, 'point')} in all; about "
        f"{duration(seconds)} at the speed just measured"
    )
    return Estimate(text, seconds, {"points": points, "images": _images(subjects[0])}).to_json()


def _images(subject: Subject) -> int:
    return len(subject.task.data.val)


@contextmanager
def _measuring(config: PlaneConfig, subject: Subject) -> Iterator[Measure]:
    """What measures the network as it stands, in the mode that the configuration asks for."""
    network, task = subject.network.eval(), subject.task
    held = list(subject.batches(whole=config.measure == "variance"))

    def loss() -> float:
        total = 0.0
        with torch.inference_mode():
            for images, labels in held:
                total += float(task.losses(network(images), labels).double().sum())
        return total / _images(subject)

    def variance() -> float:
        return gradient_variance(network, task.objective, held)

    if config.measure == "variance" and len(held) < 2:
        raise UsageError(
            f"a variance needs two minibatches, and {count(_images(subject), 'image')} give only one of "
            f"{task.batch_size}: use a smaller --batch-size or more --images",
            where="--batch-size",
            kind="batch_size",
        )
    measure = variance if config.measure == "variance" else loss
    if config.batchnorm == "stored":
        yield measure
    else:
        with batch_statistics(network):
            yield measure


def _open(config: PlaneConfig, device: str, start: Path | None) -> Opened[tuple[Subject, float]]:
    """The networks, each with what is measured at its own weights.

    Raises:
        UsageError: A network, the data or an option is wrong, or that is not finite.
    """
    subjects, reads = open_subjects(config, device=device, relative_to=start)
    found = []
    for subject in subjects:
        with _measuring(config, subject) as measure:
            centre = measure()
        if not math.isfinite(centre):
            raise UsageError(
                f"{subject.name} gives NaN or an infinite {config.measure} with its own weights: they "
                "are broken, or the images are normalised in another way than in training",
                where=subject.name,
                kind="outputs_not_finite",
            )
        found.append((subject, centre))
    return Opened(found, reads, [note for subject in subjects for note in subject.notes])


def _measure(
    config: PlaneConfig, opened: Sequence[tuple[Subject, float]], folder: RunFolder, reporter: Reporter
) -> dict[str, Any]:  # fmt: skip
    state = folder.load() or {"rows": {}}
    rows: dict[str, list[list[float]]] = state["rows"]
    for subject, _ in opened:
        _fill(config, subject, rows.setdefault(subject.name, []), folder, state, reporter)
    first, _ = opened[0]
    return {
        "measure": config.measure,
        "data": first.task.data.short_name,
        "part": first.part,
        "images": _images(first),
        "batch_size": config.batch_size,
        "seed": config.seed,
        "batchnorm": config.batchnorm,
        "batchnorm_in_words": _BATCHNORM[config.batchnorm],
        "axis": config.axis,
        "networks": [_entry(subject, centre, rows[subject.name]) for subject, centre in opened],
    }


def _draw(result: Mapping[str, Any]) -> dict[str, bytes]:
    return {
        f"{name}_{kind}": content
        for name, plot in (("contours", plot_contours), ("surfaces", plot_surfaces))
        for kind, content in plot(result).items()
    }


def _fill(
    config: PlaneConfig, subject: Subject, rows: list[list[float]], folder: RunFolder, state: dict[str, Any],
    reporter: Reporter,
) -> None:  # fmt: skip
    """Measure the rows that are missing; each is a checkpoint."""
    axis, begun, started = config.axis, len(rows), time.monotonic()
    if begun == len(axis):
        return
    with _measuring(config, subject) as measure:
        for second in reporter.track(axis[begun:], len(axis) - begun, f"{subject.name}: rows"):
            row = []
            for first in axis:
                with subject.plane.at(first, second):
                    row.append(measure())
            rows.append(row)
            folder.save(state)
    reporter.say(f"{subject.name}: {count(len(axis) - begun, 'row')} ({time.monotonic() - started:.0f} s)")


def _entry(subject: Subject, centre: float, rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    values = np.array(rows)
    finite = values[np.isfinite(values)]
    known = {
        "lowest": float(finite.min()),
        "median": float(np.median(finite)),
        "highest": float(finite.max()),
    } if len(finite) else dict.fromkeys(("lowest", "median", "highest"))  # fmt: skip
    return {
        "name": subject.name,
        "target": subject.target,
        "weights": subject.weights,
        "params": subject.parameters,
        "centre": centre,
        **known,
        "not_finite": int(values.size - len(finite)),
        "values": [[value if math.isfinite(value) else None for value in row] for row in rows],
    }


_FIGURES = {f"{name}_{kind}": f"{name}.{kind}" for name in ("contours", "surfaces") for kind in ("png", "svg")}
_INSTRUMENTS = {
    measure: Instrument(verb, PlaneConfig, _FIGURES, _open, _measure, _draw) for measure, verb in _VERBS.items()
}
