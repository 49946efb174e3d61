"""Latency as a cost: a metric in milliseconds, additive over slots like parameters and MACs.

Each operator is timed alone at each site. Inside a network it takes slightly longer or shorter (caches, fused adds). So
for each operator, the network that has it at every slot is also timed whole, and the operator's costs are corrected so
that the prediction for this network equals the measurement. The predictions for the base and these uniform networks
are therefore measurements; :func:`narfx.latency.check.check_latency` shows the error for other vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.inputs.paths import find
from narfx.latency.measure import geometry, measure, networks, probes
from narfx.latency.probe import Probe
from narfx.latency.table import LatencyFile, LatencyTable, Setting
from narfx.latency.timing import CPU_PROVIDER, check_provider
from narfx.space.budget import bounded_metrics
from narfx.space.records import Vector
from narfx.space.space import SearchSpace
from narfx.support.collectives import broadcast
from narfx.support.path_fields import UserPath
from narfx.support.ranks import Ranks

__all__ = ["LatencyOptions", "LatencyReport", "open_latency", "share_latency", "with_latency"]


class LatencyOptions(BaseModel):
    """Whether latency is a cost, and how to measure it.

    Attributes:
        latency: Whether latency is a metric of the space.
        latency_file: A ``latency.json`` to read and extend; implies ``latency``.
        threads: Threads of onnxruntime.
        batch: Samples per call.
        provider: Execution provider of onnxruntime.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency: bool = False
    latency_file: UserPath | None = None
    threads: int = Field(default=1, ge=1, le=4096)
    batch: int = Field(default=1, ge=1, le=2**20)
    provider: str = CPU_PROVIDER

    def wanted(self, budget: str = "none") -> bool:
        """Whether these options, or a budget that bounds latency, need the metric."""
        return self.latency or self.latency_file is not None or "latency" in bounded_metrics(budget)


@dataclass(frozen=True)
class LatencyReport:
    """The latencies of a trace.

    Attributes:
        table: The latencies.
        measured: How many were measured now.
        reused: How many came from the file.
        notes: Notes for the user.
    """

    table: LatencyTable
    measured: int
    reused: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The setting and the two counts."""
        return {**self.table.setting.model_dump(), "measured": self.measured, "reused": self.reused}


def open_latency(
    traced: Traced,
    options: LatencyOptions,
    *,
    relative_to: Path | None = None,
    measured: bool = False,
    keep: bool = True,
) -> tuple[Traced, LatencyReport]:
    """Add the metric ``latency`` to a trace; latencies come from the file of the options, missing ones are measured.

    New measurements are added to the file. A file from another machine is used but never extended.

    Args:
        traced: The trace; it is not changed.
        options: The file, and the setting of measurements.
        relative_to: The folder at which a relative path starts.
        measured: Whether all latencies must be in the file, so that nothing is measured again.
        keep: Whether what is measured is added to the file.

    Returns:
        The trace with the metric, and a report on where the latencies come from.

    Raises:
        UsageError: The file is malformed, lacks entries and may not be extended, or onnxruntime does not have the
            provider.
        RunError: A network cannot be exported, or onnxruntime cannot run it.
    """
    path = find(options.latency_file, relative_to) if options.latency_file is not None else None
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}: create it first", where=str(path), kind="missing_folder")
    file = LatencyFile.load(path) if path is not None and path.exists() else LatencyFile()
    here = Setting.here(options.threads, options.batch, options.provider)
    table = file.table(here, str(path))
    needed = _needed(traced)
    missing = {key: each for key, each in needed.items() if key not in table}
    if not missing:
        notes = () if table.setting == here else (
            f"latencies are those in {path}, measured on {table.setting.machine} ({table.setting})",
        )  # fmt: skip
        return with_latency(traced, table), LatencyReport(table, 0, len(needed), notes)
    if table.setting != here or measured:
        raise UsageError(
            f"{path}, measured on {table.setting.machine}, lacks {len(missing)} of the {len(needed)} latencies of "
            f"this network: {next(iter(missing))}{'; ...' if len(missing) > 1 else ''}; measure them on that machine, "
            "or give another file",
            where=str(path),
            kind="latency_missing",
        )
    check_provider(options.provider)
    table = table.with_entries(measure(traced, missing, here))
    if path is not None and keep:
        table = LatencyFile.add(path, table)  # other processes may have added to the file meanwhile
    return with_latency(traced, table), LatencyReport(table, len(missing), len(needed) - len(missing))


def share_latency(
    ranks: Ranks, traced: Traced, find: Callable[[], tuple[Traced, LatencyReport]]
) -> tuple[Traced, LatencyReport]:
    """What ``find`` gives on rank 0, on all ranks: they would disturb each other's measurements."""
    if ranks.first:
        traced, report = find()
        broadcast(ranks, report.table.model_dump(mode="json"))
        return traced, report
    table = LatencyTable.model_validate(broadcast(ranks, None))
    return with_latency(traced, table), LatencyReport(table, 0, len(_needed(traced)))


