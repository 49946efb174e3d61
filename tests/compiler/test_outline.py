"""The outline of a network: sites, other layers and joins, with the edges between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from narfx import trace
from narfx.compiler.outline import network_record, outline
from narfx.inputs.model_ref import load_model
from narfx.space.network_record import NodeRecord


def edges(nodes: list[NodeRecord] | tuple[NodeRecord, ...]) -> set[tuple[str, str]]:
    return {(nodes[source].name, node.name) for node in nodes for source in node.inputs}


def test_a_residual_network() -> None:
    model = load_model("narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10")
    traced = trace(model, input=(1, 8, 8), reference="narfx:resnet20")
    record = network_record(traced, "refined", (1, 0, 2, 0, 3, 0))
    kinds = {node.name: (node.kind, node.label) for node in record.nodes}
    assert [name for name, (kind, _) in kinds.items() if kind == "site"] == [site.name for site in traced.space.sites]
    assert kinds["conv1"] == ("layer", "conv3x3") and kinds["fc"] == ("layer", "linear")
    assert kinds["stages.1.0.shortcut.0"] == ("layer", "conv1x1")
    found = edges(record.nodes)
    assert {("conv1", "stages.0.0.conv1"), ("stages.0.0.conv1", "stages.0.0.conv2"), ("fc", "output")} <= found
    # The identity and the projection meet the convolutions.
    assert {("conv1", "add"), ("stages.0.0.conv2", "add"), ("stages.1.0.shortcut.0", "add_1")} <= found
    assert [node.name for node in record.nodes if not node.inputs] == ["x"]
    assert record.cost(record.vector or (), "macs") == traced.space.cost((1, 0, 2, 0, 3, 0))["macs"]


class Odd(nn.Module):
    """A convolution that is called twice, a functional one, a branch that nothing reads, and a size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.idle = nn.Conv2d(3, 3, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(3, 3, 3, 3))
        self.fc = nn.Linear(3 * 4 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        first = torch.relu(self.conv(x))
        again = functional.conv2d(self.conv(first), self.weight, padding=1)
        pooled = functional.max_pool2d(torch.cat([first, again])[: x.size(0)], 2)
        out: Tensor = self.fc(pooled.reshape(x.size(0), -1))
        return out


def test_calls_functional_convolutions_and_what_nothing_reads() -> None:
    traced = trace(Odd(), input=(3, 8, 8), include_first=True)
    nodes = outline(traced.graph_module, {site.name for site in traced.space.sites})
    sites = [node.name for node in nodes if node.kind == "site"]
    assert sites[:2] == ["conv", "conv@1"] and len(sites) == 3 and "idle" not in [node.name for node in nodes]
    found = edges(nodes)
    assert {("x", "conv"), ("conv", "conv@1"), ("conv@1", sites[2])} <= found
    (join,) = [node for node in nodes if node.kind == "join"]
    assert join.label == "cat" and {(sites[0], join.name), (sites[2], join.name)} <= found
    (pool,) = [node for node in nodes if node.kind == "pool"]
    assert (pool.name, "fc") in found and (join.name, pool.name) in found


def test_a_network_without_sites_has_an_outline() -> None:
    traced = trace(Odd(), input=(3, 8, 8), include_first=True)
    assert {node.kind for node in outline(traced.graph_module)} == {"input", "layer", "join", "pool", "output"}
