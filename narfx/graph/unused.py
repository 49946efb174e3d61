"""Parts of a model that its graph does not use: auxiliary heads in eval mode, parameters that no forward reads.

A trace keeps such parts without calling them, so that checkpoints of the model still load. They are not counted in the
cost, and not written into a bundle.
"""

from __future__ import annotations

from torch import fx, nn

__all__ = ["drop_unused", "keep_unused", "unused_keys"]


def keep_unused(graph_module: fx.GraphModule, source: nn.Module) -> list[str]:
    """Add the parts that only ``source`` has to the graph module, in place, as the same objects.

    Returns:
        The keys of ``source``'s state dict that the graph does not use, without further names of tensors in use.
    """
    held, state = graph_module.state_dict(keep_vars=True), source.state_dict(keep_vars=True)
    keys = [key for key in state if key not in held]
    for key in keys:
        *parents, name = key.split(".")
        ours: nn.Module = graph_module
        theirs = source
        for parent in parents:
            theirs = theirs.get_submodule(parent)
            if parent not in ours._modules:
                if not hasattr(ours, parent):  # the name may be an attribute of GraphModule
                    ours.add_module(parent, theirs)
                break
            ours = ours.get_submodule(parent)
        else:
            if name in theirs._parameters and not hasattr(ours, name):
                ours.register_parameter(name, theirs._parameters[name])
            elif name in theirs._buffers and not hasattr(ours, name):
                ours.register_buffer(name, theirs._buffers[name])
    used = set(map(id, held.values()))
    return [key for key in keys if id(state[key]) not in used]


def unused_keys(graph_module: fx.GraphModule) -> set[str]:
    """The keys of the state dict that no node of the graph calls or reads."""
    used = _used(graph_module)
    return {key for key in graph_module.state_dict() if used.isdisjoint(_paths(key))}


def drop_unused(graph_module: fx.GraphModule) -> None:
    """Remove from the graph module, in place, the parts that its graph does not use."""
    used = _used(graph_module)
    _prune(graph_module, "", used, {path for target in used for path in _paths(target)})


def _prune(module: nn.Module, prefix: str, used: set[str], around: set[str]) -> None:
    for name, child in list(module._modules.items()):
        path = prefix + name
        if path in used:
            continue
        if path in around and child is not None:
            _prune(child, f"{path}.", used, around)
        else:
            del module._modules[name]
    for tensors in (module._parameters, module._buffers):
        for name in [name for name in tensors if prefix + name not in used]:
            del tensors[name]


def _used(graph_module: fx.GraphModule) -> set[str]:
    return {str(node.target) for node in graph_module.graph.nodes if node.op in ("call_module", "get_attr")}


def _paths(key: str) -> list[str]:
    """``a.b.c`` as ``a``, ``a.b`` and ``a.b.c``."""
    parts = key.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]
