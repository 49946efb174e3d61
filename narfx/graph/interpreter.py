"""Running a graph node by node as its generated code would run it."""

from __future__ import annotations

from typing import Any

from torch import fx

__all__ = ["Interpreter"]


class Interpreter(fx.Interpreter):
    """Hands each call lists and dictionaries of its own.

    A graph holds immutable ones, and torch's interpreter passes those on; a detection head may write into the list
    that it is given.
    """

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The values of a node's arguments."""
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return tuple(map(_plain, args)), {name: _plain(value) for name, value in kwargs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if type(value) is tuple:
        return tuple(map(_plain, value))
    return value
