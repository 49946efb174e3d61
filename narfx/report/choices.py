"""Operator choices over time: the mean probability of each operator, and what each slot prefers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narfx.report.charts import share_chart
from narfx.report.drawing import SERIES, colour, draw
from narfx.report.parts import Figure, Key, Table, percent, plain
from narfx.runs.events import Step

__all__ = ["choice_figures", "series"]

Floats = NDArray[np.float64]
_BUCKETS, _SLOTS, _LEVELS = 40, 48, (0.35, 0.55, 0.75, 0.95)


def series(index: int) -> str:
    """The colour of a choice by its index; index 0 is the base."""
    return SERIES[0] if index == 0 else SERIES[1 + (index - 1) % (len(SERIES) - 1)]


def choice_figures(steps: Sequence[Step], operators: Sequence[str], slots: Sequence[str]) -> tuple[list[Figure], bool]:
    """The figures of the operators' probabilities, or of their shares among the proposals where no policy logs any.

    Args:
        steps: Those of a strategy.
        operators: The names of the choices.
        slots: The names of the slots that are no skips, which come first in a vector; none where they are not known.

    Returns:
        The figures, and whether they show probabilities.
    """
    found = _probabilities(steps)
    logged = found is not None
    numbers, p = found if found is not None else _proposed(steps)
    p = p[:, : len(slots)] if slots else p
    if not len(numbers):
        return [], logged
    names = [operators[k] if k < len(operators) else f"choice {k}" for k in range(p.shape[2])]
    what = "mean probability" if logged else "share of proposals"
    colours = {name: series(index) for index, name in enumerate(names)}
    mean = {name: p[:, :, k].mean(1).tolist() for k, name in enumerate(names)}
    title = "Operators over all slots" if logged else "Operators among the proposals"
    labels = [slots[i] if i < len(slots) else f"slot {i}" for i in range(p.shape[1])]
    first = share_chart("choices", title, mean, numbers, colours, what=what)
    return [first, _by_slot(p, numbers, names, labels, what.removeprefix("mean "))], logged


def _probabilities(steps: Sequence[Step]) -> tuple[list[int], Floats] | None:
    """The probabilities (steps, slots, choices) and the numbers of the steps that logged them, from 1."""
    numbers: list[int] = []
    rows: list[Floats] = []
    for number, step in enumerate(steps, 1):
        table = _table(step.more.get("probabilities"))
        if table is not None and (not rows or table.shape == rows[0].shape):
            numbers.append(number)
            rows.append(table)
    return (numbers, np.stack(rows)) if rows else None


def _table(value: Any) -> Floats | None:
    """Probabilities by slot and choice, where that is what the value is; a slot with fewer choices has zeros."""
    if not isinstance(value, list) or not value or not all(isinstance(row, list) and row for row in value):
        return None
    try:
        longest = max(map(len, value))
        table = np.array([[*row, *[0.0] * (longest - len(row))] for row in value], dtype=float)
    except (TypeError, ValueError):
        return None
    return table if np.isfinite(table).all() and table.min() >= 0 else None


def _proposed(steps: Sequence[Step]) -> tuple[list[int], Floats]:
    """The share of each choice at each slot among the vectors of a step."""
    batches = [(number, vectors) for number, step in enumerate(steps, 1) if (vectors := _vectors(step.vectors))]
    if not batches:
        return [], np.zeros((0, 0, 0))
    width = len(batches[0][1][0])
    batches = [(number, vectors) for number, vectors in batches if all(len(vector) == width for vector in vectors)]
    choices = 1 + max(entry for _, vectors in batches for vector in vectors for entry in vector)
    shares = [np.eye(choices)[np.array(vectors)].mean(0) for _, vectors in batches]
    return [number for number, _ in batches], np.stack(shares)


def _vectors(value: Any) -> list[list[int]]:
    known = value if isinstance(value, list) else []
    return [v for v in known if isinstance(v, list) and v and all(type(e) is int and 0 <= e < 100 for e in v)]


def _by_slot(p: Floats, numbers: Sequence[int], names: Sequence[str], slots: Sequence[str], what: str) -> Figure:
    """A band a slot: the colour of the likeliest operator, the more opaque the likelier it is."""
    shown = min(len(slots), _SLOTS)
    edges = np.unique(np.linspace(0, len(numbers), min(_BUCKETS, len(numbers)) + 1).astype(int))
    means = np.stack([p[a:b, :shown].mean(0) for a, b in pairwise(edges)])
    starts = [numbers[a] - 0.5 for a in edges[:-1]] + [numbers[-1] + 0.5]

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        for slot in range(shown):
            for choice, level, first, last in _runs(means[:, slot]):
                left, width = starts[first], starts[last + 1] - starts[first]
                axis.barh(slot, width, left=left, height=0.86, color=colour(series(choice)), alpha=level, linewidth=0)
        axis.set_ylim(shown - 0.5, -0.5)
        axis.set_xlim(starts[0], starts[-1])
        axis.set_yticks(range(shown), [plain(name, 22) for name in slots[:shown]], fontsize=8, color=colour("ink"))
        axis.tick_params(axis="y", length=0)
        axis.grid(visible=False)
        axis.set_xlabel("step")

    last = means[-1]
    rows = [(slots[i], names[int(last[i].argmax())], percent(float(last[i].max()))) for i in range(shown)]
    title = "What each slot prefers"
    label = f"{title}: for each slot the operator with the largest {what}, step by step. The table has the last steps."
    left_out = f" The first {shown} of {len(slots)} slots are shown." if shown < len(slots) else ""
    used = sorted({int(k) for k in means.argmax(2).ravel()})
    return Figure(
        title,
        draw("slots", paint, height=0.8 + 0.2 * max(shown, 6), label=label),
        label,
        keys=tuple(Key(plain(names[k]), series(k)) for k in used),
        table=Table(("slot", "at the end", what), rows, numeric=frozenset({2})),
        note=f"The operator with the largest {what}; the stronger the colour, the larger it is.{left_out}",
    )


def _runs(means: Floats) -> Iterator[tuple[int, float, int, int]]:
    """Stretches (choice, opacity, first, last) of one slot in which neither changes; means are (buckets, choices)."""
    looks = [(int(row.argmax()), _LEVELS[min(int(row.max() * len(_LEVELS)), len(_LEVELS) - 1)]) for row in means]
    first = 0
    for index in range(1, len(looks) + 1):
        if index == len(looks) or looks[index] != looks[first]:
            yield (*looks[first], first, index - 1)
            first = index
