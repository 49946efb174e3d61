"""Differences between training mode and eval mode: restored where possible, else noted."""

from __future__ import annotations

import inspect
import warnings
from itertools import accumulate
from types import FunctionType

from torch import fx, nn

from narfx.errors import UsageError
from narfx.graph.frozen import frozen_parts, mark_frozen
from narfx.graph.source import mentions_training
from narfx.graph.tracing import GraphTrace, trace_graph
from narfx.passes.lift_dropout import LiftDropout
from narfx.support.text import count

__all__ = ["settle_training"]


def settle_training(trace: GraphTrace) -> None:
    """Keep frozen what the model's own ``train()`` freezes, and follow what else its training mode changes.

    The model is traced in training mode as well, where that may differ.

    A functional dropout becomes a module, which follows the mode. Anything else is noted at its first call: there
    the trace has baked eval mode in.
    """
    frozen = frozen_parts(trace.source)
    mark_frozen(trace.graph_module, frozen)
    if frozen:
        shown = ", ".join(frozen[:4]) + (", ..." if len(frozen) > 4 else "")
        trace.notes.append(
            f"the model's own train() keeps {count(len(frozen), 'part')} in eval mode ({shown}), and so does narfx's "
            "training; a training loop of your own must do the same after train()"
        )
    if not any(_mode_matters(type(module)) for module in trace.source.modules()):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # checkpointing warns of inputs without gradients, which stand-ins are
            training = trace_graph(trace.source, training=True, copied=True, opaque=trace.opaque)
    except UsageError as error:
        trace.notes.append(f"the model cannot be traced in training mode: {error}")
        return
    other = training.graph_module
    trace.notes += [note for note in training.notes if note not in trace.notes]
    if training.drawn and not trace.drawn:
        trace.notes.append(
            f"in training mode forward draws random numbers ({', '.join(training.drawn)}) outside of torch modules, as "
            "stochastic depth in Python does, but the trace has eval mode, which draws none: to keep both, draw them "
            "in a submodule without convolutions whose forward reads self.training"
        )
    lifts = LiftDropout(other.graph), LiftDropout(trace.graph_module.graph)
    for lift, graph_module in zip(lifts, (trace.graph_module, other), strict=True):
        lift(graph_module)
    ours, theirs = [[*map(_call, graph.nodes), "the end"] for graph in (trace.graph_module.graph, other.graph)]
    if ours != theirs:
        eval_call, train_call = next((a, b) for a, b in zip(ours, theirs, strict=False) if a != b)
        trace.notes.append(
            "the model does not compute the same in training and eval mode, and the trace has eval mode: "
            f"first at {eval_call} (in training mode {train_call}); "
            + _cure(trace.source, trace.graph_module.graph, other.graph)
        )


def _cure(model: nn.Module, graph: fx.Graph, training: fx.Graph) -> str:
    """How to have no difference between the modes; parts that only training calls are auxiliary heads."""
    called, heads = ({str(node.target) for node in g.nodes if node.op == "call_module"} for g in (graph, training))
    known = {path for target in called for path in accumulate(target.split("."), "{}.{}".format)}
    paths = [list(accumulate(target.split("."), "{}.{}".format)) for target in heads - called]
    # What one trace calls whole and the other in its parts is called in both modes.
    firsts = {next((path for path in parts if path not in known), "") for parts in paths if called.isdisjoint(parts)}
    alone = sorted(firsts - {""})
    if not alone:
        return "make it a submodule whose forward reads self.training to keep both"
    option = next((name for name in inspect.signature(type(model).__init__).parameters if "aux" in name), None)
    if option is None:
        return f"only training calls {', '.join(alone)}: leave that out, or read self.training in its own forward"
    return f"only training calls {', '.join(alone)}, auxiliary heads: build the model without them, by {option}=False"


def _mode_matters(kind: type) -> bool:
    """Whether code of this class asks ``training``; torch's own layers do, but stay leaves, which keep both modes."""
    return any(
        mentions_training(method)
        for base in kind.__mro__
        if not base.__module__.startswith("torch.nn.")
        for method in vars(base).values()
        if isinstance(method, FunctionType)
    )


def _call(node: fx.Node) -> str:
    """One node as a person writes a call; what a mode decides is often a keyword (``training=False``)."""
    if node.op == "output":
        return f"return {node.args[0]}"
    target = getattr(node.target, "__name__", node.target)
    return f"{target}({', '.join([*map(str, node.args), *(f'{key}={value}' for key, value in node.kwargs.items())])})"
