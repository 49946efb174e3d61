"""The contexts that change how torch computes and that torch.fx does not record: gradient mode and autocast."""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["Context", "current_context", "describe_change"]


class Context(NamedTuple):
    """Whether gradients are on, and for CPU and CUDA the dtype of autocast (``None`` if autocast is off)."""

    gradients: bool
    autocast: tuple[torch.dtype | None, ...]


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
