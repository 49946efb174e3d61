"""What stands for a tensor during a trace: torch.fx's proxy, which can also be written into."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from torch import fx
from torch.fx.proxy import Attribute

__all__ = ["Proxy", "UntraceableError", "iterate"]


class UntraceableError(Exception):
    """Something that no trace records; the message says what to write instead."""


class _LengthError(TypeError, UntraceableError):
    """A ``TypeError``, with which Python goes on where it only wants to know how much memory ``tuple`` will need."""


class Proxy(fx.Proxy):
    """A proxy whose item assignment (``y[:, :2] = a``, ``y[:, :2] += a``) becomes a call of ``operator.setitem``.

    The call has no users. It writes when its turn in the graph comes, as in the model.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __len__(self) -> int:
        raise _LengthError(f"it asks for len({self.node.name}), which a trace does not know: write x.shape[0]")

    def __getattr__(self, k: str) -> Attribute:
        return _Attribute(self, k)

    def numel(self) -> fx.Proxy:
        """The number of values; in the forward of a convolution's own, a number that is known to be above zero."""
        count = self.tracer.create_proxy("call_method", "numel", (self,), {})
        return _AboveZero(count.node, self.tracer) if getattr(self.tracer, "in_convolution", False) else count


class _AboveZero(fx.Proxy):
    """A number of values that is not 0, because a batch has images: comparisons with 0 need no value."""

    def __eq__(self, other: object) -> Any:
        return False if _is_zero(other) else fx.Proxy.__eq__(self, other)

    def __ne__(self, other: object) -> Any:
        return True if _is_zero(other) else fx.Proxy.__ne__(self, other)

    def __gt__(self, other: object) -> Any:
        return True if _is_zero(other) else fx.Proxy.__gt__(self, other)  # type: ignore[operator]

    def __bool__(self) -> bool:
        return True

    __hash__ = fx.Proxy.__hash__


def _is_zero(value: object) -> bool:
    return isinstance(value, int) and value == 0


class _Attribute(Attribute):
    """An attribute of a proxy that can be written into, as ``y.data[:, :2] = a``."""

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


def iterate(proxy: fx.Proxy) -> Iterator[fx.Proxy]:
    """The items of a proxy where their number is known: ``x.shape[-2:]`` has two.

    Raises:
        UntraceableError: The number is not known.
    """
    node = proxy.node
    if node.op == "placeholder":
        raise UntraceableError(
            "forward iterates over its input, but narfx gives it one tensor of images (N, C, H, W): wrap the model in "
            "a module whose forward takes that tensor and gives the model what it iterates over"
        )
    shape = node
    while shape.target is operator.getitem and isinstance(shape.args[0], fx.Node):
        shape = shape.args[0]
    if not (shape.op == "call_method" and shape.target == "size") and shape.args[1:] != ("shape",):
        raise UntraceableError(
            f"it iterates over {node.name}, and a trace does not know how many items that has: index it, or unpack it "
            "into names (a, b = ...)"
        )
    key = node.args[1] if node.target is operator.getitem else None
    if isinstance(key, slice) and isinstance(key.start, int) and key.start < 0 and key.stop is key.step is None:
        return (proxy[index] for index in range(-key.start))  # type: ignore[index]
    raise UntraceableError(
        "it iterates over a shape, and a trace does not know how many axes that has: write each size out, as "
        "(x.shape[2], x.shape[3]) for tuple(x.shape[2:])"
    )
