"""What the operators of a mixture have in common at their start is computed once: the ReLU before a convolution."""

from __future__ import annotations

from torch import nn

from narfx.operators.scaled_end import is_altered

__all__ = ["after_relu"]


def after_relu(operator: nn.Module) -> nn.Sequential | None:
    """What an operator does to the ReLU of its input; ``None`` where it does not begin so, or its call is altered.

    A convolution has to follow: it does not change in place what the other operators read too.
    """
    if type(operator) is not nn.Sequential or len(operator) < 2 or is_altered(operator, operator[0]):
        return None
    first, second = operator[0], operator[1]
    return operator[1:] if type(first) is nn.ReLU and not first.inplace and type(second) is nn.Conv2d else None
