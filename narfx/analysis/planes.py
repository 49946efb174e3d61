"""The loss, or the variance of the gradient, over a plane of weights, of several networks side by side.

The loss landscape is that of Li et al. (arXiv 1712.09913), the gradient variance over the same plane that of Shu, Wang
and Cai (arXiv 1909.09569): mean_p(E_b[g_bp^2] - E_b[g_bp]^2) over fixed minibatches b and all weights p. A run is
resumed at the row of the grid at which it stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from narfx.analysis.plane_config import PlaneConfig, Subject, open_subjects
from narfx.analysis.plane_plots import plot_contours, plot_surfaces
from narfx.errors import UsageError
from narfx.graph.batchnorm import batch_statistics
from narfx.inputs.paths import named_paths, relocated
from narfx.runs.finished import finished_result
from narfx.runs.folder import RunFolder
from narfx.runs.interruption import interruptible
from narfx.runs.origin import check_reads, resumed_config
from narfx.runs.progress import Reporter, Silent
from narfx.support.files import write_bytes
from narfx.support.folders import check_output, check_replaceable
from narfx.support.seals import write_sealed
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
    out = Path(out)
    check_output(out, overwrite=overwrite)
    inputs = named_paths(config, relative_to)
    check_replaceable(out, inputs)
    subjects, reads = open_subjects(config, device=device, relative_to=relative_to)
    centres = _centres(config, subjects)
    values = relocated(config, out, start=relative_to).model_dump(mode="json")
    folder = RunFolder.create(out, values, overwrite=overwrite, inputs=inputs, reads=reads, staged=True)
    return _run(config, subjects, centres, folder, reporter or Silent())


def resume_plane(
    out: Path | str,
    *,
    measure: str,
    device: str = "auto",
    previous: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Go on with the run in ``out``, whose measure is this one; arguments and errors as for :func:`look_at_plane`."""
    folder, reporter = RunFolder.open(Path(out), previous=previous), reporter or Silent()
    config = resumed_config(folder.path, PlaneConfig)
    if config.measure != measure:
        raise UsageError(
            f"the run in {out} is one of narfx analyze {_VERBS[config.measure]}: resume it with that",
            where=str(out),
            kind="another_verb",
        )
    verb = _VERBS[config.measure]
    if (found := finished_result(folder, f"{verb}.json", reporter, extends=False)) is not None:
        return {**found, "files": _places(folder.path, verb)}
    subjects, reads = open_subjects(config, device=device, relative_to=folder.path)
    check_reads(folder.path, reads)
    return _run(config, subjects, _centres(config, subjects), folder, reporter)


def estimate_plane(config: PlaneConfig, *, device: str = "auto", relative_to: Path | None = None) -> dict[str, Any]:
    """Check a run and measure how long it takes; nothing is written.

    Returns:
        ``{"dry_run": True, "estimate": {"seconds", "points", "images"}, "message"}``; errors as for the run.
    """
    subjects, _ = open_subjects(config, device=device, relative_to=relative_to)
    _centres(config, subjects)
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


def _centres(config: PlaneConfig, subjects: Sequence[Subject]) -> list[float]:
    """What is measured at the networks' own weights.

    Raises:
        UsageError: It is not finite.
    """
    found = []
    for subject in subjects:
        with _measuring(config, subject) as measure:
            found.append(measure())
        if not math.isfinite(found[-1]):
            raise UsageError(
                f"{subject.name} gives NaN or an infinite {config.measure} with its own weights: they "
                "are broken, or the images are normalised in another way than in training",
                where=subject.name,
                kind="outputs_not_finite",
            )
    return found


def _run(
    config: PlaneConfig, subjects: Sequence[Subject], centres: Sequence[float], folder: RunFolder, reporter: Reporter
) -> dict[str, Any]:
    verb = _VERBS[config.measure]
    with folder, interruptible(folder):
        for note in dict.fromkeys(note for subject in subjects for note in subject.notes):
            reporter.say(note)
        state = folder.load() or {"rows": {}}
        rows: dict[str, list[list[float]]] = state["rows"]
        for subject in subjects:
            _fill(config, subject, rows.setdefault(subject.name, []), folder, state, reporter)
        entries = [
            _entry(subject, centre, rows[subject.name]) for subject, centre in zip(subjects, centres, strict=True)
        ]
        result = {
            "measure": config.measure,
            "data": subjects[0].task.data.short_name,
            "part": subjects[0].part,
            "images": _images(subjects[0]),
            "batch_size": config.batch_size,
            "seed": config.seed,
            "batchnorm": config.batchnorm,
            "batchnorm_in_words": _BATCHNORM[config.batchnorm],
            "axis": config.axis,
            "networks": entries,
        }
        for name, plot in (("contours", plot_contours), ("surfaces", plot_surfaces)):
            for kind, content in plot(result).items():
                write_bytes(folder.path / f"{name}.{kind}", content)
        write_sealed(folder.path / f"{verb}.json", result)  # last: where it exists, all is complete
        folder.remove_checkpoints()
    return {**result, "files": _places(folder.out, verb)}


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


def _places(folder: Path, verb: str) -> dict[str, str]:
    names = {"numbers": f"{verb}.json", **{f"{name}_{kind}": f"{name}.{kind}" for name in ("contours", "surfaces")
             for kind in ("png", "svg")}}  # fmt: skip
    return {key: str(folder / name) for key, name in names.items()}
