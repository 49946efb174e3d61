"""The contexts that change how torch computes and that torch.fx does not record: gradient mode and autocast.

Torch runs the forward of a ``torch.autograd.Function`` without gradients and adds the gradient itself; checkpointing is
such a function. So this is not a context that the model chose.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple

import torch

__all__ = ["Context", "current_context", "describe_change", "running_function"]


class Context(NamedTuple):
    """Whether gradients are on, and for CPU and CUDA the dtype of autocast (``None`` if autocast is off)."""

    gradients: bool
    autocast: tuple[torch.dtype | None, ...]


def running_function(outermost: CodeType) -> type | None:
    """The innermost autograd function whose forward is being run, inside a call of ``outermost``."""
    forwards = {getattr(kind.forward, "__code__", None): kind for kind in _functions(torch.autograd.Function)}
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not outermost:
        if frame.f_code in forwards:
            return forwards[frame.f_code]
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _functions(kind: type[torch.autograd.Function]) -> Iterator[type[torch.autograd.Function]]:
    for function in kind.__subclasses__():
        if "forward" in vars(function):
            yield function
        yield from _functions(function)


def current_context() -> Context:
    """The contexts that are active now."""
    return Context(
        torch.is_grad_enabled(),
        tuple(
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            for device in ("cpu", "cuda")
        ),
    )


def describe_change(before: Context, after: Context) -> str:
    """A clause on what a module changes, for messages."""
    said = []
    if before.gradients != after.gradients:
        said.append(f"it turns gradients {'on' if after.gradients else 'off'}")
    if before.autocast != after.autocast:
        said.append(f"it turns autocast {'on' if any(after.autocast) else 'off'}")
    return " and ".join(said)
