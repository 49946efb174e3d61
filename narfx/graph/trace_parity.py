"""Compare a trace with its model: both run on the same random images, in eval mode, on two batches.

torch.fx records only operations on the tensors that it traces. Other effects of a model's code (a test of a tensor's
type, a context such as ``torch.autocast``, a random constant) are lost silently, so only a comparison finds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from narfx.errors import ParityError
from narfx.graph.copying import copy_module
from narfx.graph.nodes import source_line
from narfx.graph.time_limit import model_time
from narfx.support.generators import global_generators
from narfx.support.seeds import derive, torch_generator
from narfx.support.text import first_line

__all__ = ["TOLERANCE", "compare_trace"]

TOLERANCE = 1e-5
_IMAGES = (2, 1)  # a trace may have taken the size of its first batch for a constant

Mark = tuple[tuple[torch.Size, float, float], ...]


@dataclass(frozen=True)
class _Run:
    """The output tensors of a network, and a mark (shape and sums) of the output of each module call."""

    outputs: list[Tensor]
    marks: dict[tuple[str, int], Mark]


@model_time()
def compare_trace(
    model: nn.Module, graph_module: fx.GraphModule, input_shape: tuple[int, int, int], *, seed: int = 0
) -> list[str]:
    """Run both on two small batches of random images and compare their outputs and those of the called modules.

    Neither is changed, and the global random generators keep their state. Two tensors are equal if their largest
    absolute difference is at most 1e-5 of the largest absolute value, or 8 epsilon of a less precise dtype.

    Args:
        model: The model.
        graph_module: Its trace.
        input_shape: (channels, height, width) of one sample.
        seed: Seed of the images.

    Returns:
        Notes on why nothing was compared: the model fails, has no values, or is random in eval mode.

    Raises:
        ParityError: They differ (``kind="trace_differs"``); ``where`` is the source line of the first call that does.
    """
    if any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        return ["the trace was not compared with the model, because the model's weights have no values"]
    batches, targets = _images(model, input_shape, seed), _targets(graph_module)
    try:
        eager = _runs(model, batches, targets, derive(seed, "fidelity"))
    except Exception as error:
        return [f"the trace was not compared: the model fails on random images ({first_line(error)})"]
    name = type(model).__name__
    try:
        traced = _runs(graph_module, batches, targets, derive(seed, "fidelity"))
        first, second = (_first_difference(ours, theirs, targets) for ours, theirs in zip(eager, traced, strict=True))
    except Exception as error:
        first, second = (f"it fails where the model runs ({first_line(error)})", None), None
    found = first or second
    if found is None:
        return []
    again = _runs(model, batches, targets, derive(seed, "fidelity", "again"))
    if _first_difference(eager[0], again[0], targets) is not None:
        return [
            f"the trace was not compared: {name} is random in eval mode; a random number that forward draws "
            "independently of the network's tensors may be a constant of the trace"
        ]
    what, node = found
    where = source_line(node) if node is not None else ""
    cure = (
        "torch.fx records only operations on tensors, not for example isinstance(x, torch.Tensor) or a context: "
        "write that part of forward without it"
    )
    if first is None:
        cure = (
            "only the second batch differs, so forward keeps state outside its buffers from call to call, which a "
            "graph cannot do: write that part of forward without it"
        )
    raise ParityError(
        f"the trace of {name} does not compute what the model computes: {what}{f' at {where}' if where else ''}; "
        f"{cure}",
        where=where or name,
        kind="trace_differs",
    )


def _images(model: nn.Module, input_shape: tuple[int, int, int], seed: int) -> list[Tensor]:
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    x = torch.randn(sum(_IMAGES), *input_shape, generator=torch_generator(seed, "fidelity", "images"))
    return list(x.to(device=first.device, dtype=first.dtype).split(list(_IMAGES)))


def _targets(graph_module: fx.GraphModule) -> dict[str, fx.Node]:
    """The first node that calls each module."""
    targets: dict[str, fx.Node] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            targets.setdefault(str(node.target), node)
    return targets


def _runs(network: nn.Module, batches: list[Tensor], targets: dict[str, fx.Node], seed: int) -> list[_Run]:
    """Run one copy on all batches in turn; a state that it keeps shows on the second batch."""
    copied = copy_module(network)
    copied.eval()  # not in one line with the copy: the user's own train() may return nothing
    marks: dict[tuple[str, int], Mark] = {}
    parts, room = dict(copied.named_modules()), _Room()
    for name in targets:
        part = parts.get(name)
        if part is not None and not isinstance(part, torch.jit.ScriptModule):
            part.register_forward_hook(_marker(name, marks, room))
    runs = []
    with global_generators(seed), torch.no_grad():
        for x in batches:
            marks.clear()
            runs.append(_Run(_tensors(copied(x.clone())), dict(marks)))
    return runs


def _marker(name: str, marks: dict[tuple[str, int], Mark], room: _Room) -> Callable[..., None]:
    calls = 0

    def mark(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal calls
        values = [t.detach() for t in _tensors(output) if not t.is_complex()]
        marks[name, calls] = tuple((t.shape, *_sums(t, room)) for t in values)
        calls += 1

    return mark


class _Room:
    """Memory for the sizes of one tensor's values after another: fresh memory for each would take longer than they."""

    def __init__(self) -> None:
        self.values = torch.empty(0)

    def sizes(self, tensor: Tensor) -> Tensor:
        """The absolute values of a float32 tensor, until the next call."""
        if type(tensor) is not Tensor or tensor.device.type != "cpu":
            return tensor.abs()
        if self.values.numel() < tensor.numel():
            self.values = torch.empty(tensor.numel())
        return torch.abs(tensor, out=self.values[: tensor.numel()].view(tensor.shape))


