"""The main path: which convolutions are nodes, where skips may go, and why others may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sample_networks import Chain, ResidualNet, Shared, settled
from torch import Tensor, nn

import narfx
from narfx.errors import UsageError
from narfx.graph.cost import shapes_and_cost
from narfx.graph.tracing import trace_graph
from narfx.models import MODELS
from narfx.passes import find_main_path, find_skips
from narfx.passes.skips import SkipDomain


def domain(model: nn.Module, shape: tuple[int, int, int] = (3, 8, 8), **options: Any) -> SkipDomain:
    graph_module = trace_graph(model.eval()).graph_module
    return find_skips(graph_module, shapes_and_cost(graph_module, shape).shapes, **options)


def base(found: SkipDomain) -> list[tuple[int, int]]:
    return [(c.skip.source, c.skip.target) for c in found.candidates if c.skip.base]


def refused(model: nn.Module, shape: tuple[int, int, int] = (3, 8, 8)) -> UsageError:
    with pytest.raises(UsageError) as caught:
        domain(model, shape)
    return caught.value


@pytest.mark.parametrize(("from_input", "count"), [(False, 55), (True, 66)])
def test_a_chain_of_twelve_nodes_has_the_skips_that_the_papers_count(from_input: bool, count: int) -> None:
    for model in (Chain(12), MODELS["chain12"].factory(channels=4)):
        found = domain(model, from_input=from_input)
        assert len(found.nodes) == 13
        assert len(found.candidates) == count and not found.impossible and not found.fixed


def test_the_stem_feeds_node_one_unless_it_is_included() -> None:
    assert domain(Chain(3)).nodes == ("what feeds body.0", "body.0", "body.3", "body.6")
    assert domain(Chain(3), include_first=True).nodes[1] == "stem"


@pytest.mark.parametrize(("include_first", "first"), [(False, 0), (True, 1)])
def test_the_skips_of_a_resnet_are_its_base_skips(include_first: bool, first: int) -> None:
    import torchvision

    large = domain(torchvision.models.resnet18(weights=None), (3, 64, 64), include_first=include_first)
    small = domain(MODELS["resnet20"].factory(), (3, 32, 32), include_first=include_first)
    for found, convolutions, adds in ((large, 17, 8), (small, 19, 9)):
        assert len(found.nodes) == convolutions + first  # node 0, and the stem only where it is included
        assert base(found) == [(first + 2 * block, first + 2 * block + 2) for block in range(adds)]
        assert not found.fixed
    projected = [c for c in large.candidates if c.branch]
    assert [c.branch[0] for c in projected] == [f"layer{n}_0_downsample_0" for n in (2, 3, 4)]
    assert projected[0].params == 64 * 128 + 2 * 128


def test_node_zero_is_off_as_the_paper_counts() -> None:
    found = domain(MODELS["resnet20"].factory(), (3, 32, 32), from_input=False)
    assert base(found)[0] == (2, 4) and len(base(found)) == 8
    assert [entry.code for entry in found.fixed] == ["base_skip"]
    assert "switched off" in found.fixed[0].reason


def test_bottlenecks_have_three_nodes_and_projections_none() -> None:
    import torchvision

    found = domain(torchvision.models.resnet50(weights=None), (3, 64, 64))
    assert len(found.nodes) - 1 == 48 and base(found)[:2] == [(0, 3), (3, 6)]
    assert not any("downsample" in name for name in found.nodes)


def test_what_gates_a_map_is_on_no_main_path() -> None:
    import torchvision

    found = domain(torchvision.models.mobilenet_v3_small(weights=None), (3, 64, 64))
    assert not any(".fc" in name for name in found.nodes)
    assert len(base(found)) == 6


class Preactivated(nn.Module):
    """Two blocks of BN, ReLU, convolution, in which the shortcut reads the add itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in (0, 2):
            y = x
            for index in (block, block + 1):
                y = self.convs[index](torch.relu(self.norms[index](y)))
            x = x + y
        return x


def test_the_output_of_a_node_is_read_behind_its_add() -> None:
    graph_module = trace_graph(Preactivated().eval()).graph_module
    path = find_main_path(graph_module)
    assert path.source.name == "stem"
    assert [node.output.name for node in path.nodes] == ["relu_1", "add", "relu_3", "add_1"]
    assert [node.place.name for node in path.nodes] == ["norms_1", "convs_1", "norms_3", "convs_3"]
    assert base(domain(Preactivated())) == [(0, 2), (2, 4)]


def test_every_call_of_a_shared_convolution_is_a_node() -> None:
    found = domain(Shared())
    assert found.nodes[1:] == ("again", "again@1", "again@2")
    assert [(c.skip.source, c.skip.target) for c in found.candidates] == [(0, 2), (0, 3), (1, 3)]
    assert found.candidates[1].projection is not None and found.candidates[1].projection.stride == (2, 2)


