"""The laws of the compiler, on networks and vectors that are drawn at random."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_networks import images, settled
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import narfx
from narfx.bundle.onnx.write import compare_onnx, export_onnx
from narfx.compiler.supernet import Supernet
from narfx.errors import NothingToRefineError
from narfx.graph.cost import measure
from narfx.passes import verify_lowered

OPERATORS = ("base", "dwsep3x3", "maxpool3x3", "avgpool3x3", "conv5x5", "dwsep5x5")
SIDE = 12


class Functional(nn.Module):
    """The convolution without a module of its own, and a dropout that asks the mode."""

    def __init__(self, **conv: Any) -> None:
        super().__init__()
        like = nn.Conv2d(**conv)
        self.weight, self.bias = like.weight, like.bias
        self.options = {name: getattr(like, name) for name in ("stride", "padding", "dilation", "groups")}

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv2d(x, self.weight, self.bias, **self.options)
        return nn.functional.dropout(x, 0.5, training=self.training)


class Unit(nn.Module):
    """A convolution of any geometry, however it is written, with or without a norm and an activation."""

    def __init__(self, conv: dict[str, Any], norm: bool, act: str, way: str = "module") -> None:
        super().__init__()
        self.conv = Functional(**conv) if way == "functional" else nn.Conv2d(**conv)
        if way == "parametrized":
            parametrizations.weight_norm(self.conv)
        self.norm = nn.BatchNorm2d(conv["out_channels"]) if norm else None
        self.act = {"relu": nn.ReLU(), "inplace": nn.ReLU(inplace=True), "none": nn.Identity()}[act]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        activated: Tensor = self.act(x if self.norm is None else self.norm(x))
        return activated


class Residual(nn.Module):
    """A body and a skip: plain, scaled by a parameter, or added in place."""

    def __init__(self, body: nn.Module, channels: int, style: str) -> None:
        super().__init__()
        self.body, self.style = body, style
        self.scale = nn.Parameter(torch.ones(channels, 1, 1)) if style == "scaled" else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        if self.style == "inplace":
            y += x
            return y
        return y + x if self.scale is None else torch.add(y * self.scale, x)


class Dense(nn.Module):
    """Each layer reads all that came before it."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        return torch.cat(found, 1)


class Branches(nn.Module):
    """Branches of one input, put side by side or added up."""

    def __init__(self, branches: Sequence[nn.Module], add: bool) -> None:
        super().__init__()
        self.branches, self.add = nn.ModuleList(branches), add

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = [branch(x) for branch in self.branches]
        if not self.add:
            return torch.cat(outputs, 1)
        total = outputs[0]
        for output in outputs[1:]:
            total = total + output
        return total


class Repeat(nn.Module):
    """One module called several times."""

    def __init__(self, again: nn.Module, times: int) -> None:
        super().__init__()
        self.again, self.times = again, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.again(x)
        return x


class Headed(nn.Module):
    def __init__(self, body: nn.Module, head: nn.Module | None, pair: bool) -> None:
        super().__init__()
        self.body, self.head, self.pair = body, head, pair

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features: Tensor = self.body(x)
        output: Tensor = features if self.head is None else self.head(features.mean((2, 3)))
        return (output, features) if self.pair else output


