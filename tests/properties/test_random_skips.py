"""The laws of the skip domain, on residual chains and joint vectors that are drawn at random."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_networks import images, settled
from torch import Tensor, nn

import narfx
from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.graph.cost import measure
from narfx.operators.dispatch import Shortcut, SkipGate
from narfx.passes import InsertSkips, Lower, verify_lowered

SIDE = 8
STYLES = ["x + y", "y + x", "y += x", "y.add_(x)", "torch.add", "nothing"]
SHORTCUTS = ["projection", "pool and projection", "padding", "bare", "bare", "bare"]


class Unit(nn.Module):
    """A convolution, with the norm before or behind it, or none."""

    def __init__(self, channels: int, out: int, order: str, act: str, **conv: Any) -> None:
        super().__init__()
        self.order = order
        self.conv = nn.Conv2d(channels, out, **{"kernel_size": 3, "padding": 1, **conv})
        self.norm = nn.BatchNorm2d(channels if order == "norm first" else out)
        self.act = {"relu": nn.ReLU(), "inplace": nn.ReLU(inplace=True), "none": nn.Identity()}[act]

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "norm first":
            made: Tensor = self.conv(torch.relu(self.norm(x)))
            return made
        x = self.conv(x)
        activated: Tensor = self.act(self.norm(x) if self.order == "norm" else x)
        return activated


class Block(nn.Module):
    """A body and what goes around it."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None, style: str, after: str, drop: float) -> None:
        super().__init__()
        self.body, self.shortcut, self.style = body, shortcut, style
        self.drop = nn.Dropout(drop)
        self.after = {"relu": nn.ReLU(), "inplace": nn.ReLU(inplace=True), "none": nn.Identity()}[after]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop(self.body(x))
        if self.style == "nothing":
            return y
        side = x if self.shortcut is None else self.shortcut(x)
        if self.style == "y += x":
            y += side
        elif self.style == "y.add_(x)":
            y = y.add_(side)
        elif self.style == "torch.add":
            y = torch.add(y, side)
        else:
            y = side + y if self.style == "x + y" else y + side
        activated: Tensor = self.after(y)
        return activated


class Padding(nn.Module):
    """The shortcut without parameters (He et al. 2016, option A)."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


class Excite(nn.Module):
    """Squeeze and excitation: convolutions on no main path."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Beside(nn.Module):
    """Another convolution beside the main path, concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(channels, 4, 1), nn.Conv2d(channels, channels - 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


def shortcut(kind: str, channels: int, out: int, stride: int) -> nn.Module | None:
    if kind == "bare" and channels == out and stride == 1:
        return None
    if kind == "padding" and out >= channels:
        return Padding(out - channels, stride)
    if kind == "pool and projection":
        return nn.Sequential(
            nn.AvgPool2d(stride, stride, ceil_mode=True), nn.Conv2d(channels, out, 1), nn.BatchNorm2d(out)
        )
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


@st.composite
def chains(draw: st.DrawFn) -> nn.Module:
    """A stem and blocks of one to three units, with a head or without."""
    channels, size = 6, SIDE
    acts, orders = ["relu", "inplace", "none"], ["norm", "norm", "norm first", "none"]
    parts: list[nn.Module] = [Unit(3, channels, draw(st.sampled_from(["norm", "none"])), draw(st.sampled_from(acts)))]
    for _ in range(draw(st.integers(1, 4))):
        body: list[nn.Module] = []
        first = channels
        out = draw(st.sampled_from([channels, channels, 6, 8]))
        stride = draw(st.sampled_from([1, 1, 2])) if size > 2 else 1
        for index in range(draw(st.integers(1, 3))):
            geometry = {"stride": stride if index == 0 else 1, "bias": draw(st.booleans())}
            body.append(
                Unit(channels, out, draw(st.sampled_from(orders)), draw(st.sampled_from(acts)), **geometry)
            )  # fmt: skip
            channels = out
        if draw(st.integers(0, 4)) == 0:
            body.append(draw(st.sampled_from([Excite(out), Beside(out)])))
        style, kind = draw(st.sampled_from(STYLES)), draw(st.sampled_from(SHORTCUTS))
        if style in ("y += x", "y.add_(x)") or draw(st.integers(0, 3)) == 0:
            body.append(nn.Conv2d(out, out, 1))  # its output is added as it is
        side = shortcut(kind, first, out, stride)
        parts.append(
            Block(nn.Sequential(*body), side, style, draw(st.sampled_from(acts)), draw(st.sampled_from([0.0, 0.5])))
        )
        size = -(-size // stride)
        if size > 4 and draw(st.integers(0, 4)) == 0:
            parts.append(nn.Conv2d(channels, channels, 3))  # no stride takes a map from 8x8 to 6x6
            size -= 2
        if size > 3 and draw(st.integers(0, 4)) == 0:
            parts.append(nn.MaxPool2d(2))
            size //= 2
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)] if draw(st.booleans()) else []
    return settled(nn.Sequential(*parts, *head), seed=draw(st.integers(0, 99)))


def opened(network: nn.Module, **options: Any) -> Traced:
    return narfx.trace(network, input=(3, SIDE, SIDE), search_skips=True, **options)


def joint(traced: Traced, seed: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.choice(slot.legal) for slot in traced.space.slots)


def train_step(network: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output in training mode and the gradients of the base's parameters, by sum, whatever they are called."""
    torch.manual_seed(1)
    network.zero_grad(set_to_none=True)
    output = network(x.clone())
    output.square().sum().backward()
    return output.detach(), {str(n): b.clone() for n, b in network.named_buffers() if n.endswith("running_mean")}


