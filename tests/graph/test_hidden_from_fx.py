"""Parts of a forward that torch.fx loses, bakes in or fails at: what becomes of them, and what is said."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sample_networks import Chain, Fickle, images, settled
from torch import Tensor, nn
from torch.nn import functional as F

import narfx
from narfx.errors import NothingToRefineError, UsageError

SHAPE = (3, 8, 8)


class Part(nn.Module):
    """A convolution as a module, one as a parameter, a buffer and a plain tensor; a test gives it its forward."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3) * 0.1)
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))
        self.shift = torch.full((1, 8, 1, 1), 0.1)
        type(self).forward = forward


def chain(forward: Callable[[Any, Tensor], Tensor]) -> Chain:
    """A chain with such a part behind its body."""
    own = type("Own", (Part,), {})
    model = Chain()
    model.body.append(own(forward))
    return model


def sites(traced: narfx.Traced) -> list[str]:
    return [site.name for site in traced.space.sites]


def check_exact(model: nn.Module, traced: narfx.Traced) -> None:
    """The lowered base computes what the model computes, and loads its state dict."""
    settled(model)
    lowered = narfx.lower(narfx.Supernet(traced), traced.space.base).eval()
    lowered.load_state_dict(model.state_dict())
    x = images(2, *SHAPE)
    with torch.no_grad():
        assert torch.equal(lowered(x), model(x))


def test_a_part_under_autocast_stays_opaque_and_exact() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.conv(x).float()  # type: ignore[no-any-return]

    model = chain(forward)
    traced = narfx.trace(model, input=SHAPE)
    (entry,) = [entry for entry in traced.skipped if entry.code == "untraceable"]
    assert entry.reason == "Own stays opaque: it turns autocast on, which a trace does not keep"
    assert "test_hidden_from_fx.py:" in entry.where
    check_exact(model, traced)


def test_autocast_that_is_turned_off_where_it_is_off_is_no_change() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.conv(x)  # type: ignore[no-any-return]

    traced = narfx.trace(chain(forward), input=SHAPE)
    assert not any("autocast" in note for note in traced.notes)
    assert "body.6.conv" in sites(traced)


def test_a_convolution_without_gradients_is_noted() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.conv(x)
        return x + 1

    traced = narfx.trace(chain(forward), input=SHAPE)
    assert "body.6.conv" in sites(traced)
    (note,) = [note for note in traced.notes if "gradients" in note]
    assert note.startswith("body.6 (") and "it turns gradients off, which the trace does not keep" in note
    with torch.no_grad():  # where they are off already, nothing is lost
        assert not any("gradients" in note for note in narfx.trace(chain(forward), input=SHAPE).notes)


def test_a_part_without_gradients_and_convolutions_stays_whole() -> None:
    class Frozen(nn.Module):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    model = Chain()
    model.body.append(Frozen())
    traced = narfx.trace(model, input=SHAPE)
    assert [entry.name for entry in traced.skipped if entry.code == "untraceable"] == ["body.6"]
    assert not any("gradients" in note for note in traced.notes)
    lowered = narfx.lower(narfx.Supernet(traced), traced.space.base)
    lowered(images(2, *SHAPE)).sum().backward()
    assert lowered.get_parameter("stem.weight").grad is None


def test_a_root_without_gradients_is_noted() -> None:
    class Root(Chain):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    (note,) = narfx.trace(Root(), input=SHAPE).notes
    assert note.startswith("Root (") and "it turns gradients off" in note


def test_a_class_with_a_call_of_its_own_computes_as_it_did() -> None:
    class Doubled(nn.Conv2d):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x) * 2  # type: ignore[no-any-return]

    model = Chain()
    model.body.append(Doubled(8, 8, 3, padding=1))
    traced = narfx.trace(model, input=SHAPE)
    assert "body.6.weight_conv" in sites(traced)
    check_exact(model, traced)


