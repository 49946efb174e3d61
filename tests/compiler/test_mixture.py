"""Mixtures: a weighted sum of the choices at each slot, with gradients to the weights."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from sample_networks import Chain, ResidualNet, Shared, images, part, settled
from torch import Tensor, nn

import narfx
from narfx.compiler.supernet import Supernet
from narfx.errors import UsageError
from narfx.models import MODELS
from narfx.operators.dispatch import Dispatch, SkipGate

SHAPE = (3, 8, 8)
X = images(4, *SHAPE)


def supernet(model: nn.Module | None = None, **options: Any) -> Supernet:
    return Supernet(narfx.trace(settled(model or Chain()), input=SHAPE), **options).eval()


def with_skips() -> Supernet:
    model = settled(MODELS["resnet8"].factory(width=4))
    return Supernet(narfx.trace(model, input=SHAPE, search_skips=True)).eval()


def one_hot(net: Supernet, vector: tuple[int, ...], *, gradients: bool) -> list[Tensor]:
    widths = [len(net.space.operators) if slot.skip is None else 2 for slot in net.space.slots]
    return [torch.eye(width)[entry].requires_grad_(gradients) for width, entry in zip(widths, vector, strict=True)]


def assert_same(found: Tensor, expected: Tensor, *, exact: bool) -> None:
    """Bit by bit where nothing is merged; but for rounding where one convolution computes several operators."""
    assert torch.equal(found, expected) if exact else torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def drawn(net: Supernet, seed: int) -> tuple[int, ...]:
    choices = torch.Generator().manual_seed(seed)
    return tuple(slot.legal[int(torch.randint(len(slot.legal), (), generator=choices))] for slot in net.space.slots)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("separate_norms", [False, True])
@pytest.mark.parametrize("make", [Chain, ResidualNet, Shared])
def test_weights_of_one_and_zero_give_the_vector(make: Any, separate_norms: bool, gradients: bool) -> None:
    net = supernet(make(), separate_norms=separate_norms).double()
    for seed in range(4):
        vector = drawn(net, seed)
        net.set_vector(vector)
        expected = net(X.double())
        net.set_mixture(one_hot(net, vector, gradients=gradients))
        # A norm follows each convolution of Chain, so that with separate norms its operators stay apart.
        assert_same(net(X.double()), expected, exact=not gradients or (separate_norms and make is Chain))


@pytest.mark.parametrize("gradients", [False, True])
def test_weights_of_one_and_zero_give_the_vector_with_its_skips(gradients: bool) -> None:
    net = with_skips().double()
    base = net.space.slots[-1].skip
    assert base is not None and any(slot.skip is not None and slot.skip.base for slot in net.space.slots)
    for seed in range(6):
        vector = drawn(net, seed)
        net.set_vector(vector)
        expected = net(X.double())
        net.set_mixture(one_hot(net, vector, gradients=gradients))
        assert_same(net(X.double()), expected, exact=not gradients)
        if not gradients:
            net.train()
            net.set_vector(vector)
            theirs = [id(p) for p in net.active_parameters()]
            net.set_mixture(one_hot(net, vector, gradients=False))
            assert [id(p) for p in net.active_parameters()] == theirs
            net.eval()


def test_a_mixture_is_the_weighted_sum_and_its_weights_get_its_gradients() -> None:
    net = supernet(Chain(1))
    weights = torch.tensor([[0.5, -0.25, 0.0, 2.0]], requires_grad=True)
    net.set_mixture(weights)
    site, stem, norm, head = (part(net.graph_module, path) for path in ("body.0", "stem", "body.1", "head"))
    x = stem(X)
    outputs = [site.candidates[name](x).detach() for name in net.space.operators]
    expected = head(norm(0.5 * outputs[0] - 0.25 * outputs[1] + 2.0 * outputs[3]).relu().mean((2, 3)))
    assert torch.allclose(net(X), expected, atol=1e-5)
    seen: list[Tensor] = []
    site.register_forward_hook(lambda _m, _i, output: seen.append(output))
    net(X)
    seen[0].sum().backward()
    assert weights.grad is not None
    # The gradient of each weight is the sum of its operator's output, also where the weight is 0.
    assert torch.allclose(weights.grad[0], torch.stack([output.sum() for output in outputs]), rtol=1e-4)


def test_with_norms_of_their_own_operator_and_norm_are_mixed_together() -> None:
    net = supernet(Chain(1), separate_norms=True)
    norms = part(net, "graph_module.body.1.candidates")
    for seed, norm in enumerate(norms.children()):
        norm.running_var.copy_(images(8, seed=seed).abs() + 0.1)
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(seed))
    logits = torch.tensor([0.3, 0.1, -0.2, 0.4], requires_grad=True)
    weights = logits.softmax(0)
    net.set_mixture([weights])
    operators = part(net, "graph_module.body.0.candidates")
    x = part(net, "graph_module.stem")(X)
    together = sum(w * norms[name](operators[name](x)) for w, name in zip(weights, net.space.operators, strict=True))
    apart = norms["base"](sum(w * operators[n](x) for w, n in zip(weights, net.space.operators, strict=True)))
    head = part(net, "graph_module.head")
    assert torch.allclose(net(X), head(together.relu().mean((2, 3))), atol=1e-5)
    assert not torch.allclose(net(X), head(apart.relu().mean((2, 3))), atol=1e-2)
    net(X).square().sum().backward()
    assert logits.grad is not None and logits.grad.abs().min() > 0
    net.train()
    before = {name: norm.running_mean.clone() for name, norm in norms.items()}
    net(X)
    assert all(not torch.equal(norm.running_mean, before[name]) for name, norm in norms.items())


def test_a_skip_is_added_times_the_weight_of_the_way_in_which_it_is_open() -> None:
    traced = narfx.trace(settled(Chain(3)), input=SHAPE, search_skips=True)
    assert traced.space.skip_slots
    net = Supernet(traced).eval()
    operators = [torch.eye(4)[0] for slot in net.space.slots if slot.skip is None]
    weights = torch.tensor([0.25, 0.75], requires_grad=True)
    closed = [torch.tensor([1.0, 0.0])] * (len(traced.space.skip_slots) - 1)
    net.set_mixture([*operators, weights, *closed])
    skip = net.space.slots[net.space.skip_slots[0]].skip
    assert skip is not None and not skip.base
    gates = [module for module in net.modules() if isinstance(module, SkipGate)]
    (gate,) = (gate for gate in gates if (skip.source, skip.target) in gate.pairs)
    seen = dict[str, Any]()
    # The ReLU after it works in place, so what is compared is computed at once.
    gate.register_forward_hook(
        lambda _m, inputs, output: seen.update(inputs=[t.detach().clone() for t in inputs], output=output.clone())
    )
    net(X)
    x, source = seen["inputs"][0], seen["inputs"][1 + gate.pairs.index((skip.source, skip.target))]
    assert torch.allclose(seen["output"], x + 0.75 * source)
    seen["output"].sum().backward()
    assert weights.grad is not None
    assert torch.allclose(weights.grad, torch.stack([torch.tensor(0.0), source.sum()]), rtol=1e-4)


def test_a_base_skip_with_a_shortcut_is_weighed_too() -> None:
    net = with_skips()
    shortcut = next(
        i for i, s in enumerate(net.space.slots) if s.skip is not None and s.skip.base and s.costs["params"][0]
    )
    rows = one_hot(net, net.space.base, gradients=False)
    for weight in (1.0, 0.5):
        rows[shortcut] = torch.tensor([weight, 1 - weight], requires_grad=True)
        net.set_mixture(rows)
        half = net(X)
        net.set_vector(net.space.base)
        assert torch.equal(half, net(X)) == (weight == 1.0)
        half.sum().backward()
        grad = rows[shortcut].grad
        assert grad is not None and grad[0] != 0 and grad[1] == 0


def test_what_has_no_weight_is_not_computed() -> None:
    net = supernet(separate_norms=True)
    for name, parameter in net.named_parameters():
        if "maxpool3x3" in name or "avgpool3x3" in name:
            parameter.data.fill_(float("nan"))
    tensor = torch.tensor([0.5, 0.5, 0.0, 0.0])
    rows: list[Any] = [[0.5, 0.5, 0, 0.0], tensor, [tensor[0], 0.5, tensor[2], 0]]
    for row in rows:
        net.set_mixture([row, row])
        assert net(X).isfinite().all()
        names = {name for name, p in net.named_parameters() if any(p is q for q in net.active_parameters())}
        assert {name.split("candidates.")[1].split(".")[0] for name in names if "candidates" in name} == {
            "base",
            "dwsep3x3",
        }
    net.set_mixture([torch.tensor([0.5, 0.5, 0.0, 0.0], requires_grad=True)] * 2)
    assert len(list(net.active_parameters())) == len(list(net.parameters()))
    assert not net(X).isfinite().all(), "a weight that wants its gradient needs the output"
    net.set_mixture([[0.0] * 4] * 2)
    assert net(X).isfinite().all()


def test_active_parameters_of_a_mixture_are_those_that_get_gradients() -> None:
    net = with_skips().train()
    rows = [[0.5, 0.5, 0, 0] if slot.skip is None else [0.5, 0.5] for slot in net.space.slots]
    net.set_mixture(
        [[w if k in s.legal else 0 for k, w in enumerate(r)] for r, s in zip(rows, net.space.slots, strict=True)]
    )
    net(X).square().sum().backward()
    active = {id(p) for p in net.active_parameters()}
    assert {id(p) for p in net.parameters() if p.grad is not None} == active
    assert len(active) < len(list(net.parameters()))


def test_a_mixture_is_not_told_as_a_vector_and_set_vector_ends_it() -> None:
    net = supernet()
    net.set_vector((1, 2))
    expected = net(X)
    net.set_mixture([[0, 1.0, 0, 0], [0, 0, 1.0, 0]])
    with pytest.raises(UsageError, match=r"a mixture is set.*set_vector") as caught:
        print(net.vector)
    assert caught.value.kind == "mixture_set"
    net.set_vector((1, 2))
    assert net.vector == (1, 2)
    assert torch.equal(net(X), expected)


@pytest.mark.parametrize("separate_norms", [False, True])
def test_lowering_keeps_the_mixture(separate_norms: bool) -> None:
    net = supernet(separate_norms=separate_norms)
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 2, requires_grad=True)
    net.set_mixture(weights)
    before = net(X)
    for vector in itertools.product(range(4), repeat=2):
        lowered = narfx.lower(net, vector)
        assert torch.equal(net(X), before)
        other = supernet(separate_norms=separate_norms)
        other.set_vector(vector)
        assert torch.equal(lowered(X), other(X))
    with pytest.raises(UsageError):
        narfx.lower(net, (0, 9))
    net(X).sum().backward()
    assert weights.grad is not None


def test_lowering_keeps_the_mixture_of_skips() -> None:
    net = with_skips()
    net.set_mixture([[0.5, 0.5, 0, 0] if slot.skip is None else [0.3, 0.7] for slot in net.space.slots])
    before = net(X)
    other = with_skips()
    for seed in range(3):
        vector = drawn(net, seed)
        other.set_vector(vector)
        assert torch.equal(narfx.lower(net, vector)(X), other(X))
        assert torch.equal(net(X), before)


def test_a_copy_shares_the_weights_of_its_mixture() -> None:
    net = supernet(Chain(1))
    logits = torch.zeros(4, requires_grad=True)
    net.set_mixture([logits.softmax(0)])
    twin = copy.deepcopy(net)
    assert torch.equal(twin(X), net(X))
    twin(X).square().sum().backward()
    assert logits.grad is not None and logits.grad.abs().sum() > 0


def test_weights_made_without_gradients_around_them_still_get_theirs() -> None:
    net = supernet(Chain(1))
    weights = torch.full((1, 4), 0.25, requires_grad=True)
    with torch.no_grad():
        net.set_mixture(weights)
    net(X).square().sum().backward()
    assert weights.grad is not None and weights.grad.abs().min() > 0


REFUSING = [
    ([[1.0, 0, 0, 0]], "mixture_length", r"the mixture has 1 row, but the space has 2 slots"),
    ([[1.0, 0, 0, 0]] * 3, "mixture_length", "3 rows"),
    (torch.ones(2, 3), "mixture_row", r"3 weights at slot 0 \(body.0\), but its choices are 4: base, dwsep3x3"),
    ([[1.0, 0, 0, 0], [1.0]], "mixture_row", r"1 weight at slot 1 \(body.3\)"),
    (0.5, "mixture", "not a float"),
    (torch.tensor(0.5), "mixture", "not a Tensor"),
    ([0.5, 0.5], "mixture_row", "not a float"),
    (torch.ones(2, 4, 1), "mixture_row", "with 2 axes"),
    ([["1", 0, 0, 0], [1, 0, 0, 0]], "mixture_row", "row of numbers"),
    ([torch.tensor([1j, 0, 0, 0]), [1, 0, 0, 0]], "mixture_row", "row of numbers"),
    ([[float("nan"), 0, 0, 0], [1, 0, 0, 0]], "mixture_weight", r"weight of base at slot 0 \(body.0\) is nan"),
    (torch.tensor([[0, 0, 0, torch.inf], [1, 0, 0, 0]], requires_grad=True), "mixture_weight", "avgpool3x3 .* is inf"),
    (
        [[1, 0, 0, 0], [0.5, 0, 0.5, 0]],
        "mixture_illegal",
        r"maxpool3x3 is not legal at slot 1 \(body.3\).*0.5: pooling",
    ),
]


@pytest.mark.parametrize(("mixture", "kind", "words"), REFUSING)
def test_rows_that_do_not_fit_are_refused_and_change_nothing(mixture: Any, kind: str, words: str) -> None:
    model = Chain()
    part(model, "body")[3] = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    net = supernet(model)
    net.set_vector((2, 1))
    before = net(X)
    with pytest.raises(UsageError, match=words) as caught:
        net.set_mixture(mixture)
    assert caught.value.kind == kind
    assert net.vector == (2, 1)
    assert torch.equal(net(X), before)


def test_a_row_of_a_skip_has_two_weights() -> None:
    net = with_skips()
    with pytest.raises(UsageError, match=r"its choices are 2: (open, closed|closed, open)"):
        net.set_mixture(torch.ones(len(net.space), 4) / 4)


def test_an_illegal_operator_may_have_the_zero_of_a_masked_softmax() -> None:
    model = Chain(1)
    part(model, "body")[0] = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    net = supernet(model)
    assert net.space.slots[0].legal == (0, 1)
    logits = torch.zeros(4, requires_grad=True)
    mask = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf])
    net.set_mixture([(logits + mask).softmax(0)])
    net(X).square().sum().backward()
    assert logits.grad is not None and logits.grad[0] != 0 and not logits.grad[2:].any()


def test_every_site_of_a_slot_follows_its_row() -> None:
    net = Supernet(narfx.trace(settled(ResidualNet()), input=SHAPE, granularity="block")).eval()
    assert any(len(slot.sites) > 1 for slot in net.space.slots)
    net.set_mixture(torch.tensor([[0.5, 0.5, 0, 0]]).expand(len(net.space), 4))
    found = [module for module in net.modules() if isinstance(module, Dispatch)]
    assert all(module.selected == ("base", "dwsep3x3") for module in found)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("rows", [False, True])
def test_weights_may_learn_while_the_mixture_is_set(rows: bool, apart: bool) -> None:
    """An optimizer's step on the weights is seen by the next forward, as the gradients after it are."""
    net = supernet(separate_norms=apart)
    weights = torch.full((2, 4), 0.25, requires_grad=True)
    net.set_mixture([weights[0], weights[1]] if rows else weights)
    optimizer = torch.optim.SGD([weights], lr=0.1)
    outputs = []
    for _ in range(3):
        optimizer.zero_grad()
        output = net(X)
        output.square().mean().backward()
        assert weights.grad is not None and weights.grad.abs().sum() > 0
        optimizer.step()
        outputs.append(output.detach())
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[1], outputs[2])
