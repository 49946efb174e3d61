"""The parts that the reports of all kinds of runs share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from narfx.report.charts import Line, line_chart
from narfx.report.command import again, quoted, run_command
from narfx.report.drawing import SERIES
from narfx.report.network import network_view
from narfx.report.parts import Command, Facts, Figure, Section, Table, Verdict, amount, number, plain, share
from narfx.report.reading import RunFiles, shown_config
from narfx.runs.events import Event
from narfx.space.network_record import NetworkRecord

__all__ = [
    "asked",
    "binomial_error",
    "cost_facts",
    "cost_words",
    "curve",
    "mood",
    "network_section",
    "sections",
    "setup",
]
__all__ += ["spread_of", "told", "unfinished"]

_MOODS = {"better": "better", "worse": "worse", "not told apart": "undecided"}
_WORDS = {"macs": "MACs", "params": "parameters", "latency": "latency"}


def mood(verdicts: Iterable[str | None]) -> str:
    """One mood of several verdicts: worse where one is, else undecided where one is, else better."""
    found = {_MOODS.get(verdict or "", "none") for verdict in verdicts if verdict is not None}
    return next((name for name in ("worse", "undecided", "better") if name in found), "none")


def cost_words(metric: str) -> str:
    """What a reader calls a cost."""
    return _WORDS.get(metric, plain(metric.replace("_", " ")))


def binomial_error(accuracy: float, images: int) -> float:
    """The standard error of an accuracy on so many images; one more wrong image than there is counts."""
    return math.sqrt(images * accuracy * (1 - accuracy) + 1) / images


def spread_of(values: Sequence[float]) -> float | None:
    """The standard error of the mean of several values."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def sections(*found: Section | None) -> tuple[Section, ...]:
    """Those that have anything to show."""
    return tuple(section for section in found if section is not None and section.parts)


def asked(run: RunFiles, facts: Sequence[tuple[str, Any]]) -> Section:
    """What was asked of a run, and the commands that repeat it."""
    parts: list[Any] = [Facts(tuple((name, plain(value, 300)) for name, value in facts if value not in (None, "", ())))]
    repeated = run_command(run.kind, run.config, run.path)
    if repeated is not None:
        said = f"This command repeats it, in the folder that holds {plain(run.name)}:"
        parts.append(Command(repeated, said))
    other = quoted(["narfx", run.kind, "--config", f"{run.name}/config.json", "--out", again(run.path)])
    parts.append(
        Command(other, "The same, with all options from the run's own file:" if repeated else "It is repeated by:")
    )
    parts.append(Facts(shown_config(run.config), "All options", folded=True))
    return Section("asked", "What was asked", tuple(parts))


def setup(run: RunFiles, more: Sequence[tuple[str, Any]] = ()) -> Section:
    """Data, seeds and versions."""
    about = run.about
    facts: list[tuple[str, str]] = []
    if about is not None:
        data = about.data
        origin = ", split off the training part" if data.val_from_train else ""
        facts += [
            ("data", f"{plain(data.name)}: {data.classes:,} classes"),
            ("training images", f"{data.train:,}"),
            ("validation images", f"{data.val:,}{origin}"),
            ("test images", "none" if data.test is None else f"{data.test:,}{_apart(data.test_from_val)}"),
        ]
    elif run.config.get("data"):
        facts.append(("data", plain(run.config["data"])))
    seed = number(run.config.get("seed"))
    facts += [("seed", f"{seed:.0f}")] if seed is not None else []
    facts += [(name, plain(value, 300)) for name, value in more if value]
    parts: list[Any] = [Facts(tuple(facts))]
    if about is not None:
        machine = (("device", plain(about.device)), ("threads", f"{about.threads}"))
        parts.append(
            Facts((*machine, *((plain(k), plain(v)) for k, v in about.versions.items())), "Versions, as the run began")
        )
    else:
        parts.append(
            "An older version of narfx made this run, which kept neither its versions nor the sizes of its data."
        )
    return Section("setup", "Data, seeds and versions", tuple(parts))


def _apart(apart: bool) -> str:
    return ", set apart from the validation part" if apart else ""


def network_section(
    networks: Sequence[tuple[NetworkRecord, Sequence[int] | None, str]], lines: Sequence[str] = ()
) -> Section | None:
    """The graphs of networks, each with its choices and a title; the lines of an ``arch.json`` where there are none."""
    views = [view for record, entries, title in networks if (view := network_view(record, entries, title)) is not None]
    if views:
        return Section("network", "The network", (views[0], *(replace(view, folded=True) for view in views[1:])))
    if not lines:
        return None
    table = Table(("site",), [(plain(line, 300),) for line in lines])
    return Section(
        "network", "The network", ("An older version of narfx made this run: it kept the sites, but no graph.", table)
    )


def curve(
    name: str, title: str, events: Sequence[Event], keys: Mapping[str, str], over: str, *, what: str = "",
    smooth: bool = False, log: bool = False,
) -> Figure | None:  # fmt: skip
    """Scalars of events as one figure: ``keys`` has the name of a line by the name of the value.

    Over ``epoch`` the steps are the epochs of the events, else the events are counted.
    """
    lines = []
    for index, (key, shown) in enumerate(keys.items()):
        found = [(place, value) for place, event in enumerate(events, 1) if (value := _scalar(event, key)) is not None]
        steps = [_epoch(events[place - 1], place) if over == "epoch" else place for place, _ in found]
        if found:
            lines.append(Line(shown, steps, [value for _, value in found], SERIES[1 + index % (len(SERIES) - 1)]))
    if not lines:
        return None
    return line_chart(name, title, lines, what or next(iter(keys.values())), over, smooth=smooth)


def _scalar(event: Event, key: str) -> float | None:
    own, _, inner = key.partition(".")
    value = event.line().get(own)
    if inner:
        value = value.get(inner) if isinstance(value, dict) else None
    return number(value)


def _epoch(event: Event, place: int) -> float:
    found = number(getattr(event, "epoch", None))
    return place if found is None else found


def told(warnings: Iterable[str]) -> tuple[str, ...]:
    """Sentences about what could not be read, as they are safe in a page; only a very long one is shortened."""
    return tuple(plain(warning, 600) for warning in warnings)


def unfinished(run: RunFiles, done: str) -> Verdict:
    """The verdict on a run without a result."""
    return Verdict(f"The run is not finished, so there is no result yet: {done}. narfx {run.kind} --resume goes on.")


def cost_facts(costs: Mapping[str, float], base: Mapping[str, float | None]) -> str:
    """Costs in one line, each beside the base's."""
    said = []
    for name, value in costs.items():
        own = base.get(name)
        relative = f" ({share(value, own)})" if own else ""
        said.append(f"{amount(value, name)} {cost_words(name)}{relative}")
    return ", ".join(said)
