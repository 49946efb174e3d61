"""Latency as a cost: operators are timed at their sites, the base network beside them, and the space gets the metric.

What is predicted for a vector is additive, as every cost is: the base network's own latency, and at each slot the
difference between the operator's and the base's. How far that is from whole networks, ``narfx.latency_check`` shows.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import fx, nn

from narfx.budget import bounded_metrics
from narfx.errors import UsageError
from narfx.latency import CPU_PROVIDER, Call, check_provider, in_calling_thread, open_call, time_calls
from narfx.latency_file import LatencyFile, LatencyTable, Setting
from narfx.latency_probe import Probe, context_model, probe
from narfx.onnx_export import export_onnx
from narfx.paths import find
from narfx.space import Slot
from narfx.traced import Traced

__all__ = ["LatencyOptions", "LatencyReport", "network_key", "open_latency", "plain_copy", "with_latency"]

ROUNDS = 200


class LatencyOptions(BaseModel):
    """Whether latency is a cost, and how it is measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency: bool = False
    latency_file: str | None = None
    threads: int = Field(default=1, ge=1)
    batch: int = Field(default=1, ge=1)
    provider: str = CPU_PROVIDER

    def wanted(self, budget: str = "none") -> bool:
        """Whether these options, or a budget that bounds latency, ask for it."""
        return self.latency or self.latency_file is not None or "latency" in bounded_metrics(budget)


