"""The order of modules, parameters and buffers, which optimizer states and averages of weights go by."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["keep_order", "paths", "sort_like"]


def keep_order(part: nn.Module, source: nn.Module) -> None:
    """Give what a graph module (or a part of it) holds the order that it has in ``source``, in place.

    torch.fx registers modules and parameters in the order of their first use. What ``source`` does not hold comes
    last in its container.
    """
    for kind in ("_modules", "_parameters", "_buffers"):
        sort_like(part.__dict__[kind], source.__dict__[kind])
    for name, child in part._modules.items():
        like = source._modules.get(name)
        if child is not None and like is not None and child is not like:  # a container that torch.fx made
            keep_order(child, like)


def sort_like(entries: dict[str, Any], like: dict[str, Any]) -> None:
    """Sort a dictionary in place as another one; keys that the other lacks come last, in their own order."""
    for name in [*(name for name in like if name in entries), *(name for name in entries if name not in like)]:
        entries[name] = entries.pop(name)


def paths(module: nn.Module) -> list[str]:
    """The paths of all parts in their order: each module, then its own parameters and buffers, then its children."""
    found = []
    for path, part in module.named_modules(remove_duplicate=False):
        own = [*part._parameters, *part._buffers]
        found += [path, *(f"{path}.{name}" if path else name for name in own)]
    return found
