"""From an ``nn.Module`` to a graph: ``torch.fx`` with declared leaves, and leaves where a trace fails.

Convolutions stay modules, whatever class they are of, and so does what carries forward hooks: they run when the network
does, on tensors, as the user meant them. A module whose ``forward`` asks ``self.training`` and holds no
convolution stays a leaf too, because a trace would bake the answer in. Where a submodule cannot be traced, it becomes
a leaf, and so do others that fail behind it; then the trace starts again, because a forward that failed half way may
have left its mark. A few tries do, however many modules fail.
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
    """A graph that shares nothing with the model it came from, and what it leaves opaque or bakes in.

    ``source`` is the copy of the model whose parameters the graph holds, and what the graph does not use besides.
    ``drawn`` names the random generators that a forward has drawn from while it was traced.
    """

    graph_module: fx.GraphModule
    source: nn.Module
    opaque: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)


def trace_graph(
    model: nn.Module, *, training: bool = False, copied: bool = False, opaque: Iterable[Skipped] = ()
) -> GraphTrace:
    """Trace ``model``, in eval mode unless ``training``; the model itself is not changed.

    With ``copied`` the model is a copy already, whose parameters the graph may take. The parts in ``opaque`` are not
    traced into.

    Raises:
        UsageError: The model takes no or several tensors, carries hooks that a trace would lose, cannot be copied, or
            cannot be traced; the message names the module and the line.
    """
    _refuse_kinds(model)
    concrete = _bound_defaults(model)
    if model._forward_hooks or model._forward_pre_hooks:
        raise UsageError(
            f"{type(model).__name__} carries forward hooks on the model itself, which a trace would lose: "
            "remove them, or wrap the model in a module",
            kind="root_hooks",
        )
    leaves = {record.name: record for record in opaque}
    for _ in range(_MAX_TRIES):
        try:
            # A forward that failed half way may have left its mark on the modules: each try has a copy of its own.
            tried = copy_structure(model) if copied else copy_module(model)
        except Exception as error:
            raise UsageError(
                f"{type(model).__name__} cannot be copied ({type(error).__name__}: {first_line(error)})",
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
            f"torch.fx cannot trace {type(model).__name__}: after {_MAX_TRIES} tries, and with {len(leaves)} parts "
            f"left opaque, another one fails ({next(reversed(leaves))})",
            where=next(reversed(leaves)),
            kind="untraceable",
        )
    _refuse_clashes(tried, graph)
    graph_module = fx.GraphModule(tried, graph, type(model).__name__)
    # The graph remembers the class of its tracer for unpickling; a user who unpickles it need not have narfx.
    graph._tracer_cls = graph_module._tracer_cls = None
    _keep_buffer_persistence(tried, graph_module)
    graph_module.train(training)
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    whole = [record for name, record in leaves.items() if name in called]
    notes = [*tracer.notes.values()]
    if generators and not training:
        notes.append(
            f"forward draws random numbers ({', '.join(generators)}) in eval mode, and the trace holds those of one "
            "draw: draw them like a tensor of the network (torch.randn_like), or in a submodule whose forward asks "
            "self.training and holds no convolution"
        )
    return GraphTrace(graph_module, tried, [*whole, *_hooked(graph_module)], notes, generators)


def _hooked(graph_module: fx.GraphModule) -> list[Skipped]:
    """What is a leaf for its forward hooks alone, with the line of the first."""
    plain, found = fx.Tracer(), dict[str, Skipped]()
    for node in graph_module.graph.nodes:
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        hooks = forward_hooks(module) if module is not None else []
        if module is None or not hooks or plain.is_leaf_module(module, str(node.target)):
            continue
        code = getattr(hooks[0], "__code__", None)
        reason = (
            f"{type(module).__name__} carries forward hooks and stays opaque: a trace would run them on its stand-ins "
            "for tensors; remove them, and what is inside can be refined"
        )
        where = f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""
        found[str(node.target)] = Skipped(str(node.target), "untraceable", reason, where)
    return list(found.values())


def _give_up(model: nn.Module, failed: nn.Module | None, error: Exception) -> NoReturn:
    """Say what cannot be traced: the root, or one of torch's containers where nothing but the root is around it."""
    names = {id(module): name for name, module in model.named_modules()}
    name, where = names.get(id(failed), ""), users_line(error)
    absent = absent_device(error)
    if absent is not None:
        raise UsageError(
            f"the model asks for a device that is not here, at {where}: {absent}", where=where, kind="no_device"
        ) from error
    parts = [part for part, child in model.named_children() if _convolutions(child) > 1]
    choice = f"; or refine one part, as MODEL#{parts[0]} (of {', '.join(parts)})" if parts and not name else ""
    cure = "; keep data-dependent control flow in a submodule of its own"
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
    """What torch itself cannot trace or copy, said before it says so in its own words."""
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            f"{type(model).__name__} is a TorchScript module, which torch.fx cannot trace: give the module that it was "
            "made from",
            kind="scripted",
        )
    inner = next((name for name in ("_orig_mod", "module") if isinstance(getattr(model, name, None), nn.Module)), None)
    if inner is not None and type(model).__module__.startswith("torch."):
        raise UsageError(
            f"{type(model).__name__} is a wrapper around the model: give narfx the module inside it (model.{inner}, or "
            f"MODEL#{inner} in a reference), and wrap what comes out",
            where=inner,
            kind="wrapped",
        )
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise UsageError(
                f"{name} has no shape yet: run the model once on an image, which makes its lazy layers",
                where=name,
                kind="uninitialised",
            )