def _sums(tensor: Tensor, room: _Room) -> tuple[float, float]:
    """The sum of the values and of their sizes; in float64 only where float32 does not do, as it takes much longer."""
    if tensor.dtype == torch.float32:
        size = float(room.sizes(tensor).sum())
        if math.isfinite(size):
            return float(tensor.sum()), size
    wide = tensor.to(torch.float64)
    return float(wide.sum()), float(wide.abs().sum())


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def _first_difference(one: _Run, other: _Run, targets: dict[str, fx.Node]) -> tuple[str, fx.Node | None] | None:
    """The first difference as a clause, with its node if it is at a called module; ``None`` if there is none."""
    loose = max((_tolerance(t) for t in one.outputs), default=TOLERANCE)
    for (name, call), mark in other.marks.items():  # in the order of the graph
        theirs = one.marks.get((name, call))
        if theirs is not None and not _marks_alike(theirs, mark, loose):
            return f"first mismatch at {name} (input or output)", targets[name]
    if len(one.outputs) != len(other.outputs):
        return f"it returns {len(other.outputs)} tensors, the model {len(one.outputs)}", None
    for index, (a, b) in enumerate(zip(one.outputs, other.outputs, strict=True)):
        if not _alike(a, b):
            return f"output {index} differs, but no called module does", None
    return None


def _marks_alike(one: Mark, other: Mark, tolerance: float) -> bool:
    def near(a: float, b: float, scale: float) -> bool:
        return a == b or not abs(a - b) > tolerance * scale  # NaN equals NaN

    return len(one) == len(other) and all(
        shape == shape_b and near(total, total_b, size) and near(size, size_b, size)
        for (shape, total, size), (shape_b, total_b, size_b) in zip(one, other, strict=True)
    )


def _alike(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if torch.equal(a, b):
        return True
    if not a.is_floating_point():
        return a.is_complex() and torch.allclose(a, b, equal_nan=True)
    wide, wide_b = a.double(), b.double()
    finite = wide.isfinite() & wide_b.isfinite()
    rest, rest_b = wide[~finite], wide_b[~finite]
    if not bool(((rest == rest_b) | (rest.isnan() & rest_b.isnan())).all()):
        return False
    if not bool(finite.any()):
        return True
    return bool((wide - wide_b)[finite].abs().max() <= _tolerance(a) * wide[finite].abs().max())


def _tolerance(tensor: Tensor) -> float:
    return max(TOLERANCE, 8 * torch.finfo(tensor.dtype).eps) if tensor.is_floating_point() else TOLERANCE
