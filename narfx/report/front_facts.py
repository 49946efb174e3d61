"""What a report says about a ``front.json`` beside its points: hypervolume, weights, and how a point is taken."""

from __future__ import annotations

from narfx.errors import UsageError
from narfx.report.command import quoted
from narfx.report.common import cost_words
from narfx.report.parts import Command, Facts, amount
from narfx.report.reading import RunFiles
from narfx.space.front_file import Front
from narfx.space.hypervolume import hypervolume
from narfx.space.picks import reference_point

__all__ = ["front_facts"]

_TAKEN = "This command writes the cheapest point; --pick takes any number, knee, and bounds such as macs<=0.5x:"


def front_facts(run: RunFiles) -> tuple[Facts | Command, ...]:
    """The numbers of the front and the command that writes a point; nothing where the run has no front."""
    front = run.front
    if front is None:
        return ()
    kept, points = sum(point.weights is not None for point in front.points), len(front.points)
    facts = (
        ("points", f"{points:,} of {front.evaluated:,} vectors evaluated on {front.images:,} validation images"),
        ("hypervolume", _volume(front)),
        ("weights", "kept of every point" if kept == points else f"kept of {kept:,} of {points:,} points"),
    )
    words = ["narfx", "front", run.name, "--pick", "1", "--out", f"{run.name}-point-1"]
    return (
        Facts(tuple((name, text) for name, text in facts if text)),
        Command(quoted(words), _TAKEN),
    )


def _volume(front: Front) -> str:
    """With its reference point; empty where the base costs nothing."""
    try:
        reference = reference_point(None, front.base.costs, front.costs)
    except UsageError:
        return ""
    value = hypervolume([point.record() for point in front.points], reference)
    worst = ", ".join(f"{amount(front.base.costs[name], name)} {cost_words(name)}" for name in front.costs)
    return f"{value:.4f}, with accuracy 0 and {worst} (the base's) as the reference point"