def check_laws(network: nn.Module, data: st.DataObject) -> None:
    options = {
        "include_first": data.draw(st.booleans()),
        "skips_from_input": data.draw(st.booleans()),
        "granularity": data.draw(st.sampled_from(["conv", "block"])),
    }
    x = images(4, 3, SIDE, SIDE)
    try:
        traced = opened(network, **options)
    except UsageError as error:
        assert error.kind in ("no_main_path", "no_skips") and len(str(error)) > 20
        return
    domain, space = traced.skips, traced.space
    assert domain is not None
    nodes, first = len(domain.nodes) - 1, 0 if options["skips_from_input"] else 1
    possible = {(c.skip.source, c.skip.target) for c in domain.candidates}
    everything = {(t, j) for j in range(1, nodes + 1) for t in range(first, j - 1)}
    assert possible | set(domain.impossible) == everything and not possible & set(domain.impossible)
    assert all(domain.impossible.values()) and all(entry.reason for entry in domain.fixed)

    net = Supernet(traced, separate_norms=data.draw(st.booleans())).eval()
    with torch.no_grad():
        assert torch.equal(net(x.clone()), network(x.clone()))
    code = net.graph_module.code
    assert not InsertSkips(domain)(net.graph_module).modified
    assert net.graph_module.code == code
    unchanged = narfx.lower(net, space.base)
    assert unchanged.code == traced.graph_module.code
    assert set(unchanged.state_dict()) == set(traced.graph_module.state_dict())
    assert not Lower(space, space.base)(unchanged).modified

    base = copy.deepcopy(traced.graph_module).train()
    before = copy.deepcopy(net.state_dict())
    ours, theirs = train_step(net.train(), x), train_step(base, x)
    assert torch.equal(ours[0], theirs[0])
    lowered = narfx.lower(net, space.base)
    for name, mean in theirs[1].items():
        assert torch.equal(lowered.get_buffer(name), mean)
    idle = {id(p) for p in net.parameters()} - {id(p) for p in net.active_parameters()}
    assert all(p.grad is None for p in net.parameters() if id(p) in idle)
    net.load_state_dict(before)
    net.eval()

    for seed in data.draw(st.lists(st.integers(0, 2**16), min_size=3, max_size=3)):
        vector = joint(traced, seed)
        net.set_vector(vector)
        lowered = narfx.lower(net, vector)
        assert verify_lowered(lowered, traced.dropped) == []
        assert not any(isinstance(module, (Shortcut, SkipGate)) for module in lowered.modules())
        with torch.no_grad():
            assert torch.equal(net(x.clone()), lowered(x.clone()))
        assert space.cost(vector) == measure(lowered, traced.input)
        assert space.read(space.describe(vector)) == vector
        unread = [n for n in lowered.graph.nodes if not n.users and n.op != "output"]
        assert {n.name for n in unread} <= {n.name for n in traced.graph_module.graph.nodes if not n.users}
        again = copy.deepcopy(lowered)
        with torch.no_grad():
            assert torch.equal(again(x.clone()), lowered(x.clone()))


@settings(max_examples=12)
@given(network=chains(), data=st.data())
def test_laws_hold_on_random_chains(network: nn.Module, data: st.DataObject) -> None:
    check_laws(network, data)


@pytest.mark.slow
@settings(max_examples=200)
@given(network=chains(), data=st.data())
def test_laws_hold_on_many_random_chains(network: nn.Module, data: st.DataObject) -> None:
    check_laws(network, data)
