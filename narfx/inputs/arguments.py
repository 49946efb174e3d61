"""Argument checks with clear error messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import fx, nn

from narfx.errors import UsageError
from narfx.support.text import article

__all__ = ["check_graph", "check_input", "check_model", "listed"]


def check_model(model: object) -> None:
    """Check that ``model`` is a module.

    Raises:
        UsageError: It is something else, for example a reference, a class or a function that builds a module.
    """
    if isinstance(model, nn.Module):
        return
    cure = "call it and give the module that it builds" if callable(model) else "build the model first"
    if isinstance(model, str):
        cure = f"build it with narfx.inputs.model_ref.load_model({model!r})"
    raise UsageError(f"trace takes a torch.nn.Module, not {article(model)}: {cure}", where="model", kind="not_a_module")


def check_input(input: object) -> None:
    """Check that ``input`` is three positive integers: channels, height and width of one sample.

    Raises:
        UsageError: It is something else.
    """
    sizes = list(input) if isinstance(input, Sequence) and not isinstance(input, str) else []
    if len(sizes) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise UsageError(
            f"the input must be three positive integers (channels, height, width), not {input!r:.80}",
            where="--input",
            kind="input_shape",
        )


def check_graph(network: object) -> None:
    """Check that ``network`` is a ``torch.fx.GraphModule``.

    Raises:
        UsageError: It is something else.
    """
    if not isinstance(network, fx.GraphModule):
        raise UsageError(
            f"export takes the torch.fx.GraphModule that narfx.lower returns, not {article(network)}",
            where="network",
            kind="not_a_graph",
        )


def listed(value: Any, option: str) -> tuple[Any, ...]:
    """The entries of an option that must be a list; a string is refused, because Python would iterate its letters.

    Raises:
        UsageError: It is not a list.
    """
    alone = isinstance(value, (str, int, Path))
    if alone or not isinstance(value, Iterable):
        cure = f": write [{value!r:.60}]" if alone else ""
        found = f"{value!r:.60}" if alone else article(value)
        raise UsageError(f"trace: {option} must be a list, not {found}{cure}", where=option, kind="bad_option")
    return tuple(value)
