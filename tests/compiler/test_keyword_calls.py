"""Models that name the arguments of their calls, ``self.conv(input=x)``: refined like any other."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from sample_networks import images, settled
from torch import Tensor, nn

import narfx
from narfx.passes import verify_lowered

SHAPE = (3, 12, 12)
OPERATORS = """
from torch import nn

import narfx


class Doubled(nn.Module):
    def __init__(self, site):
        super().__init__()
        self.inner = nn.Conv2d(site.in_channels, site.out_channels, 1)

    def forward(self, features):
        return 2 * self.inner(features)


narfx.register_operator(narfx.Operator("keyword_doubled", build=Doubled))
"""


class Named(nn.Module):
    """Each call names its arguments; two convolutions lie on a residual branch that has an add by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.project = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(input=x)
        y = self.b(input=torch.relu(input=self.norm(input=self.a(input=x))))
        x = torch.add(input=y, other=self.project(input=x))
        last: Tensor = torch.add(x, other=self.c(input=x))
        return last.mean((2, 3))


def test_every_operator_stands_where_the_call_names_its_input(tmp_path: Path) -> None:
    (tmp_path / "my_ops.py").write_text(OPERATORS)
    model, x = settled(Named()), images(2, *SHAPE)
    operators = ("base", "dwsep3x3", "maxpool3x3", "identity", "grouped3x3", "keyword_doubled")
    found = narfx.trace(model, input=SHAPE, operators=operators, operator_files=[str(tmp_path / "my_ops.py")])
    assert [slot.legal for slot in found.space.slots] == [(0, 1, 2, 3, 4, 5)] * 3
    for entry, separate_norms in itertools.product(range(6), (False, True)):
        net = narfx.Supernet(found, separate_norms=separate_norms).eval()
        vector = (entry, 0, entry)
        net.set_vector(vector)
        lowered = narfx.lower(net, vector)
        with torch.no_grad():
            assert torch.equal(net(x), lowered(x))
            assert entry or torch.equal(net(x), model(x))
        # As the user wrote it, where the operator has a convolution's signature.
        by_position = [str(node.target) for node in lowered.graph.nodes if node.op == "call_module" and node.args]
        assert by_position == (["a", "c"] if entry == 5 else [])
        assert verify_lowered(lowered) == []
    assert narfx.lower(net, found.space.base).code == found.graph_module.code


def test_it_is_exported_and_proven(tmp_path: Path) -> None:
    found = narfx.trace(settled(Named()), input=SHAPE)
    lowered = narfx.lower(narfx.Supernet(found), (1, 0, 2))
    report = narfx.export(lowered, tmp_path / "out")
    assert report["parity"]["passed"]


def test_an_add_that_names_its_operands_is_a_skip_like_another() -> None:
    model, x = settled(Named()), images(2, *SHAPE)
    found = narfx.trace(model, input=SHAPE, search_skips=True)
    base = [slot.skip for slot in found.space.slots if slot.skip is not None and slot.skip.base]
    assert [(skip.source, skip.target) for skip in base] == [(0, 2)], found.skipped
    net = narfx.Supernet(found).eval()
    for vector in itertools.product(*((0, slot.legal[-1]) for slot in found.space.slots)):
        net.set_vector(vector)
        with torch.no_grad():
            assert torch.equal(narfx.lower(net, vector)(x), net(x))
    lowered = narfx.lower(net, found.space.base)
    assert "input = " in found.graph_module.code and lowered.code == found.graph_module.code


def test_an_activation_in_place_that_names_its_input_is_seen() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, *rest = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8, 8))
            self.body = nn.ModuleList(rest)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for conv in self.body:
                x = conv(x)
                torch.relu_(input=x)  # what it returns is not used: the tensor itself is what goes on
            return x

    found = narfx.trace(settled(InPlace()), input=SHAPE, search_skips=True)
    assert found.skips is not None
    assert found.skips.impossible == {(1, 3): "relu_ overwrites the output of node 1 in place"}


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_named_costs_what_is_given_by_position(whole: bool) -> None:
    class Layers(nn.Module):
        def __init__(self, named: bool) -> None:
            super().__init__()
            self.named, self.site, self.up = named, nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 8, 2, stride=2)
            self.kernel, self.head = nn.Parameter(torch.ones(8, 8, 2, 2)), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            if not self.named:
                x = nn.functional.conv_transpose2d(self.up(self.site(x)), self.kernel)
                return nn.functional.relu(self.head(x.mean((2, 3))))
            x = self.up(output_size=[12, 12], input=self.site(input=x))
            x = nn.functional.conv_transpose2d(weight=self.kernel, input=x)
            return nn.functional.relu(input=self.head(input=x.mean(dim=(2, 3))))

    class Kept(Layers):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if len(x.shape) and x.sum() == x.sum() else x  # stays a leaf

    costs = []
    for named in (True, False):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), (Kept if whole else Layers)(named))
        found = narfx.trace(settled(model), input=(3, 10, 10))
        assert [site.name for site in found.space.sites] == (["1"] if whole else ["1", "2.site"])
        costs.append(found.cost)
    assert costs[0] == costs[1]
