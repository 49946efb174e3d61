"""Residual blocks, read off the data flow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sample_networks import ResidualNet
from torch import Tensor, fx, nn

from narfx.graph.tracing import trace_graph
from narfx.passes import find_blocks
from narfx.passes.blocks import Block


class Parts(nn.Module):
    """Four convolutions, wired by a function."""

    def __init__(self, wire: Callable[[Parts, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.wire = wire

    def forward(self, x: Tensor) -> Tensor:
        return self.wire(self, x)


def blocks(model: nn.Module) -> list[Block]:
    return find_blocks(trace_graph(model).graph_module)


def calls(block: Block) -> set[str]:
    """The modules that are called inside a block."""
    return {str(node.target) for node in block.nodes if node.op == "call_module"}


def found(wire: Callable[[Parts, Tensor], Tensor]) -> list[set[str]]:
    return [calls(block) for block in blocks(Parts(wire))]


def in_place(m: Parts, x: Tensor) -> Tensor:
    y: Tensor = m.b(m.a(x))
    y += x
    return y


def test_a_block_lies_between_the_branching_and_the_add() -> None:
    first, second = blocks(ResidualNet())
    assert (calls(first), calls(second)) == ({"q", "r"}, {"s", "t"})
    assert (first.entry.target, second.entry.target) == ("p", torch.relu)
    assert all(block.entry not in block.nodes and block.add in block.nodes for block in (first, second))


@pytest.mark.parametrize(
    "wire",
    [
        lambda m, x: m.b(m.a(x)) + x,
        lambda m, x: x + m.b(m.a(x)),
        in_place,
        lambda m, x: torch.add(m.b(m.a(x)), x),
        lambda m, x: torch.add(m.b(m.a(x)), x, alpha=2),
        lambda m, x: torch.add(input=m.b(m.a(x)), other=x),
        lambda m, x: m.b(m.a(x)).add(x),
        lambda m, x: m.b(m.a(x)).add_(x),
        # A parameter that scales a branch is no second way into the block.
        lambda m, x: m.b(m.a(x)) * m.scale + x,
        lambda m, x: m.b(m.a(x)) * m.scale + m.scale * x,
        lambda m, x: m.b(m.a(x) + m.scale) + x,
        lambda m, x: m.b(m.a(x)) * torch.full((4, 1, 1), 0.1) + x,
        lambda m, x: m.b(m.a(x) + 1) + x,
    ],
)
def test_every_way_to_write_an_add(wire: Callable[[Parts, Tensor], Tensor]) -> None:
    assert found(wire) == [{"a", "b"}]


def test_a_projection_on_the_skip_belongs_to_the_block() -> None:
    assert found(lambda m, x: m.b(m.a(x)) + m.c(x)) == [{"a", "b", "c"}]


def test_nested_blocks_come_innermost_first() -> None:
    def wire(m: Parts, x: Tensor) -> Tensor:
        y = m.a(x)
        y = m.c(m.b(y)) + y
        last: Tensor = m.d(y) + x
        return last

    assert found(wire) == [{"b", "c"}, {"a", "b", "c", "d"}]


def test_a_sum_of_three_branches_is_two_nested_blocks() -> None:
    assert found(lambda m, x: m.a(x) + m.b(x) + m.c(x)) == [{"a", "b"}, {"a", "b", "c"}]


def test_a_region_with_a_second_exit_is_no_block() -> None:
    def wire(m: Parts, x: Tensor) -> Tensor:
        inside = m.a(x)
        y = m.b(inside) + x
        return torch.cat([m.c(y), inside], 1)

    assert found(wire) == []


def test_a_region_that_is_an_output_itself_is_no_block() -> None:
    def wire(m: Parts, x: Tensor) -> Tensor:
        inside = m.a(x)
        return (m.b(inside) + x, inside)  # type: ignore[return-value]

    assert found(wire) == []


@pytest.mark.parametrize(
    "wire",
    [
        lambda m, x: m.b(m.a(x)),
        lambda m, x: m.b(m.a(x)) + 1,
        lambda m, x: m.b(m.a(x)) + m.scale,
        lambda m, x: m.b(m.a(x)) * x,
        lambda m, x: torch.cat([m.b(m.a(x)), x], 1),
    ],
)
def test_what_adds_no_two_tensors_of_the_network_is_no_residual_add(wire: Callable[[Parts, Tensor], Tensor]) -> None:
    assert found(wire) == []


def test_doubling_a_tensor_is_no_residual_add() -> None:
    assert found(lambda m, x: m.b(y := m.a(x)) + (y - y)) == [{"b"}]
    assert found(lambda m, x: (y := m.b(m.a(x))) + y) == []


def test_an_analysis_changes_nothing() -> None:
    graph_module = trace_graph(ResidualNet()).graph_module
    code = graph_module.code
    assert find_blocks(graph_module) == find_blocks(graph_module)
    assert graph_module.code == code


def test_an_input_that_is_added_to_what_is_made_of_it_is_the_entry() -> None:
    (block,) = blocks(Parts(lambda m, x: m.a(x) + x))
    assert isinstance(block.entry, fx.Node)
    assert block.entry.op == "placeholder"
