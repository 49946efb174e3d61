"""Modules without first weights: for those whose weights are loaded or only compared by their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Blank"]

_DRAWS = (Tensor.uniform_, Tensor.normal_)


class Blank(TorchFunctionMode):
    """Inside this context constructors draw no random parameters: a parameter keeps what its memory held.

    Drawing them takes longer than a forward pass of the network.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        draws = func in _DRAWS or getattr(func, "__module__", "") == nn.init.__name__
        return filled if draws and isinstance(filled, nn.Parameter) else func(*args, **kwargs)
