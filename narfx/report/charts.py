"""The kinds of figures in a report: means with error bars, fronts, curves, shares over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from narfx.report.curves import Curve, shortened, smoothed
from narfx.report.drawing import SERIES, Point, colour, draw
from narfx.report.parts import Cell, Figure, Key, Table, amount, percent, plain, vector_text

__all__ = ["HINT", "Dot", "Line", "Spread", "front_chart", "line_chart", "share_chart", "spread_chart"]

HINT = "Hover or focus a point to see its vector and costs; a click or the Enter key copies the vector."
_TABLE_ROWS = 24


@dataclass(frozen=True)
class Spread:
    """One row of means: what was measured, each value, their mean and its standard error where it is known."""

    name: str
    mean: float
    error: float | None
    values: tuple[float, ...] = ()
    colour: str = "random"


@dataclass(frozen=True)
class Dot:
    """One architecture in a plane of accuracy and cost; ``on_front`` where no other one beats it."""

    name: str
    cost: float
    accuracy: float
    error: float | None
    vector: tuple[int, ...]
    skips: tuple[tuple[int, ...], ...] | None = None
    costs: tuple[tuple[str, float], ...] = ()
    colour: str = "random"
    on_front: bool = False

    @property
    def copied(self) -> str:
        """What a click copies."""
        return vector_text(self.vector, self.skips)

    @property
    def told(self) -> str:
        """What hovering shows."""
        error = "" if self.error is None else f" ± {100 * self.error:.2f}"
        costs = [f"{plain(name)} {value:,.6g}" for name, value in self.costs]
        skips = "" if self.skips is None else f"\nskips {', '.join(f'{a}→{b}' for a, b in self.skips) or 'none'}"
        first = f"{self.name}: {100 * self.accuracy:.2f}{error} %"
        return "\n".join([first, *costs, f"vector {vector_text(self.vector)}{skips}"])


@dataclass(frozen=True)
class Line:
    """A named series over steps or epochs."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    colour: str = SERIES[1]
    width: float = 1.8


def spread_chart(name: str, title: str, rows: Sequence[Spread], what: str, note: str = "") -> Figure:
    """Rows of single values, their mean and its standard error as a bar."""

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        for index, row in enumerate(rows):
            own = colour(row.colour)
            if len(row.values) > 1:
                scatter = {"linestyle": "none", "marker": "o", "markersize": 5, "alpha": 0.45, "markeredgewidth": 0}
                axis.plot([100 * value for value in row.values], [index] * len(row.values), color=own, **scatter)
            error = None if row.error is None else 100 * row.error
            axis.errorbar(
                100 * row.mean, index, xerr=error, fmt="D", markersize=7, color=own, elinewidth=2, capsize=5, capthick=2
            )
        axis.set_yticks(range(len(rows)), [plain(row.name, 28) for row in rows], color=colour("ink"))
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.margins(x=0.08)
        axis.grid(axis="y", visible=False)
        axis.spines["left"].set_visible(False)
        axis.set_xlabel(f"{what}, %")

    table = Table(
        ("", what, "± s.e.", "values"),
        [
            (
                row.name,
                percent(row.mean),
                "–" if row.error is None else f"{100 * row.error:.2f}",
                ", ".join(f"{100 * value:.2f}" for value in row.values) if len(row.values) > 1 else "",
            )
            for row in rows
        ],
        numeric=frozenset({1, 2}),
    )
    said = "; ".join(
        f"{plain(row.name)} {percent(row.mean)}" + ("" if row.error is None else f" ± {100 * row.error:.2f}")
        for row in rows
    )
    label = f"{title}. {what}: {said}."
    svg = draw(name, paint, height=0.75 + 0.34 * len(rows), label=label)
    return Figure(title, svg, label, table=table, note=note)


