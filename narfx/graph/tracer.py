"""torch.fx's tracer with narfx's leaves: modules that stay one call, by rule or because they cannot be traced."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import Argument

from narfx.errors import UsageError
from narfx.graph.contexts import Context, current_context, describe_change, running_function
from narfx.graph.declared import declares
from narfx.graph.nodes import is_kernel, source_line
from narfx.graph.proxies import Proxy, iterate
from narfx.graph.source import mentions_training, model_stack, users_line
from narfx.graph.wrappers import wraps_convolution
from narfx.space.records import Skipped
from narfx.support.devices import absent_device
from narfx.support.text import first_line

__all__ = ["Tracer", "forward_hooks", "trace_once"]


class Tracer(fx.Tracer):
    """fx's tracer with narfx's leaves.

    Attributes:
        leaves: The modules that stay opaque, by path; the tracer adds to it.
        added: Whether this trace added a leaf, so that the model must be traced again.
        failed: The innermost torch container in which tracing failed, if no module of the user encloses it.
        notes: Contexts (``torch.no_grad``) and buffer assignments that the trace does not keep.
        contexts: The modules on the current stack, with the contexts at their call.
    """

    # The graph reads buffers instead of baking them in, so they stay in the state dict.
    proxy_buffer_attributes = True

    def __init__(self, leaves: dict[str, Skipped]) -> None:
        super().__init__()
        self.leaves, self.added = leaves, False
        self.failed: nn.Module | None = None
        self.notes: dict[tuple[str, str], str] = {}
        self.contexts: list[tuple[nn.Module | None, Context]] = [(None, current_context())]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` stays one call."""
        if type(m).__call__ is not nn.Module.__call__ and not type(m).__module__.startswith("torch."):
            # Its own __call__ is traced around the call, and a leaf would run it a second time.
            return module_qualified_name in self.leaves
        return (
            (isinstance(m, nn.modules.conv._ConvNd) and not wraps_convolution(m))
            or getattr(m, "narfx_leaf", False)
            or module_qualified_name in self.leaves
            or declares(m)
            or _asks_training(m)
            or bool(forward_hooks(m))
            or super().is_leaf_module(m, module_qualified_name)
        )

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """The arguments of the model's forward. It gets images only, so ``**options`` are known to be empty.

        So is ``*more`` after a named argument; ``*inputs`` alone holds the images.
        """
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        named = 0
        for index, arg in enumerate(args):
            node = arg.node if isinstance(arg, fx.Proxy) else None
            stars = 0 if node is None else len(str(node.target)) - len(str(node.target).lstrip("*"))
            if node is not None and (stars == 2 or (stars == 1 and named)):
                self.graph.erase_node(node)
                args[index] = {} if stars == 2 else ()
            elif node is not None:
                named += 1
                if stars:
                    node.target, args[index] = str(node.target).lstrip("*"), (arg,)
        return function, args

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace through ``m``, or record one call of it if it is a leaf or cannot be traced."""
        depth, known = len(self.module_stack), len(self.contexts)
        self.contexts.append((m, self._context()))
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:
            path = self.submodule_paths.get(m, "") if self.submodule_paths else ""
            if absent_device(error) or not path or self.is_leaf_module(m, path):
                raise
            if _is_container(m):
                # Not `or`: an empty container counts as false.
                self.failed = m if self.failed is None else self.failed
                raise
            self.failed = None
            why = f"{type(m).__name__} cannot be traced and stays opaque: {first_line(error)}"
            self._add_leaf(path, why, users_line(error))
            while len(self.module_stack) > depth:
                self.module_stack.popitem()
        finally:
            del self.contexts[known:]
        return self.create_proxy("call_module", path, args, kwargs)

    def create_arg(self, a: Any) -> Argument:
        """An argument of a call or of the output; an ``OrderedDict`` is kept, which fx would turn into a dict."""
        if type(a) is OrderedDict:
            return self.create_proxy("call_function", OrderedDict, (list(a.items()),), {}).node
        return super().create_arg(a)

    def create_proxy(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        """A node with the model's source lines; torch's own record includes its frames and takes ten times as long."""
        proxy = super().create_proxy(*args, **kwargs)
        proxy.node.stack_trace = model_stack(trace_once.__code__)
        if self._context() != self.contexts[0][1]:
            self._leave_context(proxy.node)
        function = None if torch.is_grad_enabled() else running_function(trace_once.__code__)
        if function is not None and not function.__module__.startswith("torch."):
            self._leave_function(proxy.node, function.__name__)
        return proxy

    def _context(self) -> Context:
        """The contexts at this line, without what torch itself does to the forward of an autograd function."""
        context = current_context()
        if not context.gradients and running_function(trace_once.__code__) is not None:
            return context._replace(gradients=self.contexts[0][1].gradients)
        return context

    @property
    def in_convolution(self) -> bool:
        """Whether the line that runs is in the forward of a convolution's own, which the trace goes into."""
        return isinstance(self.contexts[-1][0], nn.modules.conv._ConvNd)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for a node's value."""
        return Proxy(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """The items of a proxy, where their number is known."""
        return iterate(obj)

    def _leave_context(self, node: fx.Node) -> None:
        """For a node inside a context that the trace does not keep: make its module a leaf, or add a note."""
        inner = [*(context for _, context in self.contexts[1:]), self._context()]
        module, before, after = [(m, a, b) for (m, a), b in zip(self.contexts, inner, strict=True) if a != b][-1]
        path = self.submodule_paths.get(module, "") if module is not None and self.submodule_paths else ""
        name = type(self.root if module is None else module).__name__
        where, what = source_line(node), describe_change(before, after)
        if path and (before.autocast != after.autocast or not (module is not None and _holds_kernels(module))):
            self._add_leaf(path, f"{name} stays opaque: {what}, which a trace does not keep", where)
        else:
            self.notes.setdefault(
                (path, what),
                f"{path or name} ({where}): {what}, which the trace does not keep; put that part into its own "
                "submodule, or change its tensors instead (detach(), requires_grad_(False))",
            )

    def _leave_function(self, node: fx.Node, function: str) -> None:
        """A node inside the forward of an autograd function of the user's: the trace loses the backward."""
        module = self.contexts[-1][0]
        path = self.submodule_paths.get(module, "") if module is not None and self.submodule_paths else ""
        where = source_line(node)
        if path and module is not None and not _holds_kernels(module) and not _is_container(module):
            kind = type(module).__name__
            why = (
                f"{kind} stays opaque: it calls the autograd function {function}, whose backward a trace does not keep"
            )
            self._add_leaf(path, why, where)
        else:
            self.notes.setdefault(
                (path, function),
                f"{path or type(self.root).__name__} ({where}) calls the autograd function {function}: the trace keeps "
                "its forward, not its backward; call it in a submodule of its own that contains no convolution",
            )

    def keep_buffers(self, training: bool) -> None:
        """Make modules whose forward assigns a buffer leaves, because a graph cannot assign.

        Raises:
            UsageError: The model itself does so in eval mode.
        """
        for path, module in self.root.named_modules():
            for name, value in module._buffers.items():
                if not isinstance(value, fx.Proxy):
                    continue
                where = source_line(value.node)
                if training:
                    note = f"{path or 'the model'} ({where}): forward assigns the buffer {name} in training mode"
                    self.notes[path, name] = f"{note}; the trace has eval mode and does not do that"
                elif path and not _is_container(module):
                    self._add_leaf(
                        path,
                        f"{type(module).__name__} stays opaque: its forward assigns its buffer {name}, which a trace "
                        "does not keep",
                        where,
                    )
                else:
                    raise UsageError(
                        f"the forward of {type(self.root).__name__} assigns the buffer {name} at {where}, which a "
                        "trace does not keep: do that in its own submodule, or in training mode only",
                        where=where,
                        kind="buffer_assigned",
                    )

    def _add_leaf(self, path: str, reason: str, where: str) -> None:
        self.leaves.setdefault(path, Skipped(path, "untraceable", reason, where))
        self.added = True


def _asks_training(module: nn.Module) -> bool:
    return mentions_training(type(module).forward) and not _holds_kernels(module)


def _holds_kernels(module: nn.Module) -> bool:
    """Whether a module may contain a convolution, as a submodule or as a parameter for a functional call."""
    return any(isinstance(part, nn.modules.conv._ConvNd) for part in module.modules()) or any(
        is_kernel(parameter) for parameter in module.parameters()
    )


def trace_once(tracer: Tracer, model: nn.Module, concrete: dict[str, Any] | None) -> fx.Graph:
    """The graph of ``model`` with its optional arguments set to ``concrete``; source lines are recorded inside it."""
    return tracer.trace(model, concrete)


def _is_container(module: nn.Module) -> bool:
    """Whether a module is one of torch's own, such as ``nn.Sequential``; as a leaf it would hide half of a network."""
    return type(module).__module__.startswith("torch.nn.modules")


def forward_hooks(module: nn.Module) -> list[Callable[..., Any]]:
    """The forward hooks of a module; a trace would call them with proxies instead of tensors."""
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