def _bound_defaults(model: nn.Module) -> dict[str, Any] | None:
    """The optional arguments of ``forward`` with their defaults; one required tensor is what narfx refines."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) != 1 and not (not required and any(p.kind is p.VAR_POSITIONAL for p in parameters)):
        raise UsageError(
            f"{type(model).__name__}.forward takes {len(required)} required inputs ({', '.join(required) or 'none'}); "
            "narfx refines networks of one tensor: wrap the model in a module that fills in the others",
            where=type(model).__name__,
            kind="inputs",
        )
    optional = {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in required}
    return optional or None


def _refuse_clashes(model: nn.Module, graph: fx.Graph) -> None:
    """A part of the model with the name of something that torch's GraphModule has itself cannot be put into one.

    Nor can one whose name torch cannot write into the code of the graph.
    """
    taken = {name for name in dir(fx.GraphModule) if not hasattr(nn.Module, name)} | {"meta"}
    used = {str(node.target).partition(".")[0] for node in graph.nodes if node.op in ("call_module", "get_attr")}
    for name in sorted(taken & used):
        raise UsageError(
            f"{type(model).__name__} has a part named {name}, a name that torch.fx needs for itself: rename it",
            where=name,
            kind="name_clash",
        )
    for target in sorted({str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}):
        for name in target.split("."):
            if iskeyword(name) or not name.isprintable() or set('"\\') & set(name):
                raise UsageError(
                    f"{type(model).__name__} has a part named {name!r} ({target!r}), and torch.fx writes Python code "
                    "in which a keyword, a quotation mark or a backslash cannot stand for a part: rename it",
                    where=target,
                    kind="name_clash",
                )
    for node in graph.nodes:
        if node.name == "self":  # what a part of this name gives, in code in which self is the network
            node._rename("self_")
        name = str(node.target).lstrip("*")
        if node.op == "placeholder" and name != "input" and (name in _GLOBALS or hasattr(builtins, name)):
            # As a parameter it would hide what the code of the graph means by that name, such as a float's inf.
            node.target = str(node.target).replace(name, f"{name}_")


def _keep_buffer_persistence(model: nn.Module, graph_module: fx.GraphModule) -> None:
    """Fx makes every buffer that it copies persistent, and a tensor that forward makes a buffer: keys too many."""
    theirs = dict(model.named_modules(remove_duplicate=False))
    for name, copied in graph_module.named_modules():
        own = theirs.get(name)
        for buffer in copied._buffers:
            if own is None or buffer not in own._buffers or buffer in own._non_persistent_buffers_set:
                copied._non_persistent_buffers_set.add(buffer)