class Narrowing(nn.Sequential):
    """Maps of 8x8, 6x6, then 12x12."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, padding=1),
            nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1),
        )  # fmt: skip


def test_a_map_that_grows_or_fits_no_stride_makes_a_skip_impossible() -> None:
    found = domain(Narrowing())
    assert found.impossible[0, 2] == "no stride maps 8x8 to 6x6"
    assert found.impossible[1, 3] == "the map would grow from 6x6 to 12x12"
    assert not found.candidates and len(found.impossible) == 6


class InPlace(nn.Module):
    """An operation in place overwrites what a skip would read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = y.mul_(2.0)
        last: Tensor = self.c(self.b(z))
        return last


def test_what_is_overwritten_in_place_is_no_source() -> None:
    found = domain(InPlace(), include_first=True)
    assert found.impossible == {(1, 3): "mul_ overwrites the output of node 1 in place"}


class Odd(nn.Module):
    """Residual adds of every kind that has to stay, around two convolutions each."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b, self.c, self.d = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.side = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.a(x) if self.kind == "alone" else self.b(self.a(x))
        made: dict[str, Callable[[], Tensor]] = {
            "alone": lambda: y + x,
            "scaled": lambda: torch.add(y, x, alpha=2),
            "parameter": lambda: y + x * self.scale,
            "twice": lambda: torch.relu(y + x) + x,
            "shared": lambda: self.side(y + self.side(x)),
            "read": lambda: self._twice(y, self.side(x)),
            "broadcast": lambda: y + x.mean((2, 3), keepdim=True),
            "in place": lambda: self._written(torch.relu(y), x),
        }
        return made[self.kind]()

    def _twice(self, y: Tensor, side: Tensor) -> Tensor:
        read: Tensor = self.d(self.c(y + side)) + side
        return read

    def _written(self, z: Tensor, x: Tensor) -> Tensor:
        written: Tensor = self.d(self.c(torch.relu_(z + x))) + z
        return written


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("alone", "skips only node 1"),
        ("scaled", "more than add two tensors"),
        ("parameter", "reads a parameter"),
        ("twice", "has another add for the same skip (0, 2)"),
        ("shared", "side.0 on its shortcut is also used elsewhere"),
        ("read", "shortcut is also read elsewhere"),
        ("broadcast", "operands differ in shape"),
        ("in place", "an in-place operation would overwrite"),
    ],
)
def test_an_add_that_cannot_be_taken_out_stays_with_a_reason(kind: str, reason: str) -> None:
    model = settled(Odd(kind))
    graph_module = trace_graph(model).graph_module
    found = find_skips(graph_module, shapes_and_cost(graph_module, (3, 8, 8)).shapes)
    assert len(found.fixed) == (2 if kind == "read" else 1) and reason in found.fixed[0].reason
    assert "test_skips.py" in found.fixed[0].where
    if kind in ("alone", "twice"):
        assert (0, 2) not in found.impossible
    else:
        assert reason in found.impossible[0, 2]


class Blocks(nn.Module):
    """Dense layers, or branches side by side, behind a stem."""

    def __init__(self, dense: bool, add: bool = False) -> None:
        super().__init__()
        self.dense, self.add = dense, add
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        widths = [4, 8, 12] if dense else [4, 4, 4]
        self.convs = nn.ModuleList(nn.Conv2d(width, 4, 3, padding=1) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.dense:
            for conv in self.convs:
                x = torch.cat([x, conv(x)], 1)
            return x
        outputs = [conv(x) for conv in self.convs]
        return outputs[0] + outputs[1] + outputs[2] if self.add else torch.cat(outputs, 1)


@pytest.mark.parametrize("make", [lambda: Blocks(True), lambda: Blocks(False), lambda: Blocks(False, add=True)])
def test_a_network_without_one_main_path_is_refused(make: Callable[[], nn.Module]) -> None:
    error = refused(make())
    assert error.kind == "no_main_path"
    assert "3 of its convolutions are on parallel branches" in str(error) and "test_skips.py" in str(error)


def test_a_network_without_a_node_or_a_pair_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    assert refused(flat).kind == refused(nn.Sequential(nn.Conv2d(3, 4, 3))).kind == "no_main_path"
    with pytest.raises(UsageError, match="Chain has no possible skip: its main path has 1 node") as caught:
        narfx.trace(Chain(1), input=(3, 8, 8), search_skips=True)
    assert caught.value.kind == "no_skips"


def test_a_network_without_sites_may_have_skips() -> None:
    pointwise = settled(nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(4))))
    traced = narfx.trace(pointwise, input=(3, 8, 8), search_skips=True, operators=("base",))
    assert len(traced.space) == len(traced.space.skip_slots) == 3 and traced.space.size == 8
    net = narfx.Supernet(traced)
    net.set_vector((1, 1, 1))
    x = torch.ones(1, 3, 8, 8)
    assert torch.equal(net(x), narfx.lower(net, (1, 1, 1))(x))


def test_a_plain_residual_network_of_anonymous_parts() -> None:
    found = domain(ResidualNet())
    assert found.nodes[1:] == ("q", "r", "s", "t") and base(found) == [(0, 2), (2, 4)]


class Resized(Chain):
    """A network that asks for its input's size at the end, as segmentation models do."""

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        y: Tensor = nn.functional.interpolate(self.body(self.stem(x)), size=(shape[-2] * 2, x.size(3)))
        return y


def test_a_shape_is_no_way_from_the_input() -> None:
    assert len(domain(Resized(3)).nodes) == 4
