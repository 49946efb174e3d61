"""The files of a run as far as they can be read; what is missing or damaged becomes a sentence, not an error."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from narfx.errors import UsageError
from narfx.report.parts import plain
from narfx.report.results import CompareResult, Evaluated, SearchResult, SolveResult, TrainResult
from narfx.runs.events import EVENTS, Event, readable_events
from narfx.runs.origin import CONFIG, changed_since
from narfx.space.front_file import FRONT, Front
from narfx.support.files import read_json
from narfx.support.seals import SEAL, sealed
from narfx.support.text import count
from narfx.training.about import ABOUT, About

__all__ = ["RunFiles", "read_run", "shown_config"]

M = TypeVar("M", bound=BaseModel)
E = TypeVar("E", bound=Event)

_RESULTS: dict[str, tuple[str, type[BaseModel]]] = {
    "search": ("result.json", SearchResult),
    "train": ("metrics.json", TrainResult),
    "compare": ("comparison.json", CompareResult),
    "solve": ("solve.json", SolveResult),
}


@dataclass
class RunFiles:
    """A run: its kind (``search``, ``train``, ``compare`` or ``solve``), and what its files hold.

    ``result`` is ``None`` where the run is not finished. ``front`` is ``None`` where there is none, and where it is
    ``front_damaged``: its file was changed or cannot be read. ``trainings`` has the events of the networks of a
    comparison.
    """

    path: Path
    kind: str
    config: dict[str, Any]
    result: Any = None
    about: About | None = None
    front: Front | None = None
    front_damaged: bool = False
    old_front: tuple[Evaluated, ...] = ()
    evaluations: tuple[Evaluated, ...] = ()
    events: list[Event] = field(default_factory=list)
    trainings: dict[str, list[Event]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    def of_kind(self, kind: type[E]) -> list[E]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def read_run(path: Path) -> RunFiles:
    """Read the run in a folder.

    Raises:
        UsageError: The folder holds no run, or its ``config.json`` cannot be read.
    """
    run = _open(path)
    try:
        run.warnings += [plain(text, 300) for text in changed_since(path, run.config)]
    except UsageError as error:
        run.warnings.append(f"{error}; so it is not known whether {CONFIG} and {ABOUT} are as the run began")
    name, schema = _RESULTS[run.kind]
    run.result = _read(run, name, schema, sealed_only=True)
    run.about = _read(run, ABOUT, About, sealed_only=run.kind == "solve")  # elsewhere origin.json has its digest
    if run.kind in ("search", "solve"):
        _read_front(run)
    if run.kind == "search":
        values = _values(run, "evaluations.json", sealed_only=True) or {}
        run.evaluations = tuple(_valid(run, "evaluations.json", Evaluated, values.get("evaluations", [])))
    run.events = _events(run, path)
    if run.kind == "compare" and (path / "runs").is_dir():
        for folder in sorted((path / "runs").iterdir()):
            if folder.is_dir():
                run.trainings[folder.name] = _events(run, folder)
    return run


def _open(path: Path) -> RunFiles:
    if (path / CONFIG).is_file():
        config = read_json(path / CONFIG)
        kind = _kind(config)
        if kind is not None:
            return RunFiles(path, kind, config)
    elif (path / "solve.json").is_file():
        return RunFiles(path, "solve", {})
    raise UsageError(
        f"{path} holds no run of narfx search, train or compare, and no result of narfx solve: give such a folder",
        where=str(path),
        kind="no_run",
    )


def _kind(config: Any) -> str | None:
    if not isinstance(config, dict) or "targets" in config:  # that of an instrument (narfx analyze), which has no page
        return None
    return (
        "search"
        if "strategy" in config
        else "compare"
        if "seeds" in config
        else "train"
        if "target" in config
        else None
    )


def _values(run: RunFiles, name: str, *, sealed_only: bool = False) -> Any:
    """The object in a JSON file of the run, ``None`` where there is none; a warning where it was changed."""
    if not (run.path / name).exists():
        return None
    try:
        values = read_json(run.path / name)
    except UsageError as error:
        run.warnings.append(f"{error}; the report leaves it out")
        return None
    if not isinstance(values, dict):
        run.warnings.append(f"{name} holds no JSON object; the report leaves it out")
        return None
    rest = {key: value for key, value in values.items() if key != SEAL}
    if sealed_only and SEAL not in values:
        run.warnings.append(f"{name} has no digest: it was changed, or an earlier version of narfx wrote it")
    elif SEAL in values and sealed(rest)[SEAL] != values[SEAL]:
        run.warnings.append(f"{name} was changed after narfx wrote it (its digest differs): do not trust what it says")
    return rest


def _read(run: RunFiles, name: str, schema: type[M], *, sealed_only: bool) -> M | None:
    values = _values(run, name, sealed_only=sealed_only)
    found = [] if values is None else _valid(run, name, schema, [values])
    return found[0] if found else None


def _valid(run: RunFiles, name: str, schema: type[M], values: Any) -> list[M]:
    """Those of the values that the schema takes; a warning for the first other one."""
    found = []
    for value in values if isinstance(values, list) else [values]:
        try:
            found.append(schema.model_validate(value))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            run.warnings.append(
                f"{name} cannot be read ({plain(where)}: {plain(first['msg'])}); the report leaves it out"
            )
            break
    return found


def _read_front(run: RunFiles) -> None:
    path = run.path / FRONT
    if not path.is_file():
        return
    try:
        run.front = Front.load(path)
    except UsageError as error:
        known = len(run.warnings)
        values = _values(run, FRONT) if error.kind == "old_front" else None
        run.front_damaged = values is None or "front" not in values or len(run.warnings) > known
        if values is None or run.front_damaged:
            run.warnings.append(f"{error}; the report leaves the front out")
        else:
            run.old_front = tuple(_valid(run, FRONT, Evaluated, values["front"]))


def _events(run: RunFiles, folder: Path) -> list[Event]:
    events, damaged = readable_events(folder)
    if folder == run.path and run.result is not None and run.kind in ("search", "train") and not (events or damaged):
        run.warnings.append(f"{EVENTS} is missing or empty: the report has no curves")
    if damaged:
        place = EVENTS if folder == run.path else f"{folder.name}/{EVENTS}"
        verb = "is" if damaged == 1 else "are"
        run.warnings.append(f"{count(damaged, 'line')} of {place} {verb} cut off or damaged, and left out")
    return events


def shown_config(config: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The options of a run as texts, in the order of its file."""
    return tuple(
        (plain(name), plain(value if isinstance(value, str) else json.dumps(value), 300))
        for name, value in config.items()
    )
