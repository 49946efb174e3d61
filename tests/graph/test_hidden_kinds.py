"""Names and helpers of torch's that a trace must see through: a parameter called ``inf``, checkpointing, autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import narfx
from narfx.graph.trace_parity import compare_trace

SHAPE = (3, 8, 8)


def _named(parameter: str) -> nn.Module:
    """A network whose forward has this parameter, and whose code needs the global names of a graph."""
    source = f"""
class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, {parameter}):
        y = self.b(F.relu(self.a({parameter})))
        y = torch.where(y != y, float("nan"), torch.clamp(y, max=float("inf")))
        return y[:, 0:4] + y.mT[:, 4:].to(torch.device("cpu"))
"""
    scope: dict[str, Any] = {"nn": nn, "F": F, "torch": torch}
    if parameter in scope:
        source = source.replace(f"{parameter}.", "t.").replace(f"self, {parameter}", f"self, {parameter}")
        scope["t"] = torch
    exec(source, scope)
    model: nn.Module = scope["Named"]()
    return model.eval()


@pytest.mark.parametrize(
    "parameter", ["inf", "nan", "device", "torch", "slice", "getattr", "operator", "input", "self_"]
)
def test_the_parameter_of_forward_may_have_any_name(parameter: str) -> None:
    model = _named(parameter)
    traced = narfx.trace(model, input=SHAPE)
    assert compare_trace(model, traced.graph_module, SHAPE) == []
    x = torch.randn(2, *SHAPE)
    assert torch.equal(traced.graph_module.eval()(x), model(x))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.block, self.reentrant = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()), reentrant

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            result: Tensor = self.block(x)
        else:
            result = checkpoint(self.block, x, use_reentrant=self.reentrant)
        return result


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_is_no_change_of_context(reentrant: bool) -> None:
    traced = narfx.trace(nn.Sequential(nn.Conv2d(3, 8, 3), Checkpointed(reentrant)), input=SHAPE)
    assert traced.notes == ()
    assert [slot.name for slot in traced.space.slots] == ["1.block.0"]
    with torch.no_grad():  # where gradients are off all around
        assert narfx.trace(nn.Sequential(nn.Conv2d(3, 8, 3), Checkpointed(reentrant)), input=SHAPE).notes == ()


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 100


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = Double.apply(x)
        return result


def test_an_autograd_function_keeps_its_backward_in_a_part_of_its_own() -> None:
    traced = narfx.trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), Doubles()), input=SHAPE)
    (entry,) = [entry for entry in traced.skipped if entry.code == "untraceable"]
    assert entry.name == "2" and "the autograd function Double, whose backward a trace does not keep" in entry.reason
    x = torch.randn(1, *SHAPE, requires_grad=True)
    traced.graph_module(x).sum().backward()
    twice = nn.Sequential(*list(traced.graph_module.children())[:2])
    plain = torch.autograd.grad(twice(x).sum(), x)[0]
    assert x.grad is not None and torch.allclose(x.grad, 100 * plain, rtol=1e-4, atol=1e-4)


def test_an_autograd_function_beside_convolutions_is_noted() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.b(Double.apply(self.a(x)))
            return result

    (note,) = narfx.trace(Net(), input=SHAPE).notes
    assert "autograd function Double" in note and "gradients off" not in note and "test_hidden_kinds.py:" in note


class Gate(nn.Module):
    """Opaque in eval mode; its parts are called in both modes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and x.sum() > 1e9:
            return x
        result: Tensor = self.inner(x.mean((2, 3)))[:, :, None, None] * x
        return result


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.gate = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), Gate()

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(self.b(self.a(x)))
        return x * 2 if self.training else x


def test_what_an_opaque_part_calls_is_not_said_to_be_called_in_training_only() -> None:
    notes = " ".join(narfx.trace(Gated(), input=SHAPE).notes)
    assert "not compute the same in training and eval mode" in notes
    assert "only training calls" not in notes
