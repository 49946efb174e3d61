"""Figure 1 of NAR (arXiv 1905.02341): the gradient of the operator part and of the skip part at each step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from narfx.analysis.drawing import Drawing, Panel
from narfx.analysis.steps import curve, enough, malformed, read_steps
from narfx.errors import UsageError
from narfx.runs.events import EVENTS, Step

__all__ = ["gradients"]


def gradients(run: Path | str, out: Path | str | None = None, overwrite: bool = False) -> dict[str, Any]:
    """Read the gradient magnitudes of a search, summarise and draw them.

    Args:
        run: The run directory of a search by ``nar``, ``enas`` or ``alternating``.
        out: The folder of ``gradients.png``, ``.svg`` and ``.json``; none is written without one.
        overwrite: Whether files of these names may be replaced.

    Returns:
        ``strategy``, ``steps``, and for each of the ``parts`` (operators, skips) its ``steps``, its ``decisions``
        (slots), the curve's ``mean``, ``std``, ``std_over_mean`` and ``lag1``, the ``mean_per_decision``, and under
        ``of_reward`` the same curve for R − b in place of (R − b)/s. The file has the ``series`` as well.

    Raises:
        UsageError: There is no run, no step, too few of them, or the strategy logs no gradient; or a file exists.
    """
    run = Path(run)
    drawing = None if out is None else Drawing(Path(out), "gradients", overwrite=overwrite)
    strategy, steps = read_steps(run)
    try:
        series = _series(steps)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise malformed(run, error) from error
    if not series:
        raise UsageError(
            f"{run} has no gradients, because strategy {strategy!r} logs none: search with nar, enas, or alternating "
            "with mode=policy",
            where=str(run / EVENTS),
            kind="no_gradients",
        )
    for part, values in series.items():
        enough(run, len(values["step"]), f"a gradient of the {part}")
    result: dict[str, Any] = {"run": str(run), "strategy": strategy, "steps": len(steps), "parts": {}}
    for part, values in series.items():
        magnitude = np.array(values["gradient"])
        result["parts"][part] = {
            "steps": len(magnitude),
            "decisions": values["decisions"],
            **curve(magnitude),
            "mean_per_decision": float(magnitude.mean()) / values["decisions"],
            "of_reward": curve(magnitude * np.array(values["spread"])),
        }
    if drawing is not None:
        result["files"] = drawing.write(_panels(series), {**result, "series": series})
    return result


def _series(steps: list[Step]) -> dict[str, dict[str, Any]]:
    """Of each part that was logged: the numbers of its steps (from 1), its gradients, and the spread s of R − b."""
    found: dict[str, dict[str, Any]] = {}
    for number, step in enumerate(steps, 1):
        for part, magnitude in (step.gradient or {}).items():
            if magnitude is None:
                continue
            rows = step.assigned["skips"]["open"] if part == "skips" else step.assigned["operators"]
            decisions = sum(map(len, rows)) if part == "skips" else len(rows)
            empty = {"decisions": decisions, "step": [], "gradient": [], "spread": []}
            values = found.setdefault(str(part), empty)
            values["step"].append(number)
            values["gradient"].append(float(magnitude))
            values["spread"].append(float(step.spread))
    return found


def _panels(series: dict[str, dict[str, Any]]) -> list[Panel]:
    panels = [
        Panel(f"gradient, {part}", {part: (values["step"], values["gradient"])}) for part, values in series.items()
    ]
    if len(series) == 1:
        return panels
    lines = {
        part: (values["step"], [value / values["decisions"] for value in values["gradient"]])
        for part, values in series.items()
    }
    return [*panels, Panel("gradient per decision", lines)]
