"""Time a space: its operators at their sites, the base network, and one uniform network for each operator."""

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
from narfx.errors import UsageError
from narfx.graph.checks import check_values
from narfx.latency.probe import Probe, probe
from narfx.latency.table import LatencyTable, Setting
from narfx.latency.timing import Call, in_calling_thread, open_call, time_calls
from narfx.space.records import AnySite, Site, Vector
from narfx.space.space import SearchSpace

__all__ = ["ROUNDS", "geometry", "measure", "networks", "open_network", "probes"]

ROUNDS = 200


def geometry(site: AnySite, operator: str) -> tuple[str, str]:
    """The key of a probe: the site's signature without its name, and the operator."""
    return site.signature().removeprefix(f"{site.name} "), operator


def probes(space: SearchSpace) -> dict[tuple[str, str], Probe]:
    """The probes of a space's legal operators, one for each ``geometry``.

    Raises:
        UsageError: A site is not a convolution, which is all that narfx can time.
    """
    found: dict[tuple[str, str], Probe] = {}
    for slot in space.slots:
        for site in slot.sites:
            if not isinstance(site, Site):
                raise UsageError(
                    f"latency is measured for convolutions only, and {site.name} is of kind {site.kind}: "
                    "bound macs or params",
                    where=site.name,
                    kind="latency_site",
                )
            for name in (slot.choices[k] for k in slot.legal):
                if geometry(site, name) not in found:
                    found[geometry(site, name)] = probe(site, name)
    return found


def networks(traced: Traced, known: Mapping[tuple[str, str], Probe]) -> dict[str, tuple[str, Vector]]:
    """The networks that are timed whole, by operator: the base, and one uniform network for each operator.

    A uniform network uses its operator at every slot where it is legal. The key of a network is a hash of the base's
    graph and shapes and of the swapped operators, without weights.
    """
    space, graph = traced.space, _graph_text(traced)

    def entry(name: str) -> tuple[str, Vector]:
        vector = tuple(offered.get(name, 0) for offered in others)
        swapped = [
            f"{site.name} {known[geometry(site, name)].key}"
            for slot, here in zip(space.slots, vector, strict=True)
            for site in slot.sites
            if here
        ]
        return hashlib.sha256("\n".join([graph, *swapped]).encode()).hexdigest()[:16], vector

    others = [{slot.choices[k]: k for k in slot.legal if k} if slot.sites else {} for slot in space.slots]
    return {name: entry(name) for name in dict.fromkeys(["base", *(name for offered in others for name in offered)])}


def open_network(network: nn.Module, traced: Traced, setting: Setting, path: Path) -> Call:
    """Export a network to ``path`` and open it in onnxruntime for timing."""
    export_onnx(_plain_copy(network), traced.input, path)
    return open_call(path, traced.input, batch=setting.batch, threads=setting.threads, provider=setting.provider)


def measure(traced: Traced, wanted: Mapping[str, Probe | Vector], setting: Setting) -> LatencyTable:
    """Time probes and whole networks in turn, and take the medians in milliseconds.

    Args:
        traced: The trace whose networks are timed.
        wanted: A probe, or the vector of a whole network, by key.
        setting: Threads, batch and provider.

    Raises:
        UsageError: onnxruntime does not have the provider.
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
        # The difference is taken round by round, so a slow round affects both sides.
        operators={key: median(taken[key] - taken[each.context]) for key, each in some.items()},
        networks={key: median(taken[key]) for key in wanted if key not in some},
    )


def _open_probes(some: Mapping[str, Probe], setting: Setting) -> Iterator[tuple[str, Call]]:
    """The calls of the probes by key, and of the models without the operator by context."""
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
    """A copy on the CPU, in float32 and eval mode."""
    check_values(network)
    return copy.deepcopy(network).cpu().float().eval()
