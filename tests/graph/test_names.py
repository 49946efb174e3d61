"""Parts of a model with names that Python code cannot hold, or that mean something else there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sample_networks import images, settled
from torch import Tensor, nn

import narfx
from narfx.errors import UsageError

SHAPE = (3, 8, 8)


class Named(nn.Module):
    """A convolution and a parameter of given names, in the model itself or in a part of it."""

    def __init__(self, conv: str, scale: str, *, within: bool = False) -> None:
        super().__init__()
        self.names, self.stem, self.last = (conv, scale), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.inner = nn.Module() if within else None
        home = self.inner or self
        home.add_module(conv, nn.Conv2d(8, 8, 3, padding=1))
        home.register_parameter(scale, nn.Parameter(torch.ones(8, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        conv, scale = (getattr(self.inner or self, name) for name in self.names)
        last: Tensor = self.last(conv(self.stem(x)) * scale)
        return last


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("name", ["class", "None", 'a"b', "a\\b", "a\nb"])
def test_what_no_code_can_hold_is_refused(name: str, within: bool) -> None:
    for model in (Named(name, "scale", within=within), Named("conv", name, within=within)):
        with pytest.raises(UsageError) as raised:
            narfx.trace(model, input=SHAPE)
        assert raised.value.kind == "name_clash"
        assert raised.value.where == (f"inner.{name}" if within else name)
        assert repr(name) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(("conv", "scale"), [("self", "scale"), ("conv", "self"), ("a b", "a'b"), ("1", "match")])
def test_what_only_looks_wrong_goes_all_the_way(tmp_path: Path, conv: str, scale: str) -> None:
    model, x = settled(Named(conv, scale)), images(2, *SHAPE)
    found = narfx.trace(model, input=SHAPE)
    net = narfx.Supernet(found).eval()
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
    base = narfx.lower(net, found.space.base)
    assert base.state_dict().keys() == model.state_dict().keys()
    lowered = narfx.lower(net, tuple(slot.legal[-1] for slot in found.space.slots))
    assert narfx.export(lowered, tmp_path / "out")["parity"]["passed"]
