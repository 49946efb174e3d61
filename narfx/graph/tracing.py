"""From an ``nn.Module`` to a graph: ``torch.fx`` with fixed leaves, and leaves for modules that cannot be traced.

Leaves by rule: convolutions of every class; modules that declare candidates; modules with forward hooks, so that the
hooks run on tensors when the network runs; and modules whose ``forward`` reads ``self.training`` and that contain no
convolution, because a trace would bake the mode in. A submodule that cannot be traced becomes a leaf, and so do later
ones in the same try. Then tracing starts again on a new copy, because a forward that failed may have changed its
module. A few tries are enough.
"""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any, NoReturn

import torch
from torch import fx, nn
from torch.fx.graph import _custom_builtins

from narfx.errors import UsageError
from narfx.graph.copying import copy_module, copy_structure
from narfx.graph.proxies import UntraceableError
from narfx.graph.source import users_line
from narfx.graph.time_limit import model_time
from narfx.graph.tracer import Tracer, forward_hooks, trace_once
from narfx.space.records import Skipped
from narfx.support.devices import absent_device
from narfx.support.generators import global_generators
from narfx.support.text import first_line

__all__ = ["GraphTrace", "trace_graph"]

_MAX_TRIES = 20
_GLOBALS = {*_custom_builtins, "operator", "math"}  # names that the code of a graph may use


@dataclass
class GraphTrace:
    """A graph that shares nothing with its model.

    Attributes:
        graph_module: The graph.
        source: The copy of the model whose parameters the graph holds, including parts that the graph does not use.
        opaque: The modules that stay one call, with the reason.
        notes: Sentences on what the trace does not keep.
        drawn: The random generators that the forward used while it was traced.
    """

    graph_module: fx.GraphModule
    source: nn.Module
    opaque: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)


@model_time()
def trace_graph(
    model: nn.Module,
    *,
    training: bool = False,
    copied: bool = False,
    opaque: Iterable[Skipped] = (),
    inputs: int = 1,
) -> GraphTrace:
    """Trace ``model``, in eval mode unless ``training``; the model itself is not changed.

    Args:
        model: The model.
        training: Whether to trace in training mode.
        copied: Whether the model is already a copy, whose parameters the graph may share.
        opaque: The parts that are not traced into.
        inputs: How many tensors the model takes.

    Raises:
        UsageError: The model does not take so many tensors, has forward hooks itself, cannot be copied, or cannot
            be traced; the message names the module and the line.
    """
    _refuse_kinds(model)
    concrete = _bound_defaults(model, inputs)
    if model._forward_hooks or model._forward_pre_hooks:
        raise UsageError(
            f"{type(model).__name__} has forward hooks on the model itself, which a trace would lose: remove them, or "
            "wrap the model in a module",
            kind="root_hooks",
        )
    leaves = {record.name: record for record in opaque}
    for _ in range(_MAX_TRIES):
        try:
            # A forward that failed may have changed its modules, so each try gets its own copy.
            tried = copy_structure(model) if copied else copy_module(model)
        except Exception as error:
            raise UsageError(
                f"{type(model).__name__} cannot be copied ({type(error).__name__}: {first_line(error)}): make "
                "copy.deepcopy(model) work",
                kind="not_copyable",
            ) from error
        tried.train(training)
        tracer = Tracer(leaves)
        with global_generators(0) as drawn:
            try:
                graph = trace_once(tracer, tried, concrete)
            except Exception as error:
                if absent_device(error) or not tracer.added:
                    _give_up(tried, tracer.failed, error)
            else:
                tracer.keep_buffers(training)
                if not tracer.added:
                    generators = drawn()
                    break
    else:
        raise UsageError(
            f"torch.fx cannot trace {type(model).__name__}: after {_MAX_TRIES} tries, with {len(leaves)} opaque "
            f"parts, another one fails ({next(reversed(leaves))}); rewrite its forward without control flow on values",
            where=next(reversed(leaves)),
            kind="untraceable",
        )
    _refuse_clashes(tried, graph)
    graph_module = fx.GraphModule(tried, graph, type(model).__name__)
    # The graph stores the class of its tracer for unpickling; unpickling must not need narfx.
    graph._tracer_cls = graph_module._tracer_cls = None
    _keep_buffer_persistence(tried, graph_module)
    graph_module.train(training)
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    whole = [record for name, record in leaves.items() if name in called]
    notes = [*tracer.notes.values()]
    if generators and not training:
        notes.append(
            f"forward draws random numbers ({', '.join(generators)}) in eval mode, and the trace keeps those of one "
            "draw as constants: draw them with torch.randn_like of a tensor of the network, or in a submodule without "
            "convolutions whose forward reads self.training"
        )
    return GraphTrace(graph_module, tried, [*whole, *_hooked(graph_module)], notes, generators)


