"""A model that asks for a device that is not here, told from one that is wrong."""

from __future__ import annotations

import torch

__all__ = ["absent_device"]

_WORDS = ("NVIDIA", "CUDA", "cuda device", "not compiled with")


def absent_device(error: BaseException) -> str | None:
    """What torch says where ``error`` is its answer to a device that this machine has not, else ``None``."""
    if not isinstance(error, (AssertionError, RuntimeError)) or isinstance(error, torch.OutOfMemoryError):
        return None
    text = str(error).strip()
    return text.splitlines()[0][:200] if any(word in text for word in _WORDS) else None
