"""The report of a training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from narfx.report.charts import Spread, spread_chart
from narfx.report.common import (  # fmt: skip
    asked,
    binomial_error,
    cost_facts,
    cost_words,
    curve,
    network_section,
    sections,
    setup,
    told,
    unfinished,
)
from narfx.report.parts import Page, Section, Tile, Verdict, amount, percent, plain, share
from narfx.report.reading import RunFiles
from narfx.report.results import TrainResult
from narfx.runs.events import Epoch

__all__ = ["train_page"]

_PARTS = {"test": "test images", "val": "validation images"}


def train_page(run: RunFiles) -> Page:
    """All that a training has left, finished or not."""
    result: TrainResult | None = run.result
    epochs = run.of_kind(Epoch)
    record = run.about.networks[0] if run.about is not None and run.about.networks else None
    costs = (
        {} if result is None else {k: v for k, v in (("macs", result.macs), ("params", result.params)) if v is not None}
    )
    base = {} if record is None or not record.slots else {k: record.cost((0,) * len(record.slots), k) for k in costs}
    figures = [
        curve("loss", "Training loss", epochs, {"loss": "loss"}, "epoch"),
        curve("rate", "Learning rate", epochs, {"lr": "learning rate"}, "epoch"),
    ]
    title = f"The trained network: {cost_facts(costs, base)}" if costs else "The network"
    facts = [
        ("network", run.config.get("target")), ("base", "yes" if run.config.get("base") else ""),
        ("data", run.config.get("data")), ("epochs", run.config.get("epochs")),
        ("starts from", result.starting_weights if result else run.config.get("init")),
        ("teacher", run.config.get("teacher_model") or run.config.get("teacher")),
    ]  # fmt: skip
    return Page(
        kind="Training",
        title=run.name,
        subtitle=plain(record.model if record is not None else run.config.get("target", ""), 90),
        verdicts=(_verdict(run, result, len(epochs)),),
        tiles=tuple(_tiles(result, costs, base)),
        sections=sections(
            _accuracy(result),
            Section("learning", "Learning curves", tuple(figure for figure in figures if figure is not None)),
            None if record is None else network_section([(record, record.vector, title)]),
            asked(run, facts),
            setup(run),
        ),
        warnings=told(run.warnings),
    )


def _verdict(run: RunFiles, result: TrainResult | None, epochs: int) -> Verdict:
    if result is None:
        return unfinished(run, f"{epochs} of {plain(run.config.get('epochs'))} epochs")
    part, found = next(((name, found) for name in _PARTS if (found := getattr(result, name)) is not None), ("", None))
    if found is None:
        return Verdict("The run states no accuracy.")
    error = f" ± {100 * binomial_error(found.accuracy, found.images):.2f}" if found.images else ""
    return Verdict(
        f"{plain(result.metric)} {100 * found.accuracy:.2f}{error} % on {found.images:,} {_PARTS[part]} after "
        f"{result.epochs} epochs. One training says nothing about how it compares: narfx compare trains the base, the "
        "refined network and random ones with several seeds."
    )


def _accuracy(result: TrainResult | None) -> Section | None:
    found = [(name, getattr(result, name)) for name in _PARTS] if result is not None else []
    rows = [
        Spread(
            _PARTS[name], part.accuracy, binomial_error(part.accuracy, part.images) if part.images else None,
            colour="refined",
        )
        for name, part in found
        if part is not None
    ]  # fmt: skip
    if not rows:
        return None
    figure = spread_chart("accuracy", "Accuracy", rows, "accuracy", "Bars: standard errors over the images.")
    return Section("accuracy", "Accuracy", (figure,))


def _tiles(result: TrainResult | None, costs: dict[str, float], base: dict[str, Any]) -> Iterator[Tile]:
    for name in _PARTS:
        part = getattr(result, name, None)
        if part is not None:
            yield Tile(f"accuracy, {_PARTS[name]}", percent(part.accuracy), f"{part.images:,} images")
    for name, value in costs.items():
        known = base.get(name)
        said = f"{amount(value, name)}, base {amount(known, name)}" if known else ""
        yield Tile(cost_words(name), share(value, known) or amount(value, name), said)
