"""Which file and line of a stack belongs to the model, and not to torch or to narfx."""

from __future__ import annotations

import os
from pathlib import Path

import torch

__all__ = ["is_model_code"]

_TORCH = str(Path(torch.__file__).parent) + os.sep
_TRACER = str(Path(__file__).with_name("tracing.py"))


def is_model_code(file: str) -> bool:
    """Whether a line of this file says something about the model to its author (torchvision's files do)."""
    return not file.startswith((_TORCH, "<")) and file != _TRACER