def front_chart(
    name: str, title: str, dots: Sequence[Dot], cost: str, unit: str, *, keys: tuple[Key, ...] = (), note: str = ""
) -> Figure:
    """Accuracy against cost; each dot can be hovered, focused and clicked, and the front is joined by a line."""
    order = sorted(range(len(dots)), key=lambda index: (dots[index].cost, dots[index].accuracy))
    placed = [dots[index] for index in order]
    scale, prefix = _scale(max((dot.cost for dot in placed), default=0.0), unit)

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        front = _rising([dot for dot in placed if dot.on_front])
        if len(front) > 1:
            x, y = [dot.cost / scale for dot in front], [100 * dot.accuracy for dot in front]
            axis.step(x, y, where="post", color=colour("refined"), linewidth=1.4, alpha=0.6, zorder=1)
        for index, dot in enumerate(placed):
            large = dot.on_front or dot.colour == "base"
            marker = "D" if dot.colour == "base" else "o"
            if dot.error is not None and dot.on_front:
                bar = {"color": colour(dot.colour), "elinewidth": 1, "alpha": 0.5, "zorder": 1}
                axis.errorbar(dot.cost / scale, 100 * dot.accuracy, yerr=100 * dot.error, fmt="none", **bar)
            axis.plot(
                [dot.cost / scale], [100 * dot.accuracy], marker, gid=f"point-{index}", color=colour(dot.colour),
                markersize=10 if large else 7, markeredgecolor=colour("card"), markeredgewidth=1.2,
                zorder=3 if large else 2,
            )  # fmt: skip
        axis.margins(0.08)
        axis.set_xlabel(f"{cost}{f', {prefix}{unit}' if prefix or unit else ''}")
        axis.set_ylabel("accuracy, %")

    points = {f"point-{index}": Point(dot.told, dot.copied) for index, dot in enumerate(placed)}
    label = (
        f"{title}: accuracy against {cost} of {len(dots)} architectures, {sum(d.on_front for d in dots)} on the front."
    )
    svg = draw(name, paint, height=3.5, label=label, points=points)
    used = tuple(key for key in keys if key.colour in {dot.colour for dot in dots})
    return Figure(title, svg, label, keys=used, note=note, points=True, table=_dot_table(placed))


def _rising(dots: Sequence[Dot]) -> list[Dot]:
    """Those that no cheaper one equals; a front of several costs is one in each pair of them only in part."""
    found: list[Dot] = []
    for dot in dots:
        if not found or dot.accuracy > found[-1].accuracy:
            found.append(dot)
    return found


def _dot_table(dots: Sequence[Dot]) -> Table:
    costs = list(dict.fromkeys(name for dot in dots for name, _ in dot.costs))
    rows = []
    for dot in sorted(dots, key=lambda dot: (not dot.on_front, dot.cost)):
        known = dict(dot.costs)
        error = "" if dot.error is None else f" ± {100 * dot.error:.2f}"
        rows.append(
            (
                dot.name,
                f"{percent(dot.accuracy)}{error}",
                *(amount(known.get(cost), cost) for cost in costs),
                "yes" if dot.on_front else "",
                Cell(dot.copied, copy=dot.copied),
            )
        )
    columns = ("architecture", "accuracy", *(plain(cost) for cost in costs), "on the front", "vector")
    return Table(columns, rows, numeric=frozenset(range(1, 2 + len(costs))))


def _scale(most: float, unit: str) -> tuple[float, str]:
    if unit:
        return 1.0, ""
    return next(((size, prefix) for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "K")) if most >= size), (1.0, ""))


