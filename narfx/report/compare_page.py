"""The report of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from narfx.report.charts import HINT, Dot, Line, Spread, front_chart, line_chart, spread_chart
from narfx.report.common import (  # fmt: skip
    asked,
    cost_facts,
    cost_words,
    mood,
    network_section,
    sections,
    setup,
    spread_of,
    told,
    unfinished,
)
from narfx.report.drawing import SERIES
from narfx.report.parts import Figure, Key, Page, Section, Table, Tile, Verdict, amount, number, percent, plain, share
from narfx.report.reading import RunFiles
from narfx.report.results import CompareResult, Contrast, Entry, Row
from narfx.runs.events import Epoch, Event, Trained
from narfx.space.front import front

__all__ = ["compare_page"]


def compare_page(run: RunFiles) -> Page:
    """All that a comparison has left, finished or not."""
    result: CompareResult | None = run.result
    networks = run.about.networks if run.about is not None else ()
    facts = [
        ("architectures", ", ".join(map(str, [run.config.get("target"), *(run.config.get("further") or ())]))),
        ("data", run.config.get("data")), ("seeds", run.config.get("seeds")), ("epochs", run.config.get("epochs")),
        ("random vectors", run.config.get("randoms")), ("starts from", run.config.get("init")),
    ]  # fmt: skip
    return Page(
        kind="Comparison",
        title=run.name,
        subtitle=plain(", ".join(dict.fromkeys(record.model for record in networks)), 120),
        verdicts=tuple(_verdicts(run, result)),
        tiles=tuple(_tiles(result)) if result else (),
        sections=sections(
            _beside(result) if result else _so_far(run),
            _costs(result) if result else None,
            _learning(run),
            network_section([(each, each.vector, each.name) for each in networks]),
            asked(run, facts),
            setup(run),
        ),
        warnings=told(run.warnings),
    )


def _verdicts(run: RunFiles, result: CompareResult | None) -> Iterator[Verdict]:
    if result is None:
        done = len(run.of_kind(Trained))
        yield unfinished(run, f"{done} networks are trained" if done != 1 else "one network is trained")
        return
    for entry in result.architectures:
        against = entry.random.against
        yield Verdict(plain(entry.verdict, 1500), mood([against.verdict if against else None]))
        if entry.against_base is not None:
            yield Verdict(_of_base(entry, result), mood([entry.against_base.verdict]))


def _of_base(entry: Entry, result: CompareResult) -> str:
    """The architecture beside its base, with what it costs of it."""
    rows = {row.name: row for row in result.rows}
    own, base = rows.get(entry.name), rows.get(entry.base)
    costs = "" if own is None or base is None else cost_facts(own.costs, dict(base.costs))
    return f"{plain(entry.name)}: {_difference(entry.against_base)} the base; it has {costs or 'other costs'}"


def _difference(found: Contrast | None) -> str:
    if found is None or found.difference is None:
        return "not compared with"
    error, more = (
        ("", ", without a standard error because there is one seed")
        if found.standard_error is None
        else (f" ± {100 * found.standard_error:.2f}", "")
    )
    if found.verdict in ("better", "worse"):
        return f"{found.verdict} by {100 * abs(found.difference):.2f}{error} points of accuracy{more} than"
    return f"not told apart ({100 * found.difference:+.2f}{error} points of accuracy{more}) from"


def _tiles(result: CompareResult) -> Iterator[Tile]:
    rows = {row.name: row for row in result.rows}
    for entry in result.architectures[:2]:
        own, base = rows.get(entry.name), rows.get(entry.base)
        if own is None:
            continue
        error = "" if own.standard_error is None else f" ± {100 * own.standard_error:.2f}"
        beside = f"base {percent(base.mean)}, random {percent(entry.random.mean)}" if base else ""
        yield Tile(f"{plain(entry.name, 30)}, {_part(result)}", f"{100 * own.mean:.2f}{error} %", beside)
        if own.macs is not None and base is not None:
            said = f"{amount(own.macs)}, base {amount(base.macs)}"
            yield Tile(f"{plain(entry.name, 30)}, MACs", share(own.macs, base.macs), said)


def _part(result: CompareResult) -> str:
    return "test accuracy" if result.part == "test" else "validation accuracy"


def _colour(row: Row, result: CompareResult) -> str:
    names = [entry.name for entry in result.architectures]
    if row.name in {entry.base for entry in result.architectures}:
        return "base"
    if row.name not in names:
        return "random"
    place = names.index(row.name)
    return "refined" if place == 0 else SERIES[1 + place % (len(SERIES) - 1)]


def _randoms(entry: Entry, result: CompareResult) -> list[Row]:
    """The rows of an architecture's random vectors, by their names."""
    several = len(result.architectures) > 1 or any(row.name.startswith(f"{entry.name} random ") for row in result.rows)
    head = f"{entry.name} random " if several else "random "
    return [row for row in result.rows if row.name.startswith(head)]