@dataclass(frozen=True)
class LatencyReport:
    """What was measured and what was taken from a file; ``notes`` says what a user should know."""

    table: LatencyTable
    measured: int
    reused: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The setting and the two counts."""
        return {**self.table.setting.model_dump(), "measured": self.measured, "reused": self.reused}


def open_latency(
    traced: Traced, options: LatencyOptions, *, relative_to: Path | None = None, measure: bool = True
) -> tuple[Traced, LatencyReport]:
    """The trace with the metric ``latency``, from the file of the options and measured where that says nothing.

    What is measured is added to the file. A file of another machine is used as it is, and never added to.

    Args:
        traced: The trace; it is not changed.
        options: The file, and what to measure with.
        relative_to: The folder that a relative path starts at.
        measure: Whether anything may be measured; without it a missing entry is an error.

    Raises:
        UsageError: The file is malformed, its entries are another machine's and some are missing, or the provider is
            not there.
        RunError: The base network cannot be exported, or onnxruntime cannot run it.
    """
    path = find(options.latency_file, relative_to) if options.latency_file is not None else None
    file = LatencyFile.load(path) if path is not None and path.exists() else LatencyFile()
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", where=str(path), kind="missing_folder")
    here = Setting.here(options.threads, options.batch, options.provider)
    table = file.table(here, str(path))
    probes, network = _probes(traced), network_key(traced)
    missing = [each for each in probes.values() if each.key not in table.operators]
    reused = len(probes) - len(missing)
    absent = [*(each.key for each in missing), *([f"network {network}"] if network not in table.networks else [])]
    if not absent:
        return with_latency(traced, table), LatencyReport(table, 0, reused, _origin(table, here, path))
    if table.setting != here or not measure:
        raise UsageError(
            f"{path} was measured on {table.setting.machine} and lacks {len(absent)} of {len(probes) + 1} latencies: "
            f"{absent[0]}{'; ...' if len(absent) > 1 else ''}; measure them there, or give another file",
            where=str(path),
            kind="latency_missing",
        )
    check_provider(options.provider)
    table = _measure(traced, missing, network, table)
    if path is not None:
        file.with_table(table).save(path)
    return with_latency(traced, table), LatencyReport(table, len(missing), reused, ())


def with_latency(traced: Traced, table: LatencyTable) -> Traced:
    """The trace with the metric ``latency``: milliseconds of one call with the table's threads and batch.

    A slot's cost is the sum over its sites, the fixed part what the base network takes beyond its base operators (not
    below 0, and then a note says by how much the sum is larger). Skips count nothing. The fingerprint stays.

    Raises:
        UsageError: The table lacks an entry.
    """
    space, probes, network = traced.space, _probes(traced), network_key(traced)
    for key, known in [*((each.key, table.operators) for each in probes.values()), (network, table.networks)]:
        if key not in known:
            raise UsageError(f"no latency is known for {key}: measure it with --latency", kind="latency_missing")

    def cost(slot: Slot, index: int) -> float:
        if index not in slot.legal or slot.skip is not None:
            return 0.0
        keys = [probes[_geometry(site, space.operators[index])].key for site in slot.sites]
        return sum(table.operators[key] for key in keys)

    slots = [
        replace(slot, costs={**slot.costs, "latency": tuple(cost(slot, k) for k in range(len(_entries(slot))))})
        for slot in space.slots
    ]
    whole, parts = table.networks[network], sum(slot.costs["latency"][0] for slot in slots)
    notes = list(traced.notes)
    if parts > whole:
        notes.append(
            f"the base operators take {parts:.4g} ms by themselves, the whole base network {whole:.4g} ms: predicted "
            "latencies are too high by the difference"
        )
    fixed = {**space.fixed, "latency": max(whole - parts, 0.0)}
    return replace(traced, space=replace(space, slots=tuple(slots), fixed=fixed), notes=tuple(notes))


def network_key(traced: Traced) -> str:
    """A hash of the base network's graph, modules and shapes: what its latency depends on, weights left aside."""
    graph_module = traced.graph_module
    modules = dict(graph_module.named_modules())

    def line(node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{node.name} {modules[str(node.target)]!r} {node.args} {node.kwargs}"
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            return f"{node.name} {tuple(getattr(getattr(modules[owner], name), 'shape', ()))}"
        target = node.target if isinstance(node.target, str) else torch.typename(node.target)
        return f"{node.name} {node.op} {target} {node.args} {node.kwargs}"

    text = "\n".join([str(traced.input), *map(line, graph_module.graph.nodes)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain_copy(network: nn.Module) -> Any:
    """What is exported to be timed: a copy on the CPU, in float32 and eval mode."""
    return copy.deepcopy(network).cpu().float().eval()


def _entries(slot: Slot) -> tuple[float, ...]:
    """The slot's costs in some metric: one entry for each of its choices."""
    return next(iter(slot.costs.values()))


def _geometry(site: Any, operator: str) -> tuple[str, str]:
    return site.signature().removeprefix(f"{site.name} "), operator


def _probes(traced: Traced) -> dict[tuple[str, str], Probe]:
    """The probes of the space's legal operators, each geometry's once."""
    space, found = traced.space, dict[tuple[str, str], Probe]()
    for slot in space.slots:
        for site in slot.sites:
            for name in (space.operators[k] for k in slot.legal):
                if _geometry(site, name) not in found:
                    found[_geometry(site, name)] = probe(site, name)
    return found


def _measure(traced: Traced, missing: Iterable[Probe], network: str, table: LatencyTable) -> LatencyTable:
    """Time the probes, what stands around them and the base network, all in turn; the table with the medians."""
    setting = table.setting

    def opened(model: bytes | Path, shape: tuple[int, int, int]) -> Call:
        return open_call(model, shape, batch=setting.batch, threads=setting.threads, provider=setting.provider)

    probes = {each.key: each for each in missing}
    calls = {key: opened(each.model(), each.input_shape) for key, each in probes.items()}
    contexts = {each.input_shape: f"context {each.input_shape}" for each in probes.values()}
    calls |= {name: opened(context_model(shape), shape) for shape, name in contexts.items()}
    with tempfile.TemporaryDirectory() as folder:
        if network not in table.networks:
            export_onnx(plain_copy(traced.graph_module), traced.input, Path(folder) / "base.onnx")
            calls["network"] = opened(Path(folder) / "base.onnx", traced.input)
        taken = time_calls(calls, cpu_time=in_calling_thread(setting.threads, setting.provider), rounds=ROUNDS)
    operators = {
        # Round by round, so that what slows a round down slows both sides of the difference.
        key: round(max(float(np.median(taken[key] - taken[contexts[each.input_shape]])), 0.0), 6)
        for key, each in probes.items()
    }
    networks = {network: round(float(np.median(taken["network"])), 6)} if "network" in taken else {}
    return table.with_entries(operators, networks)


def _origin(table: LatencyTable, here: Setting, path: Path | None) -> tuple[str, ...]:
    if table.setting == here:
        return ()
    return (f"latencies are those of {path}, measured on {table.setting.machine} ({table.setting}), not on this machine",)