def line_chart(
    name: str, title: str, lines: Sequence[Line], what: str, over: str = "step", *, smooth: bool = False,
    note: str = "", keys: tuple[Key, ...] | None = None,
) -> Figure:  # fmt: skip
    """Curves over steps or epochs. With ``smooth`` the values are faint, and their moving mean is drawn over them."""
    curves = [shortened(line.steps, line.values) for line in lines]

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        for line, curve in zip(lines, curves, strict=True):
            own = colour(line.colour)
            if curve.every > 1:
                axis.fill_between(curve.steps, curve.least, curve.greatest, color=own, alpha=0.16, linewidth=0)
            alone = {"marker": "o", "markersize": 4} if len(curve.steps) < 3 else {}
            if smooth and len(curve.means) >= 12:
                axis.plot(curve.steps, curve.means, color=own, linewidth=0.8, alpha=0.35)
                mean = smoothed(curve.means, max(len(curve.means) // 12, 3))
                axis.plot(curve.steps, mean, color=own, linewidth=line.width)
            else:
                axis.plot(curve.steps, curve.means, color=own, linewidth=line.width, **alone)
        _whole_steps(axis, lines)
        axis.set_xlabel(over)
        axis.set_ylabel(what)
        if _constant(lines):
            axis.set_ylim(*_around(lines[0].values[0]))

    described = "; ".join(
        f"{plain(line.name)} from {line.values[0]:.4g} to {line.values[-1]:.4g}" for line in lines[:6] if line.values
    )
    label = f"{title}: {what} over {over}. {described}."
    every = max((curve.every for curve in curves), default=1)
    thinned = (
        f"Each point is the mean of {every} values; the band is from the least to the greatest." if every > 1 else ""
    )
    legend = (
        tuple(Key(plain(line.name), line.colour) for line in lines) if keys is None and len(lines) > 1 else keys or ()
    )
    table = _curve_table(lines, curves, over)
    svg = draw(name, paint, height=2.7, label=label)
    return Figure(title, svg, label, keys=legend, table=table, note=" ".join(filter(None, [note, thinned])))


def _whole_steps(axis: Any, lines: Sequence[Line]) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if max((step for line in lines for step in line.steps), default=0) >= 1e5:
        axis.xaxis.set_major_formatter(EngFormatter())
    elif all(float(step).is_integer() for line in lines for step in line.steps):
        axis.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))


def _constant(lines: Sequence[Line]) -> bool:
    return len({value for line in lines for value in line.values}) == 1


def _around(value: float) -> tuple[float, float]:
    """Limits for a metric that is constant, which matplotlib would magnify until its rounding shows."""
    reach = abs(value) * 0.5 or 1.0
    return value - reach, value + reach


def _curve_table(lines: Sequence[Line], curves: Sequence[Curve], over: str) -> Table:
    """The curves at a few steps; where they have other steps, a row holds the next one before."""
    steps = sorted({step for curve in curves for step in curve.steps})
    if len(steps) > _TABLE_ROWS:
        steps = [steps[round(index * (len(steps) - 1) / (_TABLE_ROWS - 1))] for index in range(_TABLE_ROWS)]
    rows = []
    for step in steps:
        cells = []
        for curve in curves:
            place = int(np.searchsorted(curve.steps, step, side="right")) - 1
            cells.append("" if place < 0 else f"{curve.means[place]:.4g}")
        rows.append((f"{step:g}", *cells))
    return Table((over, *(line.name for line in lines)), rows, numeric=frozenset(range(len(lines) + 1)))


def share_chart(
    name: str, title: str, shares: Mapping[str, Sequence[float]], steps: Sequence[float], colours: Mapping[str, str],
    *, what: str, note: str = "",
) -> Figure:  # fmt: skip
    """Shares that sum to one, stacked over the steps."""
    curves = {key: shortened(steps, values) for key, values in shares.items()}

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        x = next(iter(curves.values())).steps
        if len(x) == 1:
            x = (x[0] - 0.5, x[0] + 0.5)
        layers = [
            [100 * value for value in curve.means] * (len(x) if len(curve.means) == 1 else 1)
            for curve in curves.values()
        ]
        axis.stackplot(x, layers, colors=[colour(colours[key]) for key in curves], linewidth=0, alpha=0.9)
        axis.set_xlim(x[0], x[-1])
        axis.set_ylim(0, 100)
        axis.grid(visible=False)
        axis.set_xlabel("step")
        axis.set_ylabel(f"{what}, %")

    ends = "; ".join(f"{plain(key)} from {percent(v[0])} to {percent(v[-1])}" for key, v in shares.items() if len(v))
    label = f"{title}: {what} of each operator over the steps. {ends}."
    lines = [Line(key, steps, [100 * value for value in values]) for key, values in shares.items()]
    table = _curve_table(lines, [shortened(line.steps, line.values) for line in lines], "step")
    keys = tuple(Key(plain(key), colours[key]) for key in shares)
    return Figure(title, draw(name, paint, height=2.7, label=label), label, keys=keys, table=table, note=note)
