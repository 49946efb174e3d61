"""From a model to a graph: what stays opaque, what is said of it, and what is refused."""

from __future__ import annotations

import copy
import threading
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from sample_networks import Chain, Fickle, ResidualNet, images, part, settled
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import narfx
from narfx.errors import NothingToRefineError, UsageError
from narfx.graph.cost import measure, shapes_and_cost
from narfx.graph.tracing import trace_graph

SHAPE = (3, 8, 8)


def refused(model: nn.Module, kind: str, **options: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        narfx.trace(model, **{"input": SHAPE, **options})
    assert caught.value.kind == kind
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return caught.value


class Gate(nn.Module):
    """Asks a value which way to go."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:  # line of the question
            x = self.conv(x)
        return x


class Gated(Chain):
    """A chain with two gates in the middle, one of them inside another module."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.deep = Gate(), nn.Sequential(nn.ReLU(), Gate())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(self.deep(self.gate(self.stem(x)))).mean((2, 3)))
        return y


def line_of(words: str) -> str:
    """``file:line`` of the one line of this file that ends with these words."""
    with open(__file__) as lines:  # noqa: PTH123
        (number,) = [number for number, line in enumerate(lines, 1) if line.rstrip().endswith(words)]
    return f"{__file__}:{number}"


def test_a_part_that_asks_for_values_becomes_opaque() -> None:
    model, x = settled(Gated()), images(2, *SHAPE)
    traced = narfx.trace(model, input=SHAPE)
    opaque, other = [entry for entry in traced.skipped if entry.code == "untraceable"]
    assert (opaque.name, other.name) == ("gate", "deep.1")
    assert opaque.reason.startswith("Gate cannot be traced and stays opaque: symbolically traced variables")
    assert opaque.where == line_of("# line of the question")
    inside = {entry.name: entry.reason for entry in traced.skipped if entry.code == "opaque"}
    assert inside == {
        "gate.conv": "it is inside gate (Gate), which is opaque",
        "deep.1.conv": "it is inside deep.1 (Gate), which is opaque",
    }
    assert [slot.name for slot in traced.space.slots] == ["body.0", "body.3"]
    with torch.no_grad():
        for sample in (x, -x):
            assert torch.equal(traced.graph_module(sample), model(sample))
        net = narfx.Supernet(traced).eval()
        net.set_vector((1, 2))
        assert torch.equal(narfx.lower(net, (1, 2))(x), net(x))
    assert set(traced.graph_module.state_dict()) == set(model.state_dict())


def test_a_partial_trace_can_be_refused() -> None:
    with pytest.raises(NothingToRefineError, match="the trace is partial: gate: Gate cannot be traced") as caught:
        narfx.trace(Gated(), input=SHAPE).check_whole()
    assert (caught.value.kind, caught.value.exit_code) == ("partial_trace", 3)
    assert caught.value.where == line_of("# line of the question")
    narfx.trace(Chain(), input=SHAPE).check_whole()


def test_parts_that_fail_in_different_classes_are_all_opaque() -> None:
    class Length(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * len(x)

    class Both(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.length = Gate(), Length()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.body(self.length(self.gate(self.stem(x))))
            return y

    model = settled(Both())
    traced = narfx.trace(model, input=SHAPE)
    assert [entry.name for entry in traced.skipped if entry.code == "untraceable"] == ["gate", "length"]
    x = images(3, *SHAPE)
    with torch.no_grad():
        assert torch.equal(traced.graph_module(x), model(x))


def test_a_root_that_cannot_be_traced_names_itself_and_the_line() -> None:
    class Asking(Chain):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            if y.sum() > 0:  # line of the root
                return y
            return -y

    error = refused(Asking(), "untraceable")
    assert str(error).startswith(f"torch.fx cannot trace the model (Asking) at {line_of('# line of the root')}")
    assert "move data-dependent control flow into its own submodule" in str(error)
    assert error.where == line_of("# line of the root")


class NoInput(Chain):
    def forward(self) -> Tensor:  # type: ignore[override]
        return torch.zeros(1)


class TwoInputs(Chain):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x + y)


class KeywordInput(Chain):
    def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x * mask)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (NoInput, "takes 0 required inputs (none)"),
        (TwoInputs, "takes 2 required inputs (x, y)"),
        (KeywordInput, "takes 2 required inputs (x, mask)"),
    ],
)
def test_networks_of_no_or_several_inputs_are_refused(make: Callable[[], nn.Module], said: str) -> None:
    error = refused(make(), "inputs")
    assert f"{make.__name__}.forward {said}" in str(error)
    assert error.where == make.__name__


