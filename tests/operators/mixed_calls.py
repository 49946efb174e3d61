"""What the tests of mixtures compare with, and a count of what is computed."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from narfx.operators.dispatch import Dispatch


class Calls(TorchDispatchMode):
    """Counts the calls of torch functions whose names contain a word."""

    def __init__(self, word: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.word, self.count = word, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += self.word in str(function)
        return function(*args, **kwargs or {})


def weighted(node: Dispatch, weights: Tensor, x: Tensor) -> Tensor:
    return torch.stack([w * node.candidates[name](x) for w, name in zip(weights, node.candidates, strict=True)]).sum(0)


def assert_the_weighted_sum(operators: dict[str, nn.Module], shape: tuple[int, ...], seed: int) -> None:
    """The mixture's output, and its gradients to weights, parameters and input, in float64."""
    node = Dispatch(operators).double()
    known = copy.deepcopy(node)
    ours, theirs = (torch.linspace(-0.5, 1, len(operators)).double().requires_grad_() for _ in range(2))
    x, y = (torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed)).double() for _ in range(2))
    x.requires_grad_(), y.requires_grad_()
    node.select(*node.candidates, weights=[*ours])
    total, expected = node(x), weighted(known, theirs, y)
    torch.testing.assert_close(total, expected)
    total.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.grad, theirs.grad)
    for (name, one), other in zip(node.named_parameters(), known.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(node(x), expected.detach())