def test_a_convolution_that_was_given_another_forward_is_left_alone() -> None:
    model = Chain()
    conv = model.get_submodule("body.0")
    conv.forward = lambda x: x * 2
    traced = narfx.trace(model, input=SHAPE)
    assert sites(traced) == ["body.3"]
    assert {entry.name: entry.code for entry in traced.skipped}["body.0"] == "subclass"


def test_a_functional_convolution_beside_the_mode_is_a_site() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.dropout(F.conv2d(x, self.weight, padding=1), 0.1, self.training)

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = type("Inner", (Part,), {})(lambda self, x: F.conv2d(x, self.weight, padding=1))

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.inner(x), 0.1, self.training)

    model = chain(forward)
    model.body.append(Around())
    traced = narfx.trace(model, input=SHAPE)
    assert sites(traced)[-2:] == ["body.6.weight_conv", "body.7.inner.weight_conv"]
    check_exact(model, traced)


def test_a_scale_of_channels_beside_the_mode_stays_one_call() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.full((1, 8, 1, 1), 2.0))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale if self.training else x

    model = Chain()
    model.body.append(Scaled())
    assert narfx.trace(model, input=SHAPE).notes == ()


def test_a_functional_convolution_inside_an_opaque_part_is_listed() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, padding=1) if x.sum() > 0 else x

    skipped = {entry.name: entry for entry in narfx.trace(chain(forward), input=SHAPE).skipped}
    assert skipped["body.6.weight"].code == skipped["body.6.conv"].code == "opaque"
    assert skipped["body.6.weight"].reason == "body.6, which is opaque, may call a functional convolution with it"


def test_a_plain_tensor_of_a_part_is_no_key() -> None:
    model = chain(lambda self, x: self.conv(x - self.shift))
    traced = narfx.trace(model, input=SHAPE)
    for network in (traced.graph_module, narfx.lower(narfx.Supernet(traced), traced.space.base)):
        assert set(network.state_dict()) == set(model.state_dict())
    check_exact(model, traced)


def test_good_instances_of_a_bad_class_stay_sites() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *(Fickle(bad) for bad in (True, True, True, True, False, False)))
    traced = narfx.trace(model, input=SHAPE)
    assert sites(traced) == ["5.conv", "6.conv"]
    assert [entry.name for entry in traced.skipped if entry.code == "untraceable"] == ["1", "2", "3", "4"]


def test_a_hundred_parts_that_fail_cost_no_hundred_traces() -> None:
    calls = 0

    class Counted(Fickle):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return super().forward(x)

    parts = 200
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *(Counted(i % 2 == 0) for i in range(parts)))
    assert len(narfx.trace(model, input=SHAPE).space.sites) == parts // 2
    assert parts < calls <= 4 * parts  # two traces, and what is opaque is run for its shapes


def test_parts_that_fail_inside_each_other_are_one_opaque_part() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Fickle(True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.inner(x)
            return x if x.sum() > 0 else -x

    traced = narfx.trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), Around()), input=SHAPE)
    assert [entry.name for entry in traced.skipped if entry.code == "untraceable"] == ["2"]


@pytest.mark.parametrize(
    ("draw", "generator"),
    [
        (lambda: torch.rand(1).item(), "torch"),
        (random.random, "random"),
        (lambda: np.random.rand(), "numpy.random"),
    ],
)
def test_stochastic_depth_in_python_is_noted_whatever_it_draws(draw: Callable[[], float], generator: str) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        if self.training and draw() < 0.2:
            return x
        return x + self.conv(x)  # type: ignore[no-any-return]

    for seed in range(3):
        model = chain(forward)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
        notes = narfx.trace(model, input=SHAPE).notes
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (random.getstate(), str(np.random.get_state())) == before[1:]
        (note,) = [note for note in notes if "random numbers" in note]
        assert note.startswith(f"in training mode forward draws random numbers ({generator}) outside of torch modules")


