"""The report of a search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from narfx.errors import UsageError
from narfx.report.charts import Spread, spread_chart
from narfx.report.choices import choice_figures
from narfx.report.common import (  # fmt: skip
    asked,
    binomial_error,
    cost_facts,
    cost_words,
    curve,
    mood,
    network_section,
    sections,
    setup,
    spread_of,
    told,
    unfinished,
)
from narfx.report.parts import Figure, Page, Section, Table, Tile, Verdict, amount, number, percent, plain, share
from narfx.report.reading import RunFiles
from narfx.report.results import SearchResult
from narfx.report.search_front import front_section
from narfx.runs.events import Distilled, Scored, Step, Weights
from narfx.space.architecture import Architecture

__all__ = ["search_page"]

_REWARD = {"reward": "mean reward of a batch"}
_ELSEWHERE = {"reward", "baseline", "grad_norm"}
_MOST_OTHERS = 8
_SHOWN = {
    "entropy": "entropy of a decision, nats",
    "policy.entropy": "entropy of a decision, nats",
    "spread": "spread of R − b",
    "open_rate": "mean probability that a skip is open",
    "log_prob": "log probability of a vector",
    "hypervolume": "hypervolume of all evaluated vectors",
    "critic_loss": "loss of the critic",
    "noise": "noise of the actions",
}


def search_page(run: RunFiles) -> Page:
    """All that a search has left, finished or not."""
    result: SearchResult | None = run.result
    model = plain(run.config.get("model", ""), 90)
    steps = run.of_kind(Step)
    facts = [
        ("model", run.config.get("model")), ("data", run.config.get("data")), ("strategy", run.config.get("strategy")),
        ("options of the strategy", _pairs(run.config.get("strategy_options"))),
        ("budget", run.config.get("budget")), ("front over", _listed(run.config.get("front"))),
        ("epochs", run.config.get("epochs")),
        ("starts from", result.starting_weights if result else run.config.get("init")),
    ]  # fmt: skip
    return Page(
        kind="Search",
        title=run.name,
        subtitle=model,
        verdicts=tuple(_verdicts(run, result)),
        tiles=tuple(_tiles(result)) if result else (),
        sections=sections(
            _beside(run, result) if result else None,
            front_section(run, result),
            _network(run, result),
            _learning(run, steps),
            _choices(run, steps),
            _gradients(steps),
            asked(run, facts),
            setup(run),
        ),
        warnings=told(run.warnings),
    )


def _pairs(options: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items()) if isinstance(options, dict) else ""


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) if isinstance(names, (list, tuple)) else ""


def _verdicts(run: RunFiles, result: SearchResult | None) -> Iterator[Verdict]:
    if result is None:
        seen = [event.epoch for event in run.events if isinstance(event, (Weights, Distilled))]
        epochs = max((epoch for epoch in seen if type(epoch) is int), default=0)
        steps = len(run.of_kind(Step))
        told = f"{epochs} of {plain(run.config.get('epochs'))} epochs, {steps:,} steps of the strategy"
        yield unfinished(run, told if run.events else "it has not logged anything")
        return
    judged = result.judgement
    verdicts = [judged.random.verdict, judged.macs_alone.verdict] if judged else []
    yield Verdict(plain(result.verdict or "the run states no verdict", 1500), mood(verdicts))
    if result.below_budget is not None:
        yield Verdict(plain(result.below_budget.message, 1500), "note-only")
    if result.timed_whole is not None:
        yield Verdict(plain(result.timed_whole.message, 1500), "note-only")


def _tiles(result: SearchResult) -> Iterator[Tile]:
    judged = result.judgement
    if judged is not None and judged.accuracy is not None:
        beside = f"random vectors of equal cost: {percent(judged.random.accuracy)}"
        yield Tile("accuracy, images that chose nothing", percent(judged.accuracy), beside)
    trained = "base: not trained" if result.base.accuracy is None else f"base: {percent(result.base.accuracy)}"
    yield Tile("accuracy, validation", percent(result.accuracy), trained)
    for name, value in result.costs.items():
        base = number(getattr(result.base, name, None))
        yield Tile(
            cost_words(name),
            share(value, base) or amount(value, name),
            f"{amount(value, name)}, base {amount(base, name)}",
        )


def _beside(run: RunFiles, result: SearchResult) -> Section:
    parts: list[Any] = [
        "All by the shared weights of the search, with recalibrated BatchNorm. narfx compare trains each network alone."
    ]
    judged = result.judgement
    if judged is not None and judged.images and judged.accuracy is not None:
        parts.append(_judged_figure(run, result))
    images = run.about.data.val if run.about is not None else None
    rows = _validation_rows(result, images)
    if rows:
        note = "" if images is None else f"{images:,} validation images, which chose the kept vector: that favours it."
        error = "Bars: standard errors over the images; for the random vectors over the vectors."
        parts.append(spread_chart("validation", "On validation images", rows, "accuracy", f"{note} {error}".strip()))
    return Section("beside", "Base, refined and random", tuple(parts))


def _judged_figure(run: RunFiles, result: SearchResult) -> Figure:
    judged = result.judgement
    assert judged is not None and judged.accuracy is not None
    rows = [Spread("kept vector", judged.accuracy, binomial_error(judged.accuracy, judged.images), colour="refined")]
    known = {record.key: record.right for record in run.evaluations}
    singles = [
        right / judged.images
        for record in result.randoms
        if (right := _right(known.get(record.key), judged.images)) is not None
    ]
    if judged.random.accuracy is not None:
        rows.append(Spread("random, equal cost", judged.random.accuracy, spread_of(singles), tuple(singles), "random"))
    alone = judged.macs_alone.accuracy
    if alone is not None:
        rows.append(Spread("MACs alone", alone, binomial_error(alone, judged.images), colour="series-3"))
    note = (
        f"{judged.images:,} images ({plain(judged.part or '')}). “MACs alone” is the vector that the most MACs within "
        "the budget pick. Bars: standard errors over the images; for the random vectors over the vectors."
    )
    return spread_chart("judged", "On images that chose nothing", rows, "accuracy", note)


def _right(text: str | None, images: int) -> int | None:
    """How many images an evaluation has classified right, from its packed bits."""
    try:
        bits = "".join(f"{byte:08b}" for byte in bytes.fromhex(text or ""))
    except ValueError:
        return None
    return bits[:images].count("1") if len(bits) >= images and text else None


def _validation_rows(result: SearchResult, images: int | None) -> list[Spread]:
    def row(name: str, accuracy: float | None, colour: str) -> list[Spread]:
        error = binomial_error(accuracy, images) if accuracy is not None and images else None
        return [] if accuracy is None else [Spread(name, accuracy, error, colour=colour)]

    randoms = tuple(record.accuracy for record in result.randoms if record.accuracy is not None)
    others = tuple(
        record.accuracy for record in result.finalists if record.accuracy is not None and record.key != result.key
    )
    rows = [
        *row("base, its own weights", result.base.accuracy, "base"),
        *row("kept vector", result.accuracy, "refined"),
    ]
    if others:
        rows.append(Spread("other finalists", sum(others) / len(others), spread_of(others), others, "series-5"))
    if randoms:
        rows.append(Spread("random, equal cost", sum(randoms) / len(randoms), spread_of(randoms), randoms, "random"))
    return rows


def _network(run: RunFiles, result: SearchResult | None) -> Section | None:
    if run.about is not None and run.about.networks:
        record = run.about.networks[0]
        if result is None:
            return network_section([(record, None, "The base, with what may be replaced")])
        try:
            entries = record.entries({"vector": result.vector, "skips": result.skips})
        except ValueError as error:
            run.warnings.append(f"the vector does not fit the network that the run began with: {error}")
            return network_section([(record, None, "The base")])
        base = {name: record.cost((0,) * len(record.slots), name) for name in result.costs}
        return network_section([(record, entries, f"The kept network: {cost_facts(result.costs, base)}")])
    return network_section([], _lines(run))


def _lines(run: RunFiles) -> Sequence[str]:
    try:
        return Architecture.load(run.path / "arch.json").sites
    except UsageError:
        return ()


def _learning(run: RunFiles, steps: Sequence[Step]) -> Section:
    weights, distilled, scored = run.of_kind(Weights), run.of_kind(Distilled), run.of_kind(Scored)
    figures = [
        curve("loss", "Loss of the shared weights", weights, {"loss": "loss"}, "epoch"),
        curve("distilled", "Error of the operators against the base's features", distilled, {"loss": "error"}, "epoch"),
        curve("reward", "Reward", steps, _REWARD, "step", what="reward", smooth=True),
        *(curve(f"s-{n}", text[:1].upper() + text[1:], steps, {key: text}, "step", what=text, smooth=True)
          for n, (key, text) in enumerate(_logged(steps).items())),
        curve("rate", "Learning rate", [*weights, *distilled], {"lr": "learning rate"}, "epoch"),
    ]  # fmt: skip
    parts: list[Any] = [figure for figure in figures if figure is not None]
    if distilled and distilled[-1].errors:
        parts.append(_error_table(distilled[-1]))
    for event in scored[-1:]:
        prediction = event.more.get("prediction")
        tau = number(prediction.get("kendall_tau")) if isinstance(prediction, dict) else None
        known = (
            "" if tau is None else f" Kendall's tau between predicted and measured losses of random vectors: {tau:.2f}."
        )
        parts.append(f"{event.vectors:,} architectures were measured on {event.images:,} training images.{known}")
    return Section("learning", "Learning curves", tuple(parts))


def _logged(steps: Sequence[Step]) -> dict[str, str]:
    """The scalars that the strategy logs, with a title: those known here, then others as they are called."""
    keys = {
        key for step in (*steps[:20], *steps[-20:]) for key, value in step.more.items() if number(value) is not None
    }
    others = sorted(keys - _SHOWN.keys() - _ELSEWHERE)
    return _SHOWN | {key: plain(key.replace("_", " "), 40) for key in others[:_MOST_OTHERS]}


def _error_table(event: Distilled) -> Table:
    errors = {site: row for site, row in (event.errors or {}).items() if isinstance(row, dict)}
    operators = list(dict.fromkeys(name for row in errors.values() for name in row))
    rows = [
        (plain(site), *("" if (value := number(row.get(name))) is None else f"{value:.3f}" for name in operators))
        for site, row in errors.items()
    ]
    caption = "Error of each operator after the last epoch, relative to the variance of the base's output"
    return Table(("site", *map(plain, operators)), rows, caption, frozenset(range(1, len(operators) + 1)))


def _choices(run: RunFiles, steps: Sequence[Step]) -> Section | None:
    if not steps:
        return None
    networks = run.about.networks if run.about is not None else ()
    slots = [slot for slot in networks[0].slots if slot.skip is None] if networks else []
    lists = {slot.choices for slot in slots}
    named = next(iter(lists)) if len(lists) == 1 else () if lists else run.config.get("operators")
    operators = [str(name) for name in named] if isinstance(named, (list, tuple)) else []
    figures, logged = choice_figures(steps, operators, [slot.name for slot in slots])
    if not figures:
        return None
    title = "Operator probabilities" if logged else "Operators proposed"
    said = (
        [] if logged else ["The strategy has no policy that logs probabilities: these are the operators it proposed."]
    )
    return Section("choices", title, (*said, *figures))


def _gradients(steps: Sequence[Step]) -> Section | None:
    parts = {f"gradient.{name}": name for name in ("operators", "skips", "actor", "critic")}
    figures = [
        curve("gradient", "Gradient of each part of the policy", steps, parts, "step", what="norm", smooth=True),
        curve("norm", "Gradient of a step, before clipping", steps, {"grad_norm": "norm"}, "step", smooth=True),
    ]
    known = tuple(figure for figure in figures if figure is not None)
    return Section("gradients", "Gradient magnitudes", known) if known else None
