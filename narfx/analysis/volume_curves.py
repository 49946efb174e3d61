"""The hypervolume of searches against the number of vectors that they evaluated, several runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from narfx.analysis.drawing import Drawing, Panel
from narfx.analysis.steps import enough, malformed, read_steps
from narfx.errors import UsageError
from narfx.runs.events import EVENTS, Step
from narfx.runs.folder import RunFolder
from narfx.runs.origin import began_with

__all__ = ["hypervolumes"]

_SHARES = (0.25, 0.5, 1.0)
_SAME = ("init", "budget", "data_fraction", "max_train_images", "val_fraction", "reward_images")


class _Curve(NamedTuple):
    """A run's curve: after each step the distinct vectors evaluated so far, and the hypervolume."""

    strategy: str
    config: dict[str, Any]
    reads: Mapping[str, str]
    evaluations: list[int]
    volumes: list[float]

    @property
    def costs(self) -> tuple[str, ...]:
        """The costs of its front, or those that its strategy trades, as far as the configuration names any."""
        front, options = self.config.get("front"), self.config.get("strategy_options")
        if front:
            return tuple(map(str, front))
        named = options.get("costs") if isinstance(options, dict) else None
        return tuple(name.strip() for name in str(named or "macs").lower().split(","))

    def after(self, evaluations: int) -> float:
        """The hypervolume once so many vectors were evaluated."""
        return next(v for n, v in zip(self.evaluations, self.volumes, strict=True) if n >= evaluations)


def hypervolumes(runs: Sequence[Path | str], out: Path | str | None = None, overwrite: bool = False) -> dict[str, Any]:
    """Read the hypervolume that searches logged at each step, and draw it against the distinct vectors evaluated.

    It is that of all vectors evaluated so far with the rewards of minibatches, against a reward of 0 and the base's
    costs (:func:`~narfx.search.goals.archive_hypervolume`); a search logs it where it has a front, or where its
    strategy trades costs.

    Args:
        runs: The run directories of one or more searches over the same costs.
        out: The folder of ``hypervolume.png``, ``.svg`` and ``.json``; none is written without one.
        overwrite: Whether files of these names may be replaced.

    Returns:
        ``costs``; ``counts``: a quarter, half and all of the evaluations that every run has; ``runs``: of each its
        ``run``, ``strategy``, ``steps``, ``evaluations``, the hypervolume ``after`` those counts and at its ``end``;
        ``notes`` about what the runs do not have in common.

    Raises:
        UsageError: There is no run, too few steps, no hypervolume in the events, or other costs in one of the runs; or
            a file exists.
    """
    drawing = None if out is None else Drawing(Path(out), "hypervolume", overwrite=overwrite)
    curves = {str(run): _read(Path(run)) for run in runs}
    _check_costs(curves)
    most = min(curve.evaluations[-1] for curve in curves.values())
    counts = sorted({max(round(share * most), 1) for share in _SHARES})
    result: dict[str, Any] = {
        "costs": list(next(iter(curves.values())).costs),
        "counts": counts,
        "runs": [
            {
                "run": name, "strategy": curve.strategy, "steps": len(curve.volumes),
                "evaluations": curve.evaluations[-1], "after": [curve.after(count) for count in counts],
                "end": curve.volumes[-1],
            }
            for name, curve in curves.items()
        ],
        "notes": _notes(list(curves.values())),
    }  # fmt: skip
    if drawing is not None:
        short = [Path(name).resolve().name for name in curves]
        names = short if len({*short}) == len(short) else [*curves]
        lines = {
            f"{curve.strategy}, {name}": (curve.evaluations, curve.volumes)
            for name, curve in zip(names, curves.values(), strict=True)
        }
        series = {name: {"evaluations": n, "hypervolume": volumes} for name, (n, volumes) in lines.items()}
        panel = Panel(f"hypervolume over {', '.join(result['costs'])}", lines)
        result["files"] = drawing.write([panel], {**result, "series": series}, over="distinct vectors evaluated")
    return result


def _read(run: Path) -> _Curve:
    strategy, steps = read_steps(run)
    logged = [step for step in steps if "hypervolume" in step.more]
    if not logged:
        raise UsageError(
            f"{run} has no hypervolume in its events: search with --front, or with a strategy that trades costs",
            where=str(run / EVENTS),
            kind="no_hypervolume",
        )
    enough(run, len(logged), "a hypervolume")
    try:
        volumes = [float(step.more["hypervolume"]) for step in logged]
        evaluations = [*accumulate(_new(logged))]
    except (TypeError, ValueError) as error:
        raise malformed(run, error) from error
    config = RunFolder.open(run).config()
    return _Curve(strategy, config if isinstance(config, dict) else {}, began_with(run), evaluations, volumes)


def _new(steps: Sequence[Step]) -> list[int]:
    """How many vectors of each step were not evaluated before."""
    seen: set[tuple[int, ...]] = set()
    found = []
    for step in steps:
        before = len(seen)
        seen |= {tuple(vector) for vector in step.vectors or ()}
        found.append(len(seen) - before)
    return found


def _check_costs(curves: dict[str, _Curve]) -> None:
    (first, one), *others = curves.items()
    for name, other in others:
        if other.costs != one.costs:
            raise UsageError(
                f"the front of {first} is over {', '.join(one.costs)}, and that of {name} over "
                f"{', '.join(other.costs)}: hypervolumes over different costs do not compare",
                where=name,
                kind="other_costs",
            )


def _notes(curves: Sequence[_Curve]) -> list[str]:
    differ = [key.replace("_", " ") for key in _SAME if len({str(curve.config.get(key)) for curve in curves}) > 1]
    read = sorted({name for curve in curves for name in curve.reads})
    differ += [name for name in read if len({curve.reads.get(name) for curve in curves}) > 1]
    return [f"the runs differ in {', '.join(differ)}: their hypervolumes do not compare"] if differ else []