def _hooked(graph_module: fx.GraphModule) -> list[Skipped]:
    """The modules that are leaves only because of their forward hooks, with the source line of the first hook."""
    plain, found = fx.Tracer(), dict[str, Skipped]()
    for node in graph_module.graph.nodes:
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        hooks = forward_hooks(module) if module is not None else []
        if module is None or not hooks or plain.is_leaf_module(module, str(node.target)):
            continue
        code = getattr(hooks[0], "__code__", None)
        reason = (
            f"{type(module).__name__} has forward hooks and stays opaque, because a trace would run them on proxies; "
            "remove the hooks to refine what is inside"
        )
        where = f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""
        found[str(node.target)] = Skipped(str(node.target), "untraceable", reason, where)
    return list(found.values())


def _give_up(model: nn.Module, failed: nn.Module | None, error: Exception) -> NoReturn:
    """Raise the error for a model that cannot be traced; it names the root or the failing torch container."""
    names = {id(module): name for name, module in model.named_modules()}
    name, where = names.get(id(failed), ""), users_line(error)
    absent = absent_device(error)
    if absent is not None:
        raise UsageError(
            f"the model needs a device that this machine does not have, at {where}: {absent}",
            where=where,
            kind="no_device",
        ) from error
    parts = [part for part, child in model.named_children() if _convolutions(child) > 1]
    choice = f"; or refine one part (MODEL#{parts[0]}; parts: {', '.join(parts)})" if parts and not name else ""
    cure = "; move data-dependent control flow into its own submodule"
    if isinstance(error, UntraceableError):  # it says what to write
        cure = ""
    raise UsageError(
        f"torch.fx cannot trace {name or 'the model'} ({type(model if failed is None else failed).__name__}) "
        f"at {where}: {first_line(error)}{cure}{choice}",
        where=name or where,
        kind="untraceable",
    ) from error


def _convolutions(module: nn.Module) -> int:
    return sum(isinstance(part, nn.Conv2d) for part in module.modules())


def _refuse_kinds(model: nn.Module) -> None:
    """Refuse modules that torch cannot trace or copy: TorchScript, wrappers, and lazy modules."""
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            f"{type(model).__name__} is a TorchScript module, which torch.fx cannot trace: give the module from which "
            "it was made",
            kind="scripted",
        )
    inner = next((name for name in ("_orig_mod", "module") if isinstance(getattr(model, name, None), nn.Module)), None)
    if inner is not None and type(model).__module__.startswith("torch."):
        raise UsageError(
            f"{type(model).__name__} is a wrapper around the model: give narfx the module inside it (model.{inner}, or "
            f"MODEL#{inner} in a reference), and wrap the result",
            where=inner,
            kind="wrapped",
        )
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise UsageError(
                f"{name} has no shape yet: run the model once on an image to initialise its lazy layers",
                where=name,
                kind="uninitialised",
            )


def _bound_defaults(model: nn.Module, inputs: int = 1) -> dict[str, Any] | None:
    """The optional arguments of ``forward`` with their defaults; there must be so many required arguments."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) != inputs and not (
        inputs == 1 and not required and any(p.kind is p.VAR_POSITIONAL for p in parameters)
    ):
        raise UsageError(
            f"{type(model).__name__}.forward takes {len(required)} required inputs ({', '.join(required) or 'none'}); "
            "narfx refines networks with one input tensor: wrap the model in a module that fills in the others",
            where=type(model).__name__,
            kind="inputs",
        )
    optional = {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in required}
    return optional or None


def _refuse_clashes(model: nn.Module, graph: fx.Graph) -> None:
    """Refuse names of parts that a GraphModule cannot hold: its own attributes, and names that are not valid code."""
    taken = {name for name in dir(fx.GraphModule) if not hasattr(nn.Module, name)} | {"meta"}
    used = {str(node.target).partition(".")[0] for node in graph.nodes if node.op in ("call_module", "get_attr")}
    for name in sorted(taken & used):
        raise UsageError(
            f"{type(model).__name__} has a part named {name}, which torch.fx uses itself: rename it",
            where=name,
            kind="name_clash",
        )
    for target in sorted({str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}):
        for name in target.split("."):
            if iskeyword(name) or not name.isprintable() or set('"\\') & set(name):
                raise UsageError(
                    f"{type(model).__name__} has a part named {name!r} ({target!r}), which torch.fx cannot write as "
                    "Python code (a keyword, a quotation mark or a backslash): rename it",
                    where=target,
                    kind="name_clash",
                )
    for node in graph.nodes:
        if node.name == "self":  # the output of a part named self; in the generated code self is the network
            node._rename("self_")
        name = str(node.target)
        if node.op == "placeholder" and name != "input" and (name in _GLOBALS or hasattr(builtins, name)):
            # As a parameter it would hide what the code of the graph means by that name, such as a float's inf.
            node.target = f"{name}_"


def _keep_buffer_persistence(model: nn.Module, graph_module: fx.GraphModule) -> None:
    """Undo that fx makes every buffer persistent and registers tensors of forward as buffers: both add keys."""
    theirs = dict(model.named_modules(remove_duplicate=False))
    for name, copied in graph_module.named_modules():
        own = theirs.get(name)
        for buffer in copied._buffers:
            if own is None or buffer not in own._buffers or buffer in own._non_persistent_buffers_set:
                copied._non_persistent_buffers_set.add(buffer)