def _beside(result: CompareResult) -> Section:
    seeds = f"{result.seeds} seed{'s' if result.seeds != 1 else ''}"
    rows = []
    taken = set()
    for row in result.rows:
        if _colour(row, result) != "random":
            rows.append(Spread(row.name, row.mean, row.standard_error, row.accuracies, _colour(row, result)))
    for entry in result.architectures:
        others = _randoms(entry, result)
        taken |= {row.name for row in others}
        if others and entry.random.mean is not None:
            name = "random, equal cost" if len(result.architectures) == 1 else f"random beside {entry.name}"
            means = tuple(row.mean for row in others)
            rows.append(Spread(name, entry.random.mean, entry.random.standard_error, means))
    figures = [
        spread_chart(
            "beside", "Means over all seeds", rows, _part(result),
            f"{seeds} each. Dots: seeds, or the means of the random vectors. Bars: standard errors.",
        )
    ]  # fmt: skip
    singles = [Spread(r.name, r.mean, r.standard_error, r.accuracies) for r in result.rows if r.name in taken]
    if 1 < len(singles) <= 30:
        figures.append(spread_chart("randoms", "Each random vector", singles, _part(result)))
    return Section("beside", "Base, refined and random", (*figures, _table(result)))


def _table(result: CompareResult) -> Table:
    costs = list(dict.fromkeys(name for row in result.rows for name in row.costs))
    rows = [
        (
            plain(row.name, 60),
            percent(row.mean),
            "–" if row.standard_error is None else f"{100 * row.standard_error:.2f}",
            *(amount(row.costs.get(name), name) for name in costs),
            plain(row.starting_weights, 80),
        )
        for row in result.rows
    ]
    columns = ("network", _part(result), "± s.e.", *map(cost_words, costs), "starts from")
    return Table(columns, rows, "All networks", frozenset(range(1, 3 + len(costs))))


def _costs(result: CompareResult) -> Section | None:
    costs = list(dict.fromkeys(name for row in result.rows for name in row.costs))
    if not costs:
        return None
    cost = costs[0] if "macs" not in costs else "macs"
    records = [
        {"vector": r.vector, "skips": r.skips or (), "name": r.name, "accuracy": r.mean, **r.costs}
        for r in result.rows
        if cost in r.costs
    ]
    best = {entry["name"] for entry in front(records, (cost, "accuracy"))}
    dots = [
        Dot(
            row.name, row.costs[cost], row.mean, row.standard_error, row.vector, row.skips, tuple(row.costs.items()),
            _colour(row, result), row.name in best,
        )
        for row in result.rows
        if cost in row.costs
    ]  # fmt: skip
    named = {row.name: _colour(row, result) for row in result.rows}
    keys = (
        *(Key(plain(each.name, 40), named[each.name]) for each in result.architectures if each.name in named),
        Key("base", "base"),
        Key("random, equal cost", "random"),
    )
    title = f"Accuracy against {cost_words(cost)}"
    note = "The line joins the front: those that no other network beats. Small differences are within the errors."
    figure = front_chart(
        "front-0", title, dots, cost_words(cost), "ms" if cost == "latency" else "", keys=keys, note=note
    )
    return Section("front", "Accuracy and cost", (HINT, figure))


def _so_far(run: RunFiles) -> Section | None:
    """The accuracies of the networks that an unfinished comparison has trained."""
    values: dict[str, list[float]] = {}
    for event in run.of_kind(Trained):
        part = event.more.get("test") or event.more.get("val")
        accuracy = number(part.get("accuracy")) if isinstance(part, dict) else None
        if accuracy is not None:
            values.setdefault(plain(event.name), []).append(accuracy)
    if not values:
        return None
    rows = [Spread(name, sum(v) / len(v), spread_of(v), tuple(v)) for name, v in values.items()]
    figure = spread_chart("so-far", "Networks trained so far", rows, "accuracy", "Not all networks have all seeds yet.")
    return Section("beside", "Base, refined and random", (figure,))


def _learning(run: RunFiles) -> Section:
    """The losses of all networks: one line each, the mean over the seeds."""
    losses: dict[str, list[Sequence[Event]]] = {}
    for folder, events in run.trainings.items():
        losses.setdefault(folder.rpartition("-")[0] or folder, []).append(events)
    lines = [line for name, runs in sorted(losses.items()) if (line := _line(name, runs)) is not None]
    if not lines:
        return Section("learning", "Learning curves", ())
    lines.sort(key=lambda line: line.colour != "random")
    return Section("learning", "Learning curves", (_losses(lines),))


def _line(name: str, runs: Sequence[Sequence[Event]]) -> Line | None:
    by_epoch: dict[int, list[float]] = {}
    for events in runs:
        for event in events:
            loss = number(event.loss) if isinstance(event, Epoch) else None
            if isinstance(event, Epoch) and loss is not None and type(event.epoch) is int:
                by_epoch.setdefault(event.epoch, []).append(loss)
    if not by_epoch:
        return None
    epochs = sorted(by_epoch)
    random, base = "random-" in name, name == "base" or name.startswith("base-of")
    colour = "random" if random else "base" if base else "refined"
    means = [sum(by_epoch[epoch]) / len(by_epoch[epoch]) for epoch in epochs]
    return Line(plain(name, 40), epochs, means, colour, width=0.9 if random else 2.0)


def _losses(lines: list[Line]) -> Figure:
    named = [line for line in lines if line.colour == "refined"]
    for place, line in enumerate(named[1:], 1):
        lines[lines.index(line)] = replace(line, colour=SERIES[1 + place % (len(SERIES) - 1)])
    keys: Mapping[tuple[str, str], None] = dict.fromkeys(
        ("random" if line.colour == "random" else line.name, line.colour) for line in lines
    )
    note = "The mean over the seeds of each network."
    shown = tuple(Key(name, colour) for name, colour in keys)
    return line_chart("losses", "Training loss", lines, "loss", "epoch", note=note, keys=shown)
