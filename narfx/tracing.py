"""From an ``nn.Module`` to a graph: ``torch.fx`` with declared leaves, and leaves where a trace fails.

Convolutions stay modules, whatever class they are of. A module whose ``forward`` asks ``self.training`` and holds no
convolution stays a leaf too, because a trace would bake the answer in. Where a submodule cannot be traced, its class
becomes a leaf and the trace starts again: a failed trace leaves torch's tracer in no state to go on from.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import accumulate
from keyword import iskeyword
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import Argument

from narfx.copying import copy_module, copy_structure
from narfx.dispatch import Dispatch, Shortcut, SkipGate
from narfx.errors import UsageError
from narfx.passes.lift_dropout import LiftDropout
from narfx.source import is_model_code, mentions_training, model_stack
from narfx.space import Skipped

__all__ = ["GraphTrace", "settle_training", "trace_graph"]

_MAX_LEAVES, _ALIKE = 50, 3


@dataclass
class GraphTrace:
    """A graph that shares nothing with the model it came from, and what it leaves opaque or bakes in.

    ``source`` is the copy of the model whose parameters the graph holds, and what the graph does not use besides.
    """

    graph_module: fx.GraphModule
    source: nn.Module
    opaque: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Tracer(fx.Tracer):
    """fx's tracer with our leaves; it remembers the innermost module in whose forward a trace failed."""

    # A buffer that is computed with is read by the graph, not baked in: it stays in the state dict.
    proxy_buffer_attributes = True

    def __init__(self, leaves: _Leaves) -> None:
        super().__init__()
        self.leaves = leaves
        self.failed: nn.Module | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` stays one call."""
        return (
            isinstance(m, (nn.modules.conv._ConvNd, Dispatch, Shortcut, SkipGate))
            or module_qualified_name in self.leaves.paths
            or type(m) in self.leaves.classes
            or _asks_training(m)
            or super().is_leaf_module(m, module_qualified_name)
        )

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace through ``m`` or record a call of it."""
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            # Not `or`: an empty container counts as false.
            self.failed = m if self.failed is None else self.failed
            raise

    def create_arg(self, a: Any) -> Argument:
        """What a call or the output is given; an ``OrderedDict`` stays one, of which fx would make a plain dict."""
        if type(a) is OrderedDict:
            return self.create_proxy("call_function", OrderedDict, (list(a.items()),), {}).node
        return super().create_arg(a)

    def create_proxy(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        """A node that knows the model's lines; torch's own record formats its own frames too, at ten times the time."""
        proxy = super().create_proxy(*args, **kwargs)
        proxy.node.stack_trace = model_stack(_trace_once.__code__)
        return proxy


@dataclass
class _Leaves:
    """Modules that cannot be traced: by path, and by class where one class fails again and again."""

    paths: dict[str, Skipped] = field(default_factory=dict)
    classes: dict[type, Skipped] = field(default_factory=dict)

    def found(self, graph_module: fx.GraphModule) -> list[Skipped]:
        """One record a module that the graph calls."""
        records = dict(self.paths)
        for name, module in graph_module.named_modules():
            if type(module) in self.classes and name not in records:
                records[name] = replace(self.classes[type(module)], name=name)
        called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
        return [record for name, record in records.items() if name in called]


def _asks_training(module: nn.Module) -> bool:
    return mentions_training(type(module).forward) and not any(
        isinstance(part, nn.modules.conv._ConvNd) for part in module.modules()
    )


def trace_graph(model: nn.Module, *, training: bool = False, copied: bool = False) -> GraphTrace:
    """Trace ``model``, in eval mode unless ``training``; the model itself is not changed.

    With ``copied`` the model is a copy already, whose parameters the graph may take.

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
    leaves = _Leaves()
    while True:
        try:
            # A forward that failed half way may have left its mark on the modules: each try has a copy of its own.
            tried = copy_structure(model) if copied else copy_module(model)
        except Exception as error:
            raise UsageError(
                f"{type(model).__name__} cannot be copied ({type(error).__name__}: {_first_line(error)})",
                kind="not_copyable",
            ) from error
        tried.train(training)
        tracer = _Tracer(leaves)
        try:
            graph = _trace_once(tracer, tried, concrete)
            break
        except Exception as error:
            _make_leaf(tried, tracer.failed, error, leaves)
    _refuse_clashes(tried, graph)
    graph_module = fx.GraphModule(tried, graph, type(model).__name__)
    # The graph remembers the class of its tracer for unpickling; a user who unpickles it need not have narfx.
    graph._tracer_cls = graph_module._tracer_cls = None
    _keep_buffer_persistence(tried, graph_module)
    graph_module.train(training)
    return GraphTrace(graph_module, tried, leaves.found(graph_module))


def _trace_once(tracer: _Tracer, model: nn.Module, concrete: dict[str, Any] | None) -> fx.Graph:
    return tracer.trace(model, concrete)


def _make_leaf(model: nn.Module, failed: nn.Module | None, error: Exception, leaves: _Leaves) -> None:
    """Add the module that failed to the leaves, or give up."""
    names = {id(module): name for name, module in model.named_modules()}
    name, where = names.get(id(failed), ""), _users_line(error)
    if not name or failed is None or _is_container(failed) or len(leaves.paths) >= _MAX_LEAVES:
        parts = [
            part for part, child in model.named_children() if any(isinstance(m, nn.Conv2d) for m in child.modules())
        ]
        choice = f"; or refine one part, as MODEL#{parts[0]} (of {', '.join(parts)})" if parts and not name else ""
        raise UsageError(
            f"torch.fx cannot trace {name or 'the model'} ({type(failed or model).__name__}) at {where}: "
            f"{_first_line(error)}; keep data-dependent control flow in a submodule of its own{choice}",
            where=name or where,
            kind="untraceable",
        ) from error
    kind = type(failed)
    reason = f"{kind.__name__} cannot be traced and stays opaque: {_first_line(error)}"
    leaves.paths[name] = record = Skipped(name, "untraceable", reason, where)
    if sum(isinstance(module, kind) for path, module in model.named_modules() if path in leaves.paths) >= _ALIKE:
        leaves.classes[kind] = record  # each try traces all anew


def settle_training(trace: GraphTrace) -> None:
    """Trace in training mode as well, where that may differ, and mend or note what does.

    A functional dropout becomes a module, which follows the mode. Anything else is noted at its first call: there
    the trace has baked eval mode in.
    """
    if not any(_mode_matters(type(module)) for module in trace.source.modules()):
        return
    try:
        other = trace_graph(trace.source, training=True, copied=True).graph_module
    except UsageError as error:
        trace.notes.append(f"the model cannot be traced in training mode: {error}")
        return
    lifts = LiftDropout(other.graph), LiftDropout(trace.graph_module.graph)
    for lift, graph_module in zip(lifts, (trace.graph_module, other), strict=True):
        lift(graph_module)
    ours, theirs = [[*map(_call, graph.nodes), "the end"] for graph in (trace.graph_module.graph, other.graph)]
    if ours != theirs:
        eval_call, train_call = next((a, b) for a, b in zip(ours, theirs, strict=False) if a != b)
        trace.notes.append(
            "the model computes something else in training mode than in eval mode, and the trace holds eval mode: "
            f"first at {eval_call} (in training mode {train_call}); "
            + _mend(trace.source, trace.graph_module.graph, other.graph)
        )


def _mend(model: nn.Module, graph: fx.Graph, training: fx.Graph) -> str:
    """How to have no difference between the modes; parts that only training calls are auxiliary heads."""
    called, heads = ({str(node.target) for node in g.nodes if node.op == "call_module"} for g in (graph, training))
    known = {path for target in called for path in accumulate(target.split("."), "{}.{}".format)}
    paths = (accumulate(target.split("."), "{}.{}".format) for target in heads - called)
    alone = sorted({next(path for path in parts if path not in known) for parts in paths})
    if not alone:
        return "make it a submodule whose forward asks self.training to keep both"
    option = next((name for name in inspect.signature(type(model).__init__).parameters if "aux" in name), None)
    if option is None:
        return f"only training calls {', '.join(alone)}: leave that out, or ask self.training in its own forward"
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


def _refuse_kinds(model: nn.Module) -> None:
    """What torch itself cannot trace or copy, said before it says so in its own words."""
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            f"{type(model).__name__} is a TorchScript module, which torch.fx cannot trace: give the module that it was "
            "made from",
            kind="scripted",
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


def _is_container(module: nn.Module) -> bool:
    """Making ``nn.Sequential`` a leaf would hide half of any network."""
    return type(module).__module__.startswith("torch.nn.modules")


def _keep_buffer_persistence(model: nn.Module, graph_module: fx.GraphModule) -> None:
    """Fx makes every buffer that it copies persistent, and a tensor that forward makes a buffer: keys too many."""
    graph_module._non_persistent_buffers_set.update(graph_module._buffers.keys() - model._buffers.keys())
    for name, module in model.named_modules():
        for buffer in module._non_persistent_buffers_set:
            try:
                copied = graph_module.get_submodule(name)
            except AttributeError:
                continue
            if buffer in copied._buffers:
                copied._non_persistent_buffers_set.add(buffer)


def _users_line(error: BaseException) -> str:
    """``file:line`` of the last frame outside torch."""
    own, frame = "an unknown line", error.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if is_model_code(file):
            own = f"{file}:{frame.tb_lineno}"
        frame = frame.tb_next
    return own


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
