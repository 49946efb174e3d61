"""Whether a trace computes what its model computes: both run on the same random images, in eval mode, twice.

Torch.fx records what is done to the tensors that it follows. What a model's code does beside that (it asks for the
type of a tensor, enters a context such as ``torch.autocast``, draws a constant) is lost without a word, so that only
a comparison tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from narfx.errors import ParityError
from narfx.graph.copying import copy_module
from narfx.graph.nodes import source_line
from narfx.support.generators import global_generators
from narfx.support.seeds import derive, torch_generator
from narfx.support.text import first_line

__all__ = ["TOLERANCE", "compare_trace"]

TOLERANCE = 1e-5
_IMAGES = 2

Mark = tuple[tuple[torch.Size, float, float], ...]


@dataclass(frozen=True)
class _Run:
    """The tensors that a network gave, and a mark of what each call of a module gave on the way."""

    outputs: list[Tensor]
    marks: dict[tuple[str, int], Mark]


def compare_trace(
    model: nn.Module, graph_module: fx.GraphModule, input_shape: tuple[int, int, int], *, seed: int = 0
) -> list[str]:
    """Run both on two small batches of random images and compare outputs, and what the called modules give on the way.

    Neither is changed, and the global generators stay as they are. Two tensors are alike where their largest absolute
    difference is at most 1e-5 of the largest absolute value, or, of less exact numbers, eight times their precision.

    Returns:
        Sentences on what could not be compared: a model that fails, has no values, or is random in eval mode.

    Raises:
        ParityError: They differ; ``where`` is the line of the first call that does (kind ``trace_differs``).
    """
    if any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        return ["the trace was not compared with the model, whose weights have no values"]
    batches, targets = _images(model, input_shape, seed), _targets(graph_module)
    try:
        eager = _runs(model, batches, targets, derive(seed, "fidelity"))
    except Exception as error:
        return [f"the trace was not compared with the model, which fails on random images: {first_line(error)}"]
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
            f"{name} is random in eval mode, so its trace could not be compared with it: a number that forward draws "
            "without asking a tensor of the network may be a constant of the trace"
        ]
    what, node = found
    where = source_line(node) if node is not None else ""
    mend = (
        "torch.fx does not see what forward does beside its tensors, such as isinstance(x, torch.Tensor) or a "
        "context: write that part without it"
    )
    if first is None:
        mend = (
            "only the second batch shows it, so forward keeps something from call to call beside its buffers, which "
            "no graph does: write that part without it"
        )
    raise ParityError(
        f"the trace of {name} does not compute what the model computes: {what}{f' at {where}' if where else ''}; "
        f"{mend}",
        where=where or name,
        kind="trace_differs",
    )


def _images(model: nn.Module, input_shape: tuple[int, int, int], seed: int) -> list[Tensor]:
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    x = torch.randn(2 * _IMAGES, *input_shape, generator=torch_generator(seed, "fidelity", "images"))
    return list(x.to(device=first.device, dtype=first.dtype).split(_IMAGES))


def _targets(graph_module: fx.GraphModule) -> dict[str, fx.Node]:
    """The first node that calls each module."""
    targets: dict[str, fx.Node] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            targets.setdefault(str(node.target), node)
    return targets


def _runs(network: nn.Module, batches: list[Tensor], targets: dict[str, fx.Node], seed: int) -> list[_Run]:
    """What one copy gives for one batch after the other: a state that it keeps shows at the second."""
    copied = copy_module(network)
    copied.eval()  # not in one line with the copy: the user's own train() may return nothing
    marks: dict[tuple[str, int], Mark] = {}
    parts = dict(copied.named_modules())
    for name in targets:
        part = parts.get(name)
        if part is not None and not isinstance(part, torch.jit.ScriptModule):
            part.register_forward_hook(_marker(name, marks))
    runs = []
    with global_generators(seed), torch.no_grad():
        for x in batches:
            marks.clear()
            runs.append(_Run(_tensors(copied(x.clone())), dict(marks)))
    return runs


def _marker(name: str, marks: dict[tuple[str, int], Mark]) -> Callable[..., None]:
    calls = 0

    def mark(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal calls
        values = [(t.shape, t.detach().to(torch.float64)) for t in _tensors(output) if not t.is_complex()]
        marks[name, calls] = tuple((shape, float(t.sum()), float(t.abs().sum())) for shape, t in values)
        calls += 1

    return mark


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def _first_difference(one: _Run, other: _Run, targets: dict[str, fx.Node]) -> tuple[str, fx.Node | None] | None:
    """In words the first difference, and its node where a called module gives it; ``None`` where they are alike."""
    loose = max((_tolerance(t) for t in one.outputs), default=TOLERANCE)
    for (name, call), mark in other.marks.items():  # in the order of the graph
        theirs = one.marks.get((name, call))
        if theirs is not None and not _marks_alike(theirs, mark, loose):
            return f"it differs first in what {name} gives, or in what it is given,", targets[name]
    if len(one.outputs) != len(other.outputs):
        return f"it gives {len(other.outputs)} tensors where the model gives {len(one.outputs)}", None
    for index, (a, b) in enumerate(zip(one.outputs, other.outputs, strict=True)):
        if not _alike(a, b):
            return f"output {index} differs, behind all the modules that it calls", None
    return None


def _marks_alike(one: Mark, other: Mark, tolerance: float) -> bool:
    def near(a: float, b: float, scale: float) -> bool:
        return a == b or not abs(a - b) > tolerance * scale  # what is not a number is like itself

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
