"""Assigned rewards (NAR, arXiv 1905.02341, equations 6 to 8) of a search, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narfx.analysis.drawing import Drawing, Panel
from narfx.analysis.steps import curve, enough, malformed, read_operators, read_steps
from narfx.errors import UsageError
from narfx.runs.events import EVENTS, Step

__all__ = ["rewards"]

Floats = NDArray[np.float64]


def rewards(run: Path | str, out: Path | str | None = None, overwrite: bool = False) -> dict[str, Any]:
    """Read the assigned rewards of a search, summarise and draw them.

    Args:
        run: The run directory of a search by ``nar``, ``enas`` or ``alternating``.
        out: The folder of ``rewards.png``, ``.svg`` and ``.json``; none is written without one.
        overwrite: Whether files of these names may be replaced.

    Returns:
        ``strategy``, ``steps``, and for each of the ``parts`` (operators, skips) means over the steps: ``mean``
        assigned reward; variance ``over_samples`` of a batch and ``over_depth``, each as ``variance``, as ``relative``
        (its root over the mean assigned reward) and with R − b in place of R as ``advantage_variance``; and of the
        assigned reward of one choice over the steps, the mean over choices of ``std_over_mean`` and ``lag1``.

    Raises:
        UsageError: There is no run, no step, too few of them, or the strategy logs no such rewards; or a file exists.
    """
    run = Path(run)
    drawing = None if out is None else Drawing(Path(out), "rewards", overwrite=overwrite)
    strategy, all_steps = read_steps(run)
    operators = read_operators(run)
    steps = [step for step in all_steps if step.assigned is not None]
    if not steps:
        raise UsageError(
            f"{run} has no assigned rewards, because strategy {strategy!r} logs none: search with nar, enas or "
            "alternating",
            where=str(run / EVENTS),
            kind="no_assigned_rewards",
        )
    enough(run, len(steps), "assigned rewards")
    try:
        choices, targets = _choices(steps)
        variances = {part: _variances(steps, part) for part in choices}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise malformed(run, error) from error
    parts = {part: {**_means(variances[part]), **_over_steps(choices[part])} for part in choices}
    result: dict[str, Any] = {"run": str(run), "strategy": strategy, "steps": len(steps), "parts": parts}
    if drawing is not None:
        series = {part: {name: values.tolist() for name, values in variances[part].items()} for part in variances}
        result["files"] = drawing.write(_panels(choices, targets, variances, operators), {**result, "series": series})
    return result


def _choices(steps: list[Step]) -> tuple[dict[str, Floats], list[int]]:
    """The assigned rewards ``(steps, decisions, choices)`` of each part, and the target of each skip."""
    found, targets = {}, []
    operators = np.array([step.assigned["operators"] for step in steps], dtype=float)
    if operators.size:
        found["operators"] = operators
    if "skips" in steps[0].assigned:
        first = steps[0].assigned["skips"]
        targets = [target for target, row in zip(first["targets"], first["open"], strict=True) for _ in row]
        opened = np.array([[*chain(*step.assigned["skips"]["open"])] for step in steps], dtype=float)
        mean = np.array([step.reward for step in steps], dtype=float)
        found["skips"] = np.stack([mean[:, None] - opened, opened], -1)
    return found, targets


def _variances(steps: list[Step], part: str) -> dict[str, Floats]:
    """Of each step: the mean assigned reward, and the variances over samples and depth, of R and of R − b."""
    kinds = {"": "variance", "advantage ": "advantage_variance"}
    return {
        f"{label}{name}": np.array([step.assigned[kind][part][name] for step in steps], dtype=float)
        for label, kind in kinds.items()
        for name in ("mean", "samples", "depth")
    }


def _means(variances: dict[str, Floats]) -> dict[str, Any]:
    mean = float(variances["mean"].mean())
    summary: dict[str, Any] = {"mean": mean}
    for name in ("samples", "depth"):
        variance = float(variances[name].mean())
        summary[f"over_{name}"] = {
            "variance": variance,
            "relative": math.sqrt(variance) / abs(mean) if mean else None,
            "advantage_variance": float(variances[f"advantage {name}"].mean()),
        }
    return summary


def _over_steps(choices: Floats) -> dict[str, Any]:
    """Of the curve of one choice, the mean over the choices that ever were assigned a reward."""
    curves = [curve(series) for series in choices.reshape(len(choices), -1).T if series.any()]
    found = {}
    for name in ("std_over_mean", "lag1"):
        known = [entry[name] for entry in curves if entry[name] is not None]
        found[name] = sum(known) / len(known) if known else None
    return found


def _panels(
    choices: dict[str, Floats], targets: list[int], variances: dict[str, dict[str, Floats]], operators: Sequence[str]
) -> list[Panel]:
    steps = list(range(1, len(next(iter(choices.values()))) + 1))
    panels = []
    if "operators" in choices:
        by_operator = choices["operators"].mean(1).T
        # Slots with choices of their own may have more of them than there are operators.
        names = [*operators, *(f"choice {index}" for index in range(len(operators), len(by_operator)))]
        lines = {name: (steps, row.tolist()) for name, row in zip(names, by_operator, strict=False)}
        panels.append(Panel("assigned reward, mean over slots", lines))
    if "skips" in choices:
        opened = choices["skips"][..., 1]
        depths = sorted(set(targets))
        rows = {depth: opened[:, [target == depth for target in targets]].mean(1).tolist() for depth in depths}
        lines = {f"open into {depth}": (steps, row) for depth, row in rows.items()}
        panels.append(Panel("assigned reward, mean over sources", lines, gradual=True))
    for name in ("samples", "depth"):
        lines = {part: (steps, variances[part][name].tolist()) for part in choices}
        panels.append(Panel(f"variance over {name}", lines))
    return panels
