"""The report of what ``narfx solve`` answered from the scores of a search."""

from __future__ import annotations

from typing import Any

from narfx.report.charts import HINT, Dot, Line, front_chart, line_chart
from narfx.report.command import solve_command
from narfx.report.common import cost_facts, cost_words, network_section, sections, setup, told
from narfx.report.front_facts import front_facts
from narfx.report.parts import (
    Cell,
    Command,
    Facts,
    Key,
    Page,
    Section,
    Table,
    Verdict,
    amount,
    percent,
    plain,
    share,
    vector_text,
)
from narfx.report.reading import RunFiles
from narfx.report.results import SolveResult
from narfx.space.front import front
from narfx.space.network_record import NetworkRecord

__all__ = ["solve_page"]


def solve_page(run: RunFiles) -> Page:
    """The points that were solved for."""
    result: SolveResult = run.result or SolveResult()
    record = run.about.networks[0] if run.about is not None and run.about.networks else None
    networks: list[tuple[NetworkRecord, tuple[int, ...], str]] = []
    for point in result.points:
        if record is None:
            break
        try:
            entries = record.entries({"vector": point.vector, "skips": point.skips})
        except ValueError as error:
            run.warnings.append(f"the point of {plain(point.budget)} does not fit the network: {error}")
            continue
        networks.append((record, entries, f"{plain(point.budget)}: {cost_facts(point.costs, dict(result.base))}"))
    return Page(
        kind="Front",
        title=run.name,
        subtitle=plain(record.model if record is not None else f"of the search {result.run}", 90),
        verdicts=(_verdict(result),),
        tiles=(),
        sections=sections(_front(run, result), network_section(networks), _asked(run, result), setup(run)),
        warnings=told((*run.warnings, *result.notes)),
    )


def _verdict(result: SolveResult) -> Verdict:
    if not result.points:
        return Verdict("There is no point to show.")
    worth = "one budget" if len(result.points) == 1 else f"{len(result.points)} budgets"
    return Verdict(
        f"The best vectors for {worth}, chosen by the scores of the search {plain(result.run)} and evaluated on its "
        "validation images by shared weights. They are not compared with random vectors here: narfx compare trains "
        "each network alone."
    )


def _front(run: RunFiles, result: SolveResult) -> Section | None:
    points = [point for point in result.points if point.accuracy is not None and result.bounded in point.costs]
    if not points:
        return None
    cost = result.bounded
    records: list[dict[str, Any]] = [
        {"vector": p.vector, "accuracy": p.accuracy, **p.costs, "budget": p.budget} for p in points
    ]
    best = {entry["budget"] for entry in front(records, (cost, "accuracy"))}
    evaluated = {} if run.front is None else {(p.vector, p.skips): p.standard_error for p in run.front.points}
    dots = [
        Dot(plain(p.budget), p.costs[cost], float(p.accuracy or 0), evaluated.get(p.key), p.vector, p.skips,
            tuple(p.costs.items()), "refined" if p.budget in best else "random", p.budget in best)
        for p in points
    ]  # fmt: skip
    base = None if run.front is None else run.front.base
    if base is not None and base.accuracy is not None and cost in base.costs:
        costs = tuple(base.costs.items())
        dots.append(
            Dot("base", base.costs[cost], base.accuracy, base.standard_error, base.vector, base.skips, costs, "base")
        )
    keys = (Key("on the front", "refined"), Key("base", "base"), Key("not on it", "random"))
    unit = "ms" if cost == "latency" else ""
    parts: list[Any] = [
        HINT,
        front_chart("front-0", f"Accuracy against {cost_words(cost)}", dots, cost_words(cost), unit, keys=keys),
    ]
    if all(point.predicted_accuracy is not None for point in points) and len(points) > 1:
        ordered = sorted(points, key=lambda point: point.costs[cost])
        x = [p.costs[cost] for p in ordered]
        lines = [
            Line("evaluated", x, [100 * float(p.accuracy or 0) for p in ordered], "refined"),
            Line("predicted from the scores", x, [100 * float(p.predicted_accuracy or 0) for p in ordered], "series-2"),
        ]
        parts.append(line_chart("predicted", "Predicted and evaluated", lines, "accuracy, %", cost_words(cost)))
    return Section("front", "The front", (*parts, _table(result), *front_facts(run)))


def _table(result: SolveResult) -> Table:
    costs = list(dict.fromkeys(name for point in result.points for name in point.costs))
    rows: list[tuple[Cell | str, ...]] = [
        (
            plain(point.budget),
            percent(point.accuracy),
            percent(point.predicted_accuracy),
            *(
                f"{amount(point.costs.get(c), c)} {share(point.costs.get(c), result.base.get(c))}".strip()
                for c in costs
            ),
            Cell(vector_text(point.vector, point.skips), copy=vector_text(point.vector, point.skips)),
        )
        for point in result.points
    ]
    columns = ("budget", "accuracy", "predicted", *map(cost_words, costs), "vector")
    return Table(columns, rows, "The points", frozenset(range(1, 3 + len(costs))))


def _asked(run: RunFiles, result: SolveResult) -> Section | None:
    if result.asked is None:
        return Section("asked", "What was asked", (Facts((("search", plain(result.run)),)),))
    asked = result.asked
    facts = Facts(
        (("search", plain(result.run)), ("budget", plain(asked.budget)), ("solutions a budget", str(asked.count)))
    )
    command = solve_command(result.run, asked.budget, asked.count, asked.points, run.path)
    return Section("asked", "What was asked", (facts, Command(command, "This command repeats it:")))
