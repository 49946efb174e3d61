"""What goes into and comes out of the operators at chosen slots, during one forward pass."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from sample_networks import Chain, ResidualNet, Shared, images, part, settled
from torch import Tensor, nn
from torch.nn import functional as F

import narfx
from narfx.compiler.supernet import Supernet
from narfx.errors import UsageError
from narfx.operators.dispatch import Dispatch

SHAPE = (3, 8, 8)
X = images(2, *SHAPE)


def supernet(model: nn.Module, **options: Any) -> Supernet:
    separate = options.pop("separate_norms", False)
    return Supernet(narfx.trace(settled(model), input=SHAPE, **options), separate_norms=separate).eval()


@pytest.mark.parametrize("separate_norms", [False, True])
def test_they_are_those_of_the_base_convolution(separate_norms: bool) -> None:
    model = settled(Chain())
    net = supernet(model, separate_norms=separate_norms)
    with torch.no_grad(), net.features([0, 1]) as seen:
        output = net(X)
    with torch.no_grad():
        stem, body = part(model, "stem"), part(model, "body")
        first = stem(X)
        assert torch.equal(output, model(X))
        second = body[2](body[1](F.conv2d(first, body[0].weight, padding=1)))
        for slot, name, given, conv in ((0, "body.0", first, body[0]), (1, "body.3", second, body[3])):
            assert list(seen[slot]) == [name]
            assert torch.equal(seen[slot][name].input, given)
            assert torch.equal(seen[slot][name].output, F.conv2d(given, conv.weight, padding=1))


def test_operations_in_place_after_a_site_change_nothing() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.site = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y: Tensor = self.site(x).relu_()
            return y + x.mul_(2)

    model = settled(InPlace())
    net = supernet(model)
    with torch.no_grad(), net.features([0]) as seen:
        output = net(X)
        assert torch.equal(output, model(X))
        (feature,) = seen[0].values()
        assert torch.equal(feature.input, part(model, "stem")(X))
        assert torch.equal(feature.output, part(model, "site")(feature.input))
    assert feature.output.min() < 0


def test_each_call_of_a_shared_module_is_an_entry_and_a_later_forward_replaces_them() -> None:
    model = settled(Shared())
    net = supernet(model)
    with torch.no_grad(), net.features([0]) as seen:
        net(images(2, *SHAPE, seed=1))
        net(X)
    assert list(seen[0]) == ["again", "again@1", "again@2"]
    with torch.no_grad():
        first = part(model, "stem")(X)
        assert torch.equal(seen[0]["again"].input, first)
        assert torch.equal(seen[0]["again@1"].input, part(model, "again")(first).relu())
        assert torch.equal(seen[0]["again@2"].output, model(X))


def test_a_slot_of_a_block_has_an_entry_for_each_site_and_others_have_none() -> None:
    net = supernet(ResidualNet(), granularity="block")
    wanted = next(index for index, slot in enumerate(net.space.slots) if len(slot.sites) == 2)
    with net.features([wanted]) as seen:
        net(X)
    assert list(seen) == [wanted]
    assert list(seen[wanted]) == [site.name for site in net.space.slots[wanted].sites]


def test_they_follow_the_vector_and_carry_gradients() -> None:
    net = supernet(Chain())
    net.set_vector((1, 0))
    with net.features([0]) as seen:
        net(X)
    feature = seen[0]["body.0"]
    dwsep = part(net, "graph_module.body.0.candidates.dwsep3x3")
    assert torch.equal(feature.output, dwsep(feature.input))
    feature.output.square().sum().backward()
    assert dwsep.pointwise.weight.grad is not None
    assert part(net, "graph_module.stem").weight.grad is not None


@pytest.mark.parametrize("separate_norms", [False, True])
def test_of_a_mixture_the_output_is_the_weighted_sum_before_any_norm(separate_norms: bool) -> None:
    net = supernet(Chain(1), separate_norms=separate_norms)
    net.set_mixture([[0.5, 0.25, 0, 0.25]])
    expected = net(X)
    with net.features([0]) as seen:
        assert torch.equal(net(X), expected)
    operators = part(net, "graph_module.body.0.candidates")
    feature = seen[0]["body.0"]
    x = feature.input
    total = 0.5 * operators.base(x) + 0.25 * operators.dwsep3x3(x) + 0.25 * operators.avgpool3x3(x)
    assert torch.allclose(feature.output, total, atol=1e-6)


def test_nothing_is_recorded_outside_and_two_may_look_on_at_once() -> None:
    net = supernet(Chain())
    dispatches = [module for module in net.modules() if isinstance(module, Dispatch)]
    with pytest.raises(RuntimeError, match="stop"), net.features([0]):
        raise RuntimeError("stop")
    with net.features([0, 1]) as outer:
        with net.features([1]) as inner:
            net(X)
            lowered = narfx.lower(net, (1, 0))
        kept = dict(inner[1])
        net(images(2, *SHAPE, seed=3))
    assert inner[1] == kept and not torch.equal(outer[1]["body.3"].output, kept["body.3"].output)
    before = {slot: dict(entries) for slot, entries in outer.items()}
    net(X)
    lowered(X)
    assert {slot: dict(entries) for slot, entries in outer.items()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in dispatches)


def test_a_copy_made_inside_is_not_watched() -> None:
    net = supernet(Chain())
    with net.features([0]) as seen:
        net(X)
        kept = seen[0]["body.0"]
        twin = copy.deepcopy(net)
        twin(images(2, *SHAPE, seed=5))
    assert seen[0]["body.0"] is kept
    assert torch.equal(twin(X), net(X))


def test_a_selection_made_inside_is_the_one_recorded() -> None:
    net = supernet(Chain())
    with net.features([0]) as seen:
        net.set_vector((2, 0))
        net(X)
    feature = seen[0]["body.0"]
    assert torch.equal(feature.output, part(net, "graph_module.body.0.candidates.maxpool3x3")(feature.input))


@pytest.mark.parametrize(
    ("slots", "kind"), [([2], "unknown_slot"), ([-1], "unknown_slot"), (["body.0"], "unknown_slot")]
)
def test_a_slot_that_does_not_exist_is_refused(slots: Any, kind: str) -> None:
    with (
        pytest.raises(UsageError, match=r"there is no slot .*: the space has 2 slots") as caught,
        supernet(Chain()).features(slots),
    ):
        pass
    assert caught.value.kind == kind


def test_a_skip_has_no_features() -> None:
    net = supernet(Chain(4), search_skips=True)
    slot = net.space.skip_slots[0]
    with pytest.raises(UsageError, match=rf"slot {slot} \(skip 0->2\) has no features") as caught, net.features([slot]):
        pass
    assert caught.value.kind == "no_features"


def test_a_forward_that_failed_shifts_no_name() -> None:
    net = narfx.Supernet(narfx.trace(settled(Shared()), input=(3, 8, 8))).eval()
    x = X
    with net.features(range(len(net.space))) as seen:
        net(x)
        right = {name: feature.output for slot in seen.values() for name, feature in slot.items()}
    calls = 0

    def fail(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("out of memory, say")

    with net.features(range(len(net.space))) as seen:
        handle = net.graph_module.get_submodule("again").register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="say"):
            net(x)
        handle.remove()
        net(x)
        for slot in seen.values():
            for name, feature in slot.items():
                assert torch.equal(feature.output, right[name]), name
