"""What an error says of the device: that it is not here, or that its memory ran out."""

from __future__ import annotations

import torch

__all__ = ["absent_device", "is_out_of_memory"]

_WORDS = ("NVIDIA", "CUDA", "cuda device", "not compiled with")


def absent_device(error: BaseException) -> str | None:
    """What torch says where ``error`` is its answer to a device that this machine has not, else ``None``."""
    if not isinstance(error, (AssertionError, RuntimeError)) or isinstance(error, torch.OutOfMemoryError):
        return None
    text = str(error).strip()
    return text.splitlines()[0][:200] if any(word in text for word in _WORDS) else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or (where torch raises a plain RuntimeError) on the CPU."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
