"""Choose a device, and recognise errors about a missing device or exhausted memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from narfx.errors import UsageError
from narfx.support.text import first_line

if TYPE_CHECKING:
    import torch

__all__ = ["absent_device", "bf16_instructions", "is_out_of_memory", "pick_device"]

_OUT_OF_MEMORY = ("can't allocate memory", "std::bad_alloc", "Failed to allocate memory", "Cannot allocate memory")
_BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx_ne_convert": "AVX-NE-CONVERT", "bf16": "Arm's BF16"}
_WORDS = ("NVIDIA", "CUDA", "cuda device", "not compiled with")


def absent_device(error: BaseException) -> str | None:
    """The first line of torch's message if ``error`` is about a device that this machine lacks, else ``None``."""
    if not isinstance(error, (AssertionError, RuntimeError)) or _by_torch(error):
        return None
    text = str(error).strip()
    return first_line(error) if any(word in text for word in _WORDS) else None


def _by_torch(error: BaseException) -> bool:
    """Whether torch says that memory ran out; it can say so only if it is imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or on the CPU (then the class of the error varies)."""
    if isinstance(error, MemoryError) or _by_torch(error):
        return True
    return isinstance(error, Exception) and any(word in str(error)[:10_000] for word in _OUT_OF_MEMORY)


def bf16_instructions() -> list[str]:
    """The instructions for bfloat16 that this processor has and torch's kernels for CPUs use; often none."""
    import torch

    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return []  # where it is supported, a processor with AVX512 alone may still emulate it
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
    else:  # an older torch
        known = {"amx_bf16": torch.cpu._is_amx_tile_supported(), "avx512_bf16": torch.cpu._is_avx512_bf16_supported()}
    return [name for key, name in _BF16.items() if known.get(key)]


def pick_device(name: str) -> torch.device:
    """The torch device of that name; ``auto`` is CUDA if available, otherwise the CPU.

    Raises:
        UsageError: This machine does not have the device.
    """
    import torch  # takes seconds, and the command line needs the rest of this module

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"there is no device {name!r} here ({first_line(error)}): use auto, cpu, or a device of this machine",
            where="--device",
            kind="no_device",
        ) from error
    return device
