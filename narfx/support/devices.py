"""What an error says of the device: that it is not here, or that its memory ran out."""

from __future__ import annotations

import torch

from narfx.errors import UsageError
from narfx.support.text import first_line

__all__ = ["absent_device", "is_out_of_memory", "pick_device"]

_WORDS = ("NVIDIA", "CUDA", "cuda device", "not compiled with")


def absent_device(error: BaseException) -> str | None:
    """What torch says where ``error`` is its answer to a device that this machine has not, else ``None``."""
    if not isinstance(error, (AssertionError, RuntimeError)) or isinstance(error, torch.OutOfMemoryError):
        return None
    text = str(error).strip()
    return first_line(error) if any(word in text for word in _WORDS) else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or (where torch raises a plain RuntimeError) on the CPU."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def pick_device(name: str) -> torch.device:
    """``auto`` is a CUDA device where there is one, else the CPU.

    Raises:
        UsageError: The device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"there is no device {name!r} here: {first_line(error)}", where="--device", kind="no_device"
        ) from error
    return device