class Optional(Chain):
    def forward(
        self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None, flip: bool = False, *, shift: int = 0
    ) -> Tensor:
        if mask is not None:
            x = x * mask
        if flip:
            x = x.flip(3)
        return super().forward(x) * scale + shift


def test_optional_arguments_are_bound_to_their_defaults() -> None:
    model, x = settled(Optional()), images(2, *SHAPE)
    traced = narfx.trace(model, input=SHAPE)
    with torch.no_grad():
        assert torch.equal(traced.graph_module(x), model(x))
        lowered = narfx.lower(narfx.Supernet(traced), (1, 0))
        assert lowered(x).shape == model(x).shape
        # What the trace has baked in cannot be asked for in vain.
        with pytest.raises(AssertionError, match="specialized"):
            lowered(x, 3.0)
        with pytest.raises(AssertionError, match="specialized"):
            lowered(x, 2.0, torch.ones(1))


def test_what_was_traced_can_be_traced_again() -> None:
    """A bound ``None`` once left torch's tracer broken for the rest of the process."""
    model, x = settled(Optional()), images(2, *SHAPE)
    first = narfx.trace(model, input=SHAPE)
    again = narfx.trace(first.graph_module, input=SHAPE)
    assert measure(first.graph_module, SHAPE) == measure(model, SHAPE) == again.cost
    assert again.space.fingerprint() == first.space.fingerprint()
    assert torch.equal(again.graph_module(x), model(x))
    narfx.trace(Chain(), input=SHAPE)


class Starred(Chain):
    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(inputs[0])


def test_a_starred_input_is_one_input() -> None:
    model, x = settled(Starred()), images(2, *SHAPE)
    traced = narfx.trace(model, input=SHAPE)
    assert torch.equal(traced.graph_module(x), model(x))


