"""A mixture whose operators are scaled by their last layer gives what weights on their outputs give."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from narfx.operators.dispatch import Dispatch
from narfx.operators.scaled_end import scalable_end

C = 4


def _twice() -> nn.Module:
    conv = nn.Conv2d(C, C, 1)
    return nn.Sequential(conv, nn.ReLU(), conv)


def _inside() -> nn.Module:
    conv = nn.Conv2d(C, C, 1)
    return nn.Sequential(nn.Sequential(nn.ReLU(), conv), conv)


def _hooked() -> nn.Module:
    conv = nn.Conv2d(C, C, 1)
    conv.register_forward_hook(lambda module, inputs, output: output.clamp(min=0))
    return nn.Sequential(nn.ReLU(), conv)


class _Own(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


SCALED: dict[str, Callable[[], nn.Module]] = {
    "a convolution": lambda: nn.Conv2d(C, C, 3, padding=1, padding_mode="reflect"),
    "no bias": lambda: nn.Conv2d(C, C, 3, padding=1, bias=False),
    "a pool and 1x1": lambda: nn.Sequential(OrderedDict(pool=nn.MaxPool2d(3, 1, 1), pointwise=nn.Conv2d(C, C, 1))),
    "a norm": lambda: nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)),
    "a norm without scale": lambda: nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.BatchNorm2d(C, affine=False)),
    "nested": lambda: nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C, momentum=None))),
}
PLAIN: dict[str, Callable[[], nn.Module]] = {
    "an identity": nn.Identity,
    "a ReLU at the end": lambda: nn.Sequential(nn.Conv2d(C, C, 1), nn.ReLU()),
    "the same layer twice": _twice,
    "the same layer inside": _inside,
    "a hook": _hooked,
    "a convolution of one's own": lambda: _Own(C, C, 1),
    "a norm without anything": lambda: nn.BatchNorm2d(C, affine=False, track_running_stats=False),
    "an empty sequence": nn.Sequential,
}
ALL = {**SCALED, **PLAIN}


def test_only_what_is_linear_at_its_end_is_scaled_there() -> None:
    assert [name for name, make in ALL.items() if scalable_end(make()) is not None] == [*SCALED]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("learned", [True, False])
def test_it_is_the_weighted_sum_with_its_gradients(training: bool, learned: bool) -> None:
    torch.manual_seed(0)
    node = Dispatch({name: make() for name, make in ALL.items()}).double().train(training)
    for norm in (module for module in node.modules() if isinstance(module, nn.BatchNorm2d) and module.affine):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    known = copy.deepcopy(node)
    weights = torch.linspace(0.1, 0.9, len(ALL))  # of another type than the operators
    ours, theirs = (weights.clone().requires_grad_(learned) for _ in range(2))
    x = torch.randn(3, C, 5, 5, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()

    node.select(*ALL, weights=[*ours] if learned else ours.tolist())
    total = node(x)
    expected = torch.stack([w * known.candidates[name](y) for w, name in zip(theirs, ALL, strict=True)]).sum(0)
    torch.testing.assert_close(total, expected)
    total.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    if learned:
        torch.testing.assert_close(ours.grad, theirs.grad)
    for (name, one), other in zip(node.named_parameters(), known.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)
    for (name, buffer), expected_buffer in zip(node.named_buffers(), known.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected_buffer, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(node.eval()(x), sum(
            float(w) * known.eval().candidates[name](x) for w, name in zip(weights, ALL, strict=True)
        ))  # fmt: skip


def test_one_operator_with_weight_one_is_that_operator_and_not_its_own_tensor() -> None:
    node = Dispatch({"identity": nn.Identity(), "conv": nn.Conv2d(C, C, 1)})
    x = torch.randn(1, C, 2, 2)
    node.select("identity", weights=[1.0])
    assert torch.equal(node(x), x)
    assert node(x) is not x and node(x).data_ptr() != x.data_ptr()
    node.select("conv", weights=[1.0])
    assert torch.equal(node(x), node.candidates["conv"](x))


def test_an_operator_that_fails_keeps_its_parameters() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    end = nn.BatchNorm2d(C, affine=False)
    conv = nn.Conv2d(C, C, 1)
    node = Dispatch({"base": nn.Sequential(Fails(), end), "other": nn.Sequential(Fails(), conv)})
    for name in ("base", "other"):
        node.select(name, weights=[0.5])
        with pytest.raises(Exception, match="no"):
            node(torch.zeros(1, C, 2, 2))
    assert end.weight is None and end.bias is None and isinstance(conv.weight, nn.Parameter)
    assert [*conv.state_dict()] == ["weight", "bias"] and not conv.weight.grad_fn
