"""Copies of modules: of all that they hold, or of their structure around the same parameters."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["computed_tensors", "copy_module", "copy_structure", "copy_to_meta"]

M = TypeVar("M", bound=nn.Module)


def copy_module(module: M, memo: dict[int, object] | None = None) -> M:
    """A deep copy, also of a module with a computed tensor in it (an old ``weight_norm``), which torch refuses.

    ``memo`` is that of :func:`copy.deepcopy`: what it holds stands in the copy for the object of that id.
    """
    return copy.deepcopy(module, computed_tensors(module) | (memo or {}))


def copy_structure(module: M) -> M:
    """A copy with modules and buffers of its own and the original's parameters: its size is that of the graph."""
    shared: dict[int, object] = {id(parameter): parameter for parameter in module.parameters()}
    return copy.deepcopy(module, computed_tensors(module) | shared)


def copy_to_meta(module: M) -> M:
    """A copy whose tensors have shapes but no values."""
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        for parameter in module.parameters()
    }
    for part in module.modules():
        for value in [*part._buffers.values(), *part.__dict__.values()]:
            if isinstance(value, Tensor):
                memo.setdefault(id(value), torch.empty_like(value, device="meta"))
    return copy.deepcopy(module, memo)


def computed_tensors(module: nn.Module) -> dict[int, object]:
    """A memo for the copy of a module that holds tensors with a history (old weight_norm), which torch does not copy.

    Their values do not matter: they are computed anew before each use.
    """
    return {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in part.__dict__.values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
