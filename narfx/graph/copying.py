"""Copies of modules: complete, of the structure around the same parameters, or on the meta device.

:func:`copy.deepcopy` uses the pickle protocol, with a dozen dictionaries for each layer; for thousands of layers that
takes longer than tracing. The standard parts of an ``nn.Module`` are copied here directly, and only the rest goes
to ``deepcopy``.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import BuiltinFunctionType, FunctionType, NoneType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from narfx.graph.order import sort_like

__all__ = ["copy_module", "copy_structure", "copy_to_meta"]

M = TypeVar("M", bound=nn.Module)
Memo = dict[int, Any]

_ATOMS = frozenset(
    (NoneType, bool, int, float, complex, str, bytes, type, FunctionType, BuiltinFunctionType, torch.dtype)
)

_DICTS = (dict, OrderedDict)

# __setstate__ of convolutions only adds attributes that old checkpoints lack.
_PLAIN = (nn.Module.__setstate__, nn.modules.conv._ConvNd.__setstate__)


def copy_module(module: M, memo: Memo | None = None) -> M:
    """A deep copy; also of a module that holds a computed tensor (an old ``weight_norm``), which torch refuses.

    ``memo`` is as in :func:`copy.deepcopy`: it maps the id of an object to the object that replaces it in the copy.
    """
    copied: M = _copy_any(module, {} if memo is None else memo)
    return copied


def copy_structure(module: M) -> M:
    """A copy with its own modules and buffers that shares the original's parameters, so it needs little memory."""
    return copy_module(module, {id(parameter): parameter for parameter in module.parameters()})


def copy_to_meta(module: M) -> M:
    """A copy on the meta device: its tensors have shapes but no values."""
    memo: Memo = {
        id(parameter): nn.Parameter(_like(parameter), parameter.requires_grad) for parameter in module.parameters()
    }
    for part in module.modules():
        for value in [*part._buffers.values(), *part.__dict__.values()]:
            if isinstance(value, Tensor):
                memo.setdefault(id(value), _like(value))
    return copy_module(module, memo)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _copy_any(value: Any, memo: Memo) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in _DICTS:
        copied = memo[id(value)] = kind()
        for key, entry in value.items():
            copied[key if type(key) is str else _copy_any(key, memo)] = _copy_any(entry, memo)
        return copied
    if kind is set and not value:
        return set()
    if kind is tuple:
        if all(type(entry) in _ATOMS for entry in value):
            return value
        entries = [_copy_any(entry, memo) for entry in value]
        return memo.setdefault(id(value), tuple(entries))  # a tuple may contain itself through a list
    if kind is list:
        listed: list[Any] = memo.setdefault(id(value), [])
        listed += [_copy_any(entry, memo) for entry in value]
        return listed
    if isinstance(value, nn.Module):
        return _copy_part(value, memo)
    if isinstance(value, Tensor) and value.grad_fn is not None:
        # Its value does not matter: a computed tensor is recomputed before each use.
        return memo.setdefault(id(value), value.detach().clone())
    return copy.deepcopy(value, memo)


def _keep_names(module: nn.Module, copied: nn.Module, memo: Memo) -> None:
    """Add further names of a part, which torch's own copy of a GraphModule leaves out, at their place in the order."""
    for kind in ("_modules", "_parameters", "_buffers"):
        own = copied.__dict__[kind]
        for name, value in module.__dict__[kind].items():
            if name not in own:
                own[name] = _copy_any(value, memo)
        sort_like(own, module.__dict__[kind])


def _copy_part(module: nn.Module, memo: Memo) -> nn.Module:
    kind = type(module)
    if (
        hasattr(kind, "__deepcopy__")
        or kind.__reduce_ex__ is not object.__reduce_ex__
        or kind.__getstate__ is not nn.Module.__getstate__
        or kind.__setstate__ not in _PLAIN
    ):
        # The class has its own way of copying; it finds its parts, already copied, in the memo.
        for child in module.children():
            _copy_any(child, memo)
        whole: nn.Module = copy.deepcopy(module, memo)
        if isinstance(module, GraphModule):
            _keep_names(module, whole, memo)
        return whole
    copied = memo[id(module)] = kind.__new__(kind)
    own = copied.__dict__
    for key, value in module.__dict__.items():
        # Most attributes are numbers or empty dictionaries of hooks: a function call for each would dominate the time.
        of = type(value)
        own[key] = value if of in _ATOMS else of() if of in _DICTS and not value else _copy_any(value, memo)
    return copied
