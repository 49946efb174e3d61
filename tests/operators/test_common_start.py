"""Operators of a mixture that begin with a ReLU share it."""

from __future__ import annotations

import pytest
import torch
from mixed_calls import Calls, assert_the_weighted_sum
from torch import nn

from narfx.errors import UsageError
from narfx.operators.common_start import after_relu
from narfx.operators.dispatch import Dispatch

C = 4


def separable(kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(C, C, kernel, padding=kernel // 2, groups=C, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.Conv2d(C, C, 1), nn.BatchNorm2d(C, affine=False))


def hooked() -> nn.Sequential:
    operator = separable(3)
    operator.register_forward_hook(lambda module, inputs, output: output * 2)
    return operator


def watched() -> nn.Sequential:
    operator = separable(3)
    operator[0].register_forward_hook(lambda module, inputs, output: output * 2)
    return operator


def test_it_is_computed_once_and_the_sum_and_its_gradients_are_the_same() -> None:
    torch.manual_seed(0)
    others = {"skip": nn.Identity(), "hooked": hooked(), "pool": nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 1, 1))}
    operators: dict[str, nn.Module] = {"sep3": separable(3), "sep5": separable(5), "sep7": separable(7), **others}
    node = Dispatch(operators)
    node.select(*operators, weights=[0.5] * 6)
    with Calls("relu") as seen, torch.no_grad():
        node(torch.zeros(3, C, 5, 5))
    assert seen.count == 1 + 1 + 1  # one for three operators, that of the hooked one and that before the pool
    assert_the_weighted_sum(operators, (C, 5, 5), 0)


@pytest.mark.parametrize(
    "operator",
    [
        nn.ReLU(),
        nn.Sequential(nn.ReLU()),
        nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(C, C, 1)),
        nn.Sequential(nn.ReLU6(), nn.Conv2d(C, C, 1)),
        nn.Sequential(nn.ReLU(), nn.ReLU(inplace=True)),
        hooked(),
        watched(),
    ],
)
def test_other_beginnings_are_their_own(operator: nn.Module) -> None:
    assert after_relu(operator) is None


def test_an_operator_of_the_user_that_fails_after_it_is_named() -> None:
    wrong = nn.Sequential(nn.ReLU(), nn.Conv2d(C + 1, C, 1))
    node = Dispatch({"base": separable(3), "mine": wrong}, site="body.3")
    node.select("base", "mine", weights=[0.5, 0.5])
    with pytest.raises(UsageError, match=r"operator mine fails at body\.3 on 2x4x5x5"):
        node(torch.zeros(2, C, 5, 5))
