"""What is timed for a space: its operators at their sites, the base network, and one uniform network an operator."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from narfx.bundle.onnx.write import export_onnx
from narfx.compiler.lowering import lower
from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.graph.checks import check_values
from narfx.latency.probe import Probe, probe
from narfx.latency.table import LatencyTable, Setting
from narfx.latency.timing import Call, in_calling_thread, open_call, time_calls
from narfx.space.records import Site, Vector
from narfx.space.space import SearchSpace

__all__ = ["ROUNDS", "geometry", "measure", "networks", "open_network", "probes"]

ROUNDS = 200


def geometry(site: Site, operator: str) -> tuple[str, str]:
    """What a latency depends on at a site: all of its signature but the name."""
    return site.signature().removeprefix(f"{site.name} "), operator


def probes(space: SearchSpace) -> dict[tuple[str, str], Probe]:
    """The probes of a space's legal operators by ``geometry``: each geometry's once."""
    found: dict[tuple[str, str], Probe] = {}
    for slot in space.slots:
        for site in slot.sites:
            for name in (space.operators[k] for k in slot.legal):
                if geometry(site, name) not in found:
                    found[geometry(site, name)] = probe(site, name)
    return found


def networks(traced: Traced, known: Mapping[tuple[str, str], Probe]) -> dict[int, tuple[str, Vector]]:
    """The networks that are timed whole, by operator: the base, and for each operator that has it wherever it may be.

    Each comes with a key: a hash of the base's graph and shapes and of what was swapped, weights left aside.
    """
    space, graph = traced.space, _graph_text(traced)

    def entry(k: int) -> tuple[str, Vector]:
        vector = tuple(k if slot.skip is None and k in slot.legal else 0 for slot in space.slots)
        swapped = [
            f"{site.name} {known[geometry(site, space.operators[k])].key}"
            for slot, here in zip(space.slots, vector, strict=True)
            for site in slot.sites
            if here
        ]
        return hashlib.sha256("\n".join([graph, *swapped]).encode()).hexdigest()[:16], vector

    everywhere = {k for slot in space.slots if slot.skip is None for k in slot.legal}
    return {k: entry(k) for k in sorted(everywhere | {0})}


def open_network(network: nn.Module, traced: Traced, setting: Setting, path: Path) -> Call:
    """Export a network to ``path`` and make it ready to be timed."""
    export_onnx(_plain_copy(network), traced.input, path)
    return open_call(path, traced.input, batch=setting.batch, threads=setting.threads, provider=setting.provider)


def measure(traced: Traced, wanted: Mapping[str, Probe | Vector], setting: Setting) -> LatencyTable:
    """Time probes and whole networks, in turn, and take the medians.

    Args:
        traced: Whose networks are timed.
        wanted: A probe, or the vector of a network, by key.
        setting: Threads, batch and provider.

    Raises:
        UsageError: The provider is not there.
        RunError: A network cannot be exported, or onnxruntime cannot run it.
    """
    some = {key: each for key, each in wanted.items() if isinstance(each, Probe)}
    with tempfile.TemporaryDirectory() as folder:
        calls = dict(_open_probes(some, setting))
        net = Supernet(traced) if len(some) < len(wanted) else None
        for key, each in wanted.items():
            if net is not None and not isinstance(each, Probe):
                calls[key] = open_network(lower(net, each), traced, setting, Path(folder) / f"{key}.onnx")
        taken = time_calls(calls, cpu_time=in_calling_thread(setting.threads, setting.provider), rounds=ROUNDS)

    def median(milliseconds: Any) -> float:
        return round(max(float(np.median(milliseconds)), 0.0), 6)

    return LatencyTable(
        setting=setting,
        # Round by round, so that what slows a round down slows both sides of the difference.
        operators={key: median(taken[key] - taken[each.context]) for key, each in some.items()},
        networks={key: median(taken[key]) for key in wanted if key not in some},
    )


def _open_probes(some: Mapping[str, Probe], setting: Setting) -> Iterator[tuple[str, Call]]:
    """The probes by key, and what they are compared with by context."""
    models = {key: (each, each.model()) for key, each in some.items()}
    models |= {each.context: (each, each.without()) for each in some.values()}
    for key, (each, model) in models.items():
        yield (
            key,
            open_call(
                model,
                each.input_shape,
                batch=setting.batch * each.site.images,
                threads=setting.threads,
                provider=setting.provider,
            ),
        )


def _graph_text(traced: Traced) -> str:
    modules = dict(traced.graph_module.named_modules())

    def line(node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{node.name} {modules[str(node.target)]!r} {node.args} {node.kwargs}"
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            return f"{node.name} {tuple(getattr(getattr(modules[owner], name), 'shape', ()))}"
        target = node.target if isinstance(node.target, str) else torch.typename(node.target)
        return f"{node.name} {node.op} {target} {node.args} {node.kwargs}"

    return "\n".join([str(traced.input), *map(line, traced.graph_module.graph.nodes)])


def _plain_copy(network: nn.Module) -> Any:
    """On the CPU, in float32 and eval mode."""
    check_values(network)
    return copy.deepcopy(network).cpu().float().eval()