@st.composite
def units(draw: st.DrawFn, channels: int, out: int | None = None) -> tuple[nn.Module, int]:
    """A unit that keeps the size of the map, and its channels."""
    out = out or draw(st.sampled_from([4, 6, 8, 12]))
    kernel, dilation = draw(st.sampled_from([(3, 1), (3, 1), (3, 1), (3, 2), (1, 1)]))
    conv = {
        "in_channels": channels,
        "out_channels": out,
        "kernel_size": kernel,
        "padding": draw(st.sampled_from([dilation * (kernel - 1) // 2, "same"])),
        "dilation": dilation,
        "groups": draw(st.sampled_from([g for g in (1, 1, 2, 4, channels) if channels % g == 0 == out % g])),
        "bias": draw(st.booleans()),
        "padding_mode": draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"])),
    }
    ways = ["module", "module", "parametrized"] + ["functional"] * (conv["padding_mode"] == "zeros")
    way = draw(st.sampled_from(ways))
    if way == "functional":
        del conv["padding_mode"]
    return Unit(conv, draw(st.booleans()), draw(st.sampled_from(["relu", "inplace", "none"])), way), out


@st.composite
def shrinking(draw: st.DrawFn, channels: int, size: int) -> tuple[nn.Module, int]:
    """A unit that makes the map smaller, and its channels."""
    dilation = draw(st.sampled_from([1, 2])) if size > 7 else 1
    conv = {
        "in_channels": channels,
        "out_channels": 8,
        "kernel_size": 3,
        "stride": draw(st.sampled_from([1, 2])),
        "padding": draw(st.sampled_from([0, "valid"])),
        "dilation": dilation,
        "bias": draw(st.booleans()),
    }
    if conv["stride"] == 2:
        conv["padding"] = draw(st.sampled_from([0, 1, (1, 0), 2]))
    return Unit(conv, draw(st.booleans()), "relu"), 8


@st.composite
def stages(draw: st.DrawFn, channels: int, depth: int = 0) -> tuple[nn.Module, int]:
    """A part of a network that keeps the size of the map, and its channels."""
    kind = draw(st.sampled_from(["unit", "repeat", "dense", "branches"] + ["residual"] * 2 * (depth < 2)))
    if kind == "unit":
        return draw(units(channels))
    if kind == "repeat":
        unit, _ = draw(units(channels, out=channels))
        return Repeat(unit, draw(st.integers(2, 3))), channels
    if kind == "dense":
        layers, width = [], channels
        for _ in range(draw(st.integers(1, 2))):
            layer, out = draw(units(width))
            layers.append(layer)
            width += out
        return Dense(layers), width
    if kind == "branches":
        add = draw(st.booleans())
        found = [draw(units(channels, out=channels if add else None)) for _ in range(draw(st.integers(2, 3)))]
        return Branches([branch for branch, _ in found], add), channels if add else sum(out for _, out in found)
    parts: list[nn.Module] = []
    width = channels
    for _ in range(draw(st.integers(1, 2))):
        inner, width = draw(stages(width, depth + 1))
        parts.append(inner)
    style = draw(st.sampled_from(["plain", "scaled", "inplace"]))
    if width != channels or style == "inplace":  # the add in place must not write into what the skip carries
        parts.append(nn.Conv2d(width, channels, 1))
    return Residual(nn.Sequential(*parts), channels, style), channels


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """A stem of 3x3, stages with reductions between them, and perhaps a linear layer; one output or two."""
    channels, size = 8, SIDE
    parts: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
    for _ in range(draw(st.integers(1, 4))):
        if size >= 6 and draw(st.integers(0, 3)) == 0:
            reduction, out = draw(shrinking(channels, size))
            size, channels = reduction.eval()(torch.zeros(1, channels, size, size)).shape[-1], out
            parts.append(reduction)
        if size >= 3:
            part, channels = draw(stages(channels))
            parts.append(part)
    head = draw(st.sampled_from([None, nn.Linear(channels, 5)]))
    return settled(Headed(nn.Sequential(*parts), head, draw(st.booleans())), seed=draw(st.integers(0, 99)))


def outputs(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def equal(ours: Any, theirs: Any) -> bool:
    return all(map(torch.equal, outputs(ours), outputs(theirs)))


def check_laws(network: nn.Module, data: st.DataObject, *, export: bool = True) -> None:
    state, x = copy.deepcopy(network.state_dict()), images(2, 3, SIDE, SIDE)
    try:
        traced = narfx.trace(
            network,
            input=(3, SIDE, SIDE),
            granularity=data.draw(st.sampled_from(["conv", "block"])),
            operators=OPERATORS,
            max_candidate_params=data.draw(st.sampled_from([1.0, 4.0])),
        )
    except NothingToRefineError as error:
        assert "nothing to refine" in str(error)
        return
    net = Supernet(traced, separate_norms=data.draw(st.booleans())).eval()
    with torch.no_grad():
        expected = network(x.clone())
        assert equal(traced.graph_module(x.clone()), expected)
        assert equal(net(x.clone()), expected)
    unchanged = narfx.lower(net, traced.space.base)
    assert unchanged.code == traced.graph_module.code
    assert set(unchanged.state_dict()) == set(traced.graph_module.state_dict()) == set(state)
    assert traced.space.cost(traced.space.base) == measure(network, traced.input)
    for _ in range(3):
        vector = tuple(data.draw(st.sampled_from(slot.legal)) for slot in traced.space.slots)
        net.set_vector(vector)
        lowered = narfx.lower(net, vector)
        assert verify_lowered(lowered, traced.dropped) == []
        with torch.no_grad():
            found, lower = net(x.clone()), lowered(x.clone())
        assert equal(found, lower)
        assert [t.shape for t in outputs(lower)] == [t.shape for t in outputs(expected)]
        assert traced.space.cost(vector) == measure(lowered, traced.input)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    if not export:
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(lowered, traced.input, path)
        parity = compare_onnx(lowered, path, traced.input)
        assert parity.passed and parity.max_rel_error <= 1e-5, parity


@settings(max_examples=25)
@given(network=networks(), data=st.data())
def test_laws_hold_on_random_networks(network: nn.Module, data: st.DataObject) -> None:
    check_laws(network, data, export=False)


@settings(max_examples=3)
@given(network=networks(), data=st.data())
def test_laws_hold_on_random_networks_that_are_exported(network: nn.Module, data: st.DataObject) -> None:
    """The exporter takes seconds: few are drawn here, and all that is drawn is in :func:`every_kind`."""
    check_laws(network, data)


def every_kind() -> nn.Module:
    """One network with all that the drawn ones have; the exporter takes seconds."""

    def unit(channels: int, out: int, **options: Any) -> nn.Module:
        conv = {"in_channels": channels, "out_channels": out, "kernel_size": 3, "padding": 1, **options}
        return Unit(conv, norm=True, act="inplace")

    layers = [
        unit(3, 8),
        Residual(nn.Sequential(unit(8, 8, groups=2), unit(8, 8, bias=False)), 8, "scaled"),
        unit(8, 8, stride=2, padding_mode="reflect"),
        Residual(Repeat(unit(8, 8, padding=2, dilation=2), 2), 8, "inplace"),
        Branches([unit(8, 8), unit(8, 4, padding="same")], add=False),
        Dense([unit(12, 4, padding_mode="circular"), unit(16, 8, groups=4)]),
        unit(24, 8, padding=0),
    ]
    return settled(Headed(nn.Sequential(*layers), nn.Linear(8, 5), pair=True))


@pytest.mark.parametrize("first", [1, 3])
def test_an_export_computes_what_its_network_computes(first: int, tmp_path: Path) -> None:
    traced = narfx.trace(every_kind(), input=(3, SIDE, SIDE), operators=OPERATORS)
    vector = [slot.legal[(first + index) % len(slot.legal)] for index, slot in enumerate(traced.space.slots)]
    lowered = narfx.lower(Supernet(traced), vector)
    export_onnx(lowered, traced.input, tmp_path / "model.onnx")
    parity = compare_onnx(lowered, tmp_path / "model.onnx", traced.input)
    assert parity.passed
    assert 0 < parity.max_rel_error <= 1e-5


@pytest.mark.slow
@settings(max_examples=200)
@given(network=networks(), data=st.data())
def test_laws_hold_on_many_random_networks(network: nn.Module, data: st.DataObject) -> None:
    check_laws(network, data)