class Forwarding(nn.Module):
    """Hands on what it gets, as wrappers do; images are all that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Forwarded()

    def forward(self, *inputs: Tensor, **options: Any) -> Tensor:
        result: Tensor = self.inner(*inputs, **options)
        return result


class Forwarded(Chain):
    def forward(self, x: Tensor, *more: Tensor, scale: float = 2.0, **options: Any) -> Tensor:
        for name in options:
            raise ValueError(name)
        return super().forward(x) * scale if not more else x


@pytest.mark.parametrize("make", [Forwarding, Forwarded])
def test_starred_arguments_are_handed_on(make: Callable[[], nn.Module]) -> None:
    model, x = settled(make()), images(2, *SHAPE)
    traced = narfx.trace(model, input=SHAPE)
    assert len(traced.space) == len(narfx.trace(Chain(), input=SHAPE).space)
    assert torch.equal(traced.graph_module(x), model(x))
    again = narfx.trace(traced.graph_module, input=SHAPE)
    assert torch.equal(again.graph_module(x), model(x))


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 8, 8), (3, 1, 1)])
def test_a_shape_that_the_model_does_not_take_is_refused(shape: tuple[int, int, int]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1))
    error = refused(model, "input_shape", input=shape)
    assert f"does not accept an input of {','.join(map(str, shape))} (channels, height, width)" in str(error)


@pytest.mark.parametrize("shape", [(3, 8), (3, 8, 8, 8), (0, 8, 8), (3, -8, 8), (3, 8.0, 8), (3, 8, True)])
def test_what_is_no_shape_is_refused(shape: Any) -> None:
    assert "three positive integers" in str(refused(Chain(), "input_shape", input=shape))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"granularity": "cell"}, "bad_option"),
        ({"operators": ()}, "bad_option"),
        ({"operators": ("dwsep3x3",)}, "bad_option"),
        ({"operators": ("base", "dwsep3x3", "dwsep3x3")}, "bad_option"),
        ({"operators": ("base", "nonsense")}, "unknown_operator"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], kind: str) -> None:
    refused(Chain(), kind, **options)


class Dropping(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5, training=self.training)


class Choosing(Chain):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.tanh(y) if self.training else torch.relu(y)


class Adding(Chain):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + torch.ones_like(y) if self.training else y


@pytest.mark.parametrize(
    ("make", "first"),
    [
        (Choosing, "relu(head) (in training mode tanh(head))"),
        (Adding, "return head (in training mode ones_like(head))"),
    ],
)
def test_what_differs_between_the_modes_is_noted(make: Callable[[], nn.Module], first: str) -> None:
    (note,) = narfx.trace(make(), input=SHAPE).notes
    assert f"the trace has eval mode: first at {first}" in note
    assert "make it a submodule whose forward reads self.training" in note


def test_a_functional_dropout_follows_the_mode() -> None:
    model, x = Dropping(), images(2, *SHAPE)
    traced = narfx.trace(model, input=SHAPE)
    assert traced.notes == ()
    lowered = narfx.lower(narfx.Supernet(traced), traced.space.base)
    assert list(lowered.state_dict()) == list(model.state_dict())
    for training in (False, True):
        model.train(training)
        lowered.train(training)
        torch.manual_seed(0)
        wanted = model(x)
        torch.manual_seed(0)
        assert torch.equal(lowered(x), wanted)
    assert not torch.equal(lowered(x), lowered(x))


def test_a_dropout_that_never_asks_the_mode_stays_as_it_is() -> None:
    class Always(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(super().forward(x), 0.5, training=True)

    traced = narfx.trace(Always(), input=SHAPE)
    assert traced.notes == ()
    assert not any(isinstance(module, nn.Dropout) for module in traced.graph_module.modules())


def test_modules_that_follow_the_mode_are_no_difference() -> None:
    class Noise(nn.Module):
        """Holds no convolution and asks the mode: it stays one call."""

        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if self.training else x

    class Quiet(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.noise = nn.Dropout(0.5), Noise()

        def forward(self, x: Tensor) -> Tensor:
            return self.noise(self.drop(super().forward(x)))  # type: ignore[no-any-return]

    model, x = settled(Quiet()), images(2, *SHAPE)
    traced = narfx.trace(model, input=SHAPE)
    assert traced.notes == ()
    assert torch.equal(traced.graph_module(x), model(x))
    model.train()
    traced.graph_module.train()
    outputs = []
    for network in (model, traced.graph_module):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            outputs.append(network(x))
    assert torch.equal(*outputs)


def test_keys_that_the_trace_drops_are_noted() -> None:
    class Spare(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(2, 2)
            self.alias = self.body[0]

    (note,) = narfx.trace(Spare(), input=SHAPE).notes
    told = "2 keys of the model are not used by the traced graph: unused.bias, unused.weight; they stay"
    assert note == f"{told} in the state dict"


def test_buffers_that_are_computed_with_are_not_baked_in() -> None:
    class Scaled(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.scale: Tensor
            self.register_buffer("scale", torch.full((1, 3, 1, 1), 4.0))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * self.scale.sqrt() * torch.tensor(0.5))

    model, x = settled(Scaled()), images(2, *SHAPE)
    traced = narfx.trace(model, input=SHAPE)
    assert traced.notes == ()
    net = narfx.Supernet(traced).eval()
    for network in (traced.graph_module, narfx.lower(net, (0, 0))):
        assert set(network.state_dict()) == set(model.state_dict())
        assert torch.equal(network(x), model(x))
        network.load_state_dict({**model.state_dict(), "scale": torch.full((1, 3, 1, 1), 9.0)})
        assert not torch.equal(network(x), model(x))


@pytest.mark.parametrize(
    ("name", "side", "heads", "keys"),
    [("googlenet", 64, "aux1, aux2", 20), ("inception_v3", 96, "AuxLogits", 14)],
)
def test_auxiliary_heads_are_noted_with_the_way_to_do_without(name: str, side: int, heads: str, keys: int) -> None:
    make = getattr(torchvision.models, name)
    with torch.device("meta"):
        model = make(weights=None, init_weights=False, aux_logits=True)
        without = make(weights=None, init_weights=False, aux_logits=False)
    differs, dropped = narfx.trace(model, input=(3, side, side)).notes
    first = heads.partition(",")[0]
    assert dropped.startswith(f"{keys} keys of the model are not used by the traced graph: {first}.")
    assert "the trace has eval mode" in differs
    mend = f"only training calls {heads}, auxiliary heads: build the model without them, by aux_logits=False"
    assert differs.endswith(mend)
    assert narfx.trace(without, input=(3, side, side)).notes == ()


Heads = namedtuple("Heads", ["main", "side"])


@pytest.mark.parametrize(
    "make",
    [
        lambda y, x: OrderedDict(out=y),
        lambda y, x: OrderedDict(out=y, features=OrderedDict(low=x)),
        lambda y, x: {"out": y, "features": [x]},
        lambda y, x: Heads(y, x),
    ],
)
def test_the_container_of_the_outputs_keeps_its_type(make: Callable[[Tensor, Tensor], Any]) -> None:
    class Several(Chain):
        def forward(self, x: Tensor) -> Any:
            y: Tensor = super().forward(x)
            return make(y, y.relu())

    model, x = settled(Several()), images(2, *SHAPE)
    traced = narfx.trace(model, input=SHAPE, search_skips=True)
    plain = narfx.trace(Chain(), input=SHAPE, search_skips=True)
    assert traced.skips is not None and plain.skips is not None
    assert traced.skips.nodes == plain.skips.nodes
    wanted = model(x)
    net = narfx.Supernet(traced).eval()
    for network in (traced.graph_module, net, narfx.lower(net, traced.space.base), copy.deepcopy(traced.graph_module)):
        found = network(x)
        assert type(found) is type(wanted)
        assert pytree.tree_structure(found) == pytree.tree_structure(wanted)
        assert all(map(torch.equal, pytree.tree_leaves(found), pytree.tree_leaves(wanted)))


def test_a_part_that_only_training_calls_is_named() -> None:
    class Watched(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = super().forward(x)
            return y + self.extra(x) if self.training else y

    differs = narfx.trace(Watched(), input=SHAPE).notes[0]
    assert differs.endswith("only training calls extra: leave that out, or read self.training in its own forward")


@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), ["it contains no convolution"]),
        (nn.Sequential(nn.Conv2d(3, 8, 3)), ["0: it is the network's first convolution (--include-first"]),
        (
            nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1)),
            ["0: its kernel is 1x1", "1: it is depthwise already", "2: its kernel is 1x1"],
        ),
        (
            nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(6))),
            ["0: its kernel is 1x1", "3: its kernel is 1x1; ..."],
        ),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 3, padding_mode="reflect")),
            ["1: no operator may stand here (dwsep3x3: it has 81 parameters, more than 1 times the site's own 73; max"],
        ),
    ],
)
def test_a_model_with_nothing_to_refine_says_why(model: nn.Module, reasons: list[str]) -> None:
    with pytest.raises(NothingToRefineError) as caught:
        narfx.trace(model, input=SHAPE)
    assert caught.value.exit_code == 3
    for reason in reasons:
        assert reason in str(caught.value)


def test_only_the_base_is_nothing_to_refine() -> None:
    with pytest.raises(NothingToRefineError, match="there is no other operator"):
        narfx.trace(Chain(), input=SHAPE, operators=("base",))


def test_a_candidate_may_be_allowed_to_grow() -> None:
    operators = ("base", "conv5x5")
    with pytest.raises(NothingToRefineError, match=r"conv5x5: it has 1,600 parameters, more than 1 times the site's"):
        narfx.trace(Chain(), input=SHAPE, operators=operators)
    traced = narfx.trace(Chain(), input=SHAPE, operators=operators, max_candidate_params=3.0)
    assert [slot.legal for slot in traced.space.slots] == [(0, 1), (0, 1)]


def test_hooks_on_the_model_itself_are_refused() -> None:
    model = Chain()
    model.register_forward_hook(lambda *_: None)
    assert "has forward hooks on the model itself" in str(refused(model, "root_hooks"))


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model = Chain()
    model.lock = threading.Lock()  # type: ignore[assignment]
    assert "cannot be copied (TypeError" in str(refused(model, "not_copyable"))


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_an_old_norm_is_left_out_and_the_rest_refined(norm: Callable[[nn.Module], nn.Module]) -> None:
    model, x = settled(Chain()), images(2, *SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, that these norms are old
        norm(part(model, "body.0"))
    model.eval()
    traced = narfx.trace(model, input=SHAPE)
    assert [site.name for site in traced.space.sites] == ["body.3"]
    assert {s.name: s.code for s in traced.skipped}["body.0"] == "hooks"
    lowered = narfx.lower(narfx.Supernet(traced), (0,)).eval()
    with torch.no_grad():
        assert torch.equal(lowered(x), model(x))
    assert list(lowered.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("name", ["code", "graph", "meta", "recompile"])
def test_a_name_that_the_graph_module_needs_is_refused(name: str) -> None:
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 8, 3))
    model.add_module(name, nn.Conv2d(8, 8, 3))
    assert f"has a part named {name}" in str(refused(model, "name_clash"))
    inner = nn.Sequential(nn.Conv2d(3, 8, 3), model.get_submodule(name))
    narfx.trace(nn.Sequential(inner), input=SHAPE)


def test_a_trace_in_training_mode_leaves_the_model_in_its_mode() -> None:
    model = Chain().train()
    found = trace_graph(model, training=True)
    assert model.training
    assert found.graph_module.training
    assert not any(module.training for module in trace_graph(model).graph_module.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_kinds_of_numbers(dtype: torch.dtype) -> None:
    model, x = settled(Chain()).to(dtype), images(2, *SHAPE).to(dtype)
    traced = narfx.trace(model, input=SHAPE)
    net = narfx.Supernet(traced).eval()
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
        assert narfx.lower(net, (1, 2))(x).dtype == dtype


def test_shapes_and_costs_by_hand() -> None:
    graph_module = trace_graph(Chain(1)).graph_module
    cost = shapes_and_cost(graph_module, (3, 10, 6))
    shapes = {node.name: shape for node, shape in cost.shapes.items()}
    assert shapes["stem"] == shapes["body_0"] == (1, 8, 10, 6)
    assert shapes["head"] == (1, 5)
    assert cost.params == (27 * 8 + 8) + 9 * 8 * 8 + 16 + (8 * 5 + 5)
    assert cost.macs == 60 * (27 * 8 + 9 * 8 * 8) + 8 * 5


def test_macs_of_functional_calls_and_transposed_convolutions_count() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.matrix = nn.Parameter(torch.ones(4, 3, 3, 3)), nn.Parameter(torch.ones(2, 4))
            self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(F.conv2d(x, self.kernel, padding=1))
            return F.linear(y.mean((2, 3)), weight=self.matrix)

    assert measure(Functional(), SHAPE)["macs"] == 64 * 27 * 4 + 64 * 4 * 4 * 4 + 4 * 2
    assert measure(fx.symbolic_trace(Functional()), SHAPE) == measure(Functional(), SHAPE)


def test_a_report_holds_plain_values_for_every_convolution() -> None:
    report = narfx.trace(ResidualNet(), input=SHAPE, granularity="block").to_json()
    assert list(report) == [
        "model",
        "input",
        "granularity",
        "params",
        "macs",
        "operators",
        "slots",
        "sites",
        "skipped",
        "cost",
        "fingerprint",
        "dropped",
        "notes",
    ]
    assert report["slots"] == 2
    assert [site["slot"] for site in report["sites"]] == [0, 0, 1, 1]
    assert report["sites"][0] == {
        "name": "q",
        "slot": 0,
        "kind": "conv3x3",
        "in_channels": 8,
        "out_channels": 8,
        "kernel": [3, 3],
        "stride": [1, 1],
        "groups": 1,
        "input_shape": [8, 8, 8],
        "output_shape": [8, 8, 8],
        "params": 584,
        "macs": 36864,
        "candidates": ["base", "dwsep3x3", "maxpool3x3", "avgpool3x3"],
        "where": report["sites"][0]["where"],
    }
    assert report["cost"]["base"] == {"params": report["params"], "macs": report["macs"]}
    assert report["cost"]["min"]["macs"] < report["cost"]["base"]["macs"] == report["cost"]["max"]["macs"]
    assert [(entry["name"], entry["code"]) for entry in report["skipped"]] == [("p", "first")]


def test_only_the_instance_that_cannot_be_traced_is_opaque() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *(Fickle(bad) for bad in (False, True, False, True)))
    traced = narfx.trace(model, input=SHAPE)
    assert [site.name for site in traced.space.sites] == ["1.conv", "3.conv"]
    assert [entry.name for entry in traced.skipped if entry.code == "untraceable"] == ["2", "4"]


def test_a_class_that_fails_again_and_again_is_opaque_and_each_instance_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), *(Fickle(True) for _ in range(9)))
    traced = narfx.trace(model, input=SHAPE)
    assert [entry.name for entry in traced.skipped if entry.code == "untraceable"] == [str(n) for n in range(2, 11)]


def test_a_forward_that_writes_to_its_parameters_writes_to_a_copy() -> None:
    class Clamped(Chain):
        def forward(self, x: Tensor) -> Tensor:
            for parameter in self.parameters():
                parameter.data.clamp_(-0.001, 0.001)
            return super().forward(x)

    model = settled(Clamped())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    narfx.trace(model, input=SHAPE)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_what_happens_to_the_model_behind_the_trace_does_not_reach_it() -> None:
    model, x = settled(Chain()), images(2, *SHAPE)
    traced = narfx.trace(model, input=SHAPE)
    with torch.no_grad():
        wanted = model(x)
        settled(model, seed=1).double()
        assert torch.equal(narfx.Supernet(traced).eval()(x), wanted)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.Conv2d(8, 8, 3)), "uninitialised"),
        (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))), "scripted"),
    ],
)
def test_what_torch_itself_cannot_trace_is_named(make: Callable[[], nn.Module], kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that scripts and lazy layers will change
        refused(make(), kind)


def test_a_device_that_is_not_here_is_named() -> None:
    class Moving(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.to("cuda:7"))

    assert "needs a device that this machine does not have" in str(refused(Moving(), "no_device"))


@pytest.mark.parametrize("geometry", ["stride", "padding", "dilation"])
def test_a_geometry_of_one_number_is_one_of_two(geometry: str) -> None:
    """Code that changes a trained network often sets an integer where torch keeps a pair."""
    model = Chain()
    setattr(part(model, "body.0"), geometry, 2)
    traced = narfx.trace(model, input=SHAPE)
    assert getattr(traced.space.sites[0], geometry) == (2, 2)


def test_an_error_says_why_no_convolution_is_a_site() -> None:
    with pytest.raises(NothingToRefineError) as caught:
        narfx.trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)), input=SHAPE)
    assert caught.value.details == {"skipped": [{"name": "0", "code": "first"}, {"name": "1", "code": "depthwise"}]}
