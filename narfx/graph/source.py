"""Find the file and line of the model's own code in a stack, as opposed to torch's and narfx's code."""

from __future__ import annotations

import linecache
import os
import sys
from functools import cache
from pathlib import Path
from types import CodeType

import torch

__all__ = ["is_model_code", "mentions_training", "model_stack", "users_line"]

_TORCH = str(Path(torch.__file__).parent) + os.sep
_OWN = {str(Path(__file__).with_name(name)) for name in ("proxies.py", "tracer.py", "tracing.py")}


@cache
def is_model_code(file: str) -> bool:
    """Whether a file is code of the model (torchvision's files are), not of torch or of narfx's tracer."""
    return not file.startswith((_TORCH, "<")) and file not in _OWN


def model_stack(outermost: CodeType) -> str:
    """The lines of the model's code on the current stack, inside a call of ``outermost``, formatted as a traceback."""
    lines: list[str] = []
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not outermost:
        file = frame.f_code.co_filename
        if is_model_code(file):
            code = linecache.getline(file, frame.f_lineno, frame.f_globals).strip()
            lines.append(f'  File "{file}", line {frame.f_lineno}, in {frame.f_code.co_name}\n    {code}')
        frame = frame.f_back  # type: ignore[assignment]
    return "\n".join(reversed(lines))


def users_line(error: BaseException) -> str:
    """``file:line`` of the innermost frame of an error that is in the model's code."""
    own, frame = "an unknown line", error.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if is_model_code(file):
            own = f"{file}:{frame.tb_lineno}"
        frame = frame.tb_next
    return own


@cache
def mentions_training(function: object) -> bool:
    """Whether the code of a function, or of a function of the model that it names, reads ``training``."""
    code = getattr(function, "__code__", None)
    if code is None or not is_model_code(code.co_filename):
        return code is not None and "training" in code.co_names
    return _speaks(code, getattr(function, "__globals__", {}), {code})


def _speaks(code: CodeType, scope: dict[str, object], seen: set[CodeType]) -> bool:
    # getattr(self, "training") has the name among its constants.
    if "training" in code.co_names or ("getattr" in code.co_names and "training" in code.co_consts):
        return True
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    named = [getattr(scope.get(name), "__code__", None) for name in code.co_names]
    for other in [*inner, *named]:
        if isinstance(other, CodeType) and other not in seen and is_model_code(other.co_filename):
            seen.add(other)
            if _speaks(other, scope, seen):
                return True
    return False