def with_latency(traced: Traced, table: LatencyTable) -> Traced:
    """Add the metric ``latency`` to a trace: milliseconds of one call with the table's threads and batch.

    The fixed part is the latency of the base network minus that of its base operators, at least 0; a note is added if
    the operators take longer. Skips have latency 0. The fingerprint does not change.

    Raises:
        UsageError: The table lacks an entry.
    """
    for key in _needed(traced):
        if key not in table:
            raise UsageError(f"no latency is known for {key}: measure it with --latency", kind="latency_missing")
    space = traced.space
    alone = _alone(space, table)
    base = [costs[0] for costs in alone]
    whole = [(table.networks[key], vector) for key, vector in networks(traced, probes(space)).values()]
    fixed = max(whole[0][0] - sum(base), 0.0)
    costs = [list(row) for row in alone]
    for milliseconds, vector in whole:
        swapped = {index: entry for index, entry in enumerate(vector) if entry}
        predicted = fixed + sum(alone[index][entry] for index, entry in enumerate(vector))
        # A positive correction is shared in proportion to the base operators' times, a negative one in proportion to
        # the operator's own, so that no cost becomes negative.
        parts = {i: base[i] if milliseconds > predicted else alone[i][entry] for i, entry in swapped.items()}
        for i, entry in swapped.items():
            share = parts[i] / sum(parts.values()) if any(parts.values()) else 1 / len(parts)
            costs[i][entry] = max(alone[i][entry] + (milliseconds - predicted) * share, 0.0)
    notes = list(traced.notes)
    if sum(base) > whole[0][0]:
        notes.append(
            f"timed alone, the base operators take {sum(base):.4g} ms, but the whole base network "
            f"{whole[0][0]:.4g} ms: its predicted latency is too high by the difference"
        )
    slots = [
        replace(slot, costs={**slot.costs, "latency": tuple(row)}) for slot, row in zip(space.slots, costs, strict=True)
    ]
    changed = replace(space, slots=tuple(slots), fixed={**space.fixed, "latency": fixed})
    return replace(traced, space=changed, notes=tuple(notes))


def _needed(traced: Traced) -> dict[str, Probe | Vector]:
    """All probes and whole networks that a trace needs, by key."""
    found = probes(traced.space)
    return {each.key: each for each in found.values()} | dict(networks(traced, found).values())


def _alone(space: SearchSpace, table: LatencyTable) -> list[list[float]]:
    """Each slot's costs by choice, from the operators timed alone; 0 without sites or where a choice is not legal."""
    found = probes(space)
    return [
        [
            sum((table.operators[found[geometry(site, name)].key] for site in slot.sites), 0.0)
            if k in slot.legal
            else 0.0
            for k, name in enumerate(slot.choices)
        ]
        for slot in space.slots
    ]
