"""Forward hooks of the user's: they run when the network does, on tensors, and never on a trace's stand-ins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sample_networks import Chain, images, part, settled
from torch import Tensor, fx, nn

import narfx

SHAPE = (3, 8, 8)


class Two(nn.Module):
    """A part without hooks, and one that will carry some."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.watched = Chain(1).body, nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.stem = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.watched(self.free(self.stem(x)))
        return y


def test_a_hook_that_stores_keeps_tensors_only() -> None:
    kept: list[Any] = []
    model, x = settled(Two()), images(2, *SHAPE)
    handle = part(model, "watched").register_forward_hook(lambda module, given, output: kept.append(output))
    found = narfx.trace(model, input=SHAPE)
    assert not any(isinstance(entry, fx.Proxy) for entry in kept)
    assert [site.name for site in found.space.sites] == ["free.0"]
    reasons = {entry.name: entry for entry in found.skipped}
    assert reasons["watched"].code == "untraceable" and "has forward hooks" in reasons["watched"].reason
    assert "test_hooks.py" in reasons["watched"].where
    assert reasons["watched.0"].code == "opaque"
    with pytest.raises(narfx.NarfxError, match="has forward hooks"):
        found.check_whole()
    kept.clear()
    net = narfx.Supernet(found).eval()
    with torch.no_grad():
        outputs = [model(x), net(x), narfx.lower(net, (0,))(x)]
    assert len(kept) == 3 and all(torch.equal(entry, outputs[0]) for entry in (*kept, *outputs))
    handle.remove()
    whole = narfx.trace(model, input=SHAPE)
    assert [site.name for site in whole.space.sites] == ["free.0", "watched.0"]
    whole.check_whole()


@pytest.mark.parametrize("before", [False, True])
def test_a_hook_that_changes_what_is_computed_still_does(before: bool) -> None:
    model, x = settled(Two()), images(2, *SHAPE)
    plain = model(x)
    if before:
        part(model, "watched").register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    else:
        part(model, "watched").register_forward_hook(lambda module, given, output: 2 * output)
    net = narfx.Supernet(narfx.trace(model, input=SHAPE)).eval()
    with torch.no_grad():
        assert torch.equal(net(x), model(x)) and not torch.equal(net(x), plain)


def test_a_hook_on_a_layer_hides_nothing() -> None:
    model = settled(Two())
    relu: Any = model.get_submodule("watched.1")
    relu.register_forward_hook(lambda module, given, output: None)
    found = narfx.trace(model, input=SHAPE)
    assert [site.name for site in found.space.sites] == ["free.0", "watched.0"]
    found.check_whole()
