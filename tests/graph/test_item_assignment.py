"""Models that write into parts of a tensor: ``y[:, :2] = a`` and ``y[:, :2] += a``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import narfx
from narfx.graph.trace_parity import compare_trace

SHAPE = (3, 8, 8)


def assign(y: Tensor) -> Tensor:
    y[:, 0:2] = torch.sigmoid(y[:, 0:2])
    y[:, 2:4] *= 2.0
    y[..., 4:, ::2] += y[..., 4:, 1::2]
    return y


def temporal_shift(y: Tensor) -> Tensor:
    """Two frames of four maps each: one map moves to the frame before, one to the next."""
    n, c, h, w = y.shape
    frames = y.view(n, 2, c // 2, h, w)
    out = torch.zeros_like(frames)
    out[:, :-1, :1] = frames[:, 1:, :1]
    out[:, 1:, 1:2] = frames[:, :-1, 1:2]
    out[:, :, 2:] = frames[:, :, 2:]
    return out.view(n, c, h, w)


def mask(y: Tensor) -> Tensor:
    y[y < 0] = 0.0
    y.data[:, 0] = 1.0
    return y


def new_tensor(y: Tensor) -> Tensor:
    out = y.new_zeros(y.shape)
    out[:, :4], out[:, 4:] = y[:, 4:], y[:, :4]
    return out


class Writes(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8))
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.c(self.change(self.b(F.relu(self.a(x)))))
        return result


@pytest.mark.parametrize("change", [assign, temporal_shift, mask, new_tensor], ids=lambda f: f.__name__)
def test_a_write_into_a_slice_stays_in_trace_and_lowered_network(change: Callable[[Tensor], Tensor]) -> None:
    model = Writes(change).eval()
    traced = narfx.trace(model, input=SHAPE)
    assert [slot.name for slot in traced.space.slots] == ["b", "c"]
    assert not [entry for entry in traced.skipped if entry.code == "untraceable"]
    assert compare_trace(model, traced.graph_module, SHAPE) == []
    x = torch.randn(2, *SHAPE)
    net = narfx.Supernet(traced).eval()
    assert torch.equal(traced.graph_module.eval()(x.clone()), model(x.clone()))
    net.set_vector((2, 0))
    assert torch.equal(narfx.lower(net, (2, 0)).eval()(x.clone()), net(x.clone()))


@pytest.mark.parametrize("change", [assign, new_tensor], ids=lambda f: f.__name__)
def test_a_write_into_a_slice_stays_in_the_bundle(change: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    traced = narfx.trace(Writes(change).eval(), input=SHAPE)
    report = narfx.export(narfx.lower(narfx.Supernet(traced), (2, 0)), tmp_path / "bundle", input=SHAPE)
    assert report["parity"]["passed"]
    assert report["source"] is None  # there is a model.py


def test_the_last_axes_of_a_shape_are_traced_and_others_refused_in_words() -> None:
    class Resize(nn.Module):
        def __init__(self, first: int) -> None:
            super().__init__()
            self.a, self.b, self.first = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1), first

        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(self.b(self.a(x)), size=tuple(x.shape[self.first :]))

    model = Resize(-2).eval()
    assert compare_trace(model, narfx.trace(model, input=SHAPE).graph_module, SHAPE) == []
    with pytest.raises(narfx.errors.UsageError, match=r"test_item_assignment\.py:\d+: .* as \(x.shape\[2\], x.sh"):
        narfx.trace(Resize(2), input=SHAPE)


def test_a_model_of_dictionaries_is_refused_in_words() -> None:
    class Batch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 8, 3)

        def forward(self, batch: list[dict[str, Tensor]]) -> Tensor:
            result: Tensor = self.a(torch.stack([entry["image"] for entry in batch]))
            return result

    with pytest.raises(narfx.errors.UsageError, match="wrap the model in a module whose forward takes that tensor"):
        narfx.trace(Batch(), input=SHAPE)
