"""What the functions of the package ask of their arguments, said before Python says it in its own words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import fx, nn

from narfx.errors import UsageError
from narfx.support.text import article

__all__ = ["check_graph", "check_input", "check_model", "listed"]


def check_model(model: object) -> None:
    """Raise ``UsageError`` for what is no module: a reference, a function that builds one, a class."""
    if isinstance(model, nn.Module):
        return
    mend = "give the module that it builds" if callable(model) else "build the model first"
    if isinstance(model, str):
        mend = f"narfx.inputs.model_ref.load_model({model!r}) builds what a reference names"
    raise UsageError(f"trace takes a torch.nn.Module, not {article(model)}: {mend}", where="model", kind="not_a_module")


def check_input(input: object) -> None:
    """Raise ``UsageError`` for what is not three positive integers."""
    sizes = list(input) if isinstance(input, Sequence) and not isinstance(input, str) else []
    if len(sizes) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise UsageError(
            f"the input is channels, height and width, three positive integers, not {input!r:.80}",
            where="--input",
            kind="input_shape",
        )


def check_graph(network: object) -> None:
    """Raise ``UsageError`` for what is no traced network."""
    if not isinstance(network, fx.GraphModule):
        raise UsageError(
            f"export takes the torch.fx.GraphModule that narfx.lower gives, not {article(network)}",
            where="network",
            kind="not_a_graph",
        )


def listed(value: Any, option: str) -> tuple[Any, ...]:
    """The entries of an option that is a list; a text is none, though Python would go through its letters.

    Raises:
        UsageError: It is no list.
    """
    alone = isinstance(value, (str, int, Path))
    if alone or not isinstance(value, Iterable):
        mend = f": write [{value!r:.60}]" if alone else ""
        found = f"{value!r:.60}" if alone else article(value)
        raise UsageError(f"trace: {option} is a list, not {found}{mend}", where=option, kind="bad_option")
    return tuple(value)