def test_numbers_drawn_in_eval_mode_are_noted() -> None:
    traced = narfx.trace(chain(lambda self, x: self.conv(x) + torch.randn(1, 8, 1, 1)), input=SHAPE)
    (note,) = [note for note in traced.notes if "random numbers" in note]
    assert note.startswith(
        "forward draws random numbers (torch) in eval mode, and the trace keeps those of one draw as constants"
    )


def test_training_asked_for_by_getattr_is_noticed() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.dropout(self.conv(x), 0.5, getattr(self, "training"))  # noqa: B009

    traced = narfx.trace(chain(forward), input=SHAPE)
    assert any(isinstance(module, nn.Dropout) for module in traced.graph_module.modules())


def count(self: Any, x: Tensor) -> Tensor:
    self.count += 1
    return self.conv(x) + self.count  # type: ignore[no-any-return]


def test_a_part_that_assigns_a_buffer_stays_opaque_and_exact() -> None:
    model = chain(count)
    traced = narfx.trace(model, input=SHAPE)
    (entry,) = [entry for entry in traced.skipped if entry.code == "untraceable"]
    assert entry.reason == "Own stays opaque: its forward assigns its buffer count, which a trace does not keep"
    check_exact(model, traced)


def test_a_root_that_assigns_a_buffer_is_refused() -> None:
    class Counting(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.count: Tensor
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return super().forward(x) + self.count

    assert "assigns the buffer count at" in str(refused(Counting(), "buffer_assigned"))


def test_a_buffer_that_training_assigns_is_noted() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        if self.training:
            self.count = self.count * 0.9 + x.mean()
        return self.conv(x) - self.count  # type: ignore[no-any-return]

    notes = narfx.trace(chain(forward), input=SHAPE).notes
    assert any(
        "forward assigns the buffer count in training mode; the trace has eval mode and does not" in note
        for note in notes
    )


def refused(model: nn.Module, kind: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        narfx.trace(model, input=SHAPE)
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)
    return caught.value


def test_weights_of_several_kinds_of_numbers_are_named() -> None:
    model = Chain()
    model.body.double()
    error = refused(model, "mixed_dtypes")
    assert "stem.weight is torch.float32, body.0.weight is torch.float64" in str(error)
    assert error.where == "body.0.weight"


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that must not be there")
@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.conv(x) + torch.ones(1, device="cuda"),
        lambda self, x: self.conv(x.cuda()),
        lambda self, x: self.conv(x) + self.shift.cuda(),
    ],
)
def test_a_device_that_is_not_here_is_no_control_flow(forward: Callable[[Any, Tensor], Tensor]) -> None:
    assert "needs a device that this machine does not have" in str(refused(chain(forward), "no_device"))


def test_only_parts_that_may_be_refined_are_proposed() -> None:
    class Root(Chain):
        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            return x if x.sum() > 0 else -x

    assert str(refused(Root(), "untraceable")).endswith("or refine one part (MODEL#body; parts: body)")


@pytest.mark.parametrize(("wrap", "inside"), [(torch.compile, "_orig_mod"), (nn.DataParallel, "module")])
def test_a_wrapper_says_what_is_inside(wrap: Callable[[nn.Module], nn.Module], inside: str) -> None:
    error = refused(wrap(Chain()), "wrapped")
    assert f"give narfx the module inside it (model.{inside}, or MODEL#{inside} in a reference)" in str(error)
    assert sites(narfx.trace(wrap(Chain()).get_submodule(inside), input=SHAPE)) == ["body.0", "body.3"]


def test_a_part_that_is_compiled_is_opaque() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    model.add_module("2", torch.compile(nn.Conv2d(8, 8, 3)))  # type: ignore[arg-type]
    traced = narfx.trace(model, input=SHAPE)
    assert sites(traced) == ["1"]
    assert [entry.name for entry in traced.skipped if entry.code == "untraceable"] == ["2"]
    with pytest.raises(NothingToRefineError):
        traced.check_whole()
