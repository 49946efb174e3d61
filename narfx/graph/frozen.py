"""Parts that a model's own ``train()`` keeps in eval mode, as ``norm_eval`` in mmcv's backbones freezes BatchNorms.

A traced graph has the ``train()`` of ``nn.Module``, so its parts carry a mark, which copies and lowered networks keep.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType

from torch import nn

from narfx.graph.copying import copy_module

__all__ = ["MARK", "frozen_parts", "is_frozen", "mark_frozen", "train_mode"]

MARK = "narfx_frozen"


def frozen_parts(model: nn.Module) -> list[str]:
    """The paths of what is in eval mode after ``model.train()``; the model is not changed."""
    if not any(_own_train(type(module)) for module in model.modules()):
        return []
    copied = copy_module(model)  # the user's method may do more than set modes
    copied.train()
    return [path for path, module in copied.named_modules() if path and not module.training]


def _own_train(kind: type[nn.Module]) -> bool:
    return isinstance(kind.train, FunctionType) and not kind.train.__module__.startswith("torch.")


def mark_frozen(root: nn.Module, paths: Iterable[str]) -> None:
    """Mark these parts of a network, in place, where it has them."""
    parts = dict(root.named_modules(remove_duplicate=False))
    for path in paths:
        if path in parts:
            setattr(parts[path], MARK, True)


def is_frozen(module: nn.Module) -> bool:
    """Whether a module carries the mark."""
    return bool(getattr(module, MARK, False))


def train_mode(network: nn.Module) -> None:
    """``network.train()``, with the frozen parts in eval mode."""
    network.train()
    for part in network.modules():
        if is_frozen(part):
            part.training = False
