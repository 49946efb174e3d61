"""Sites that declare their own candidates: found, swapped and lowered, for a network that knows nothing of narfx."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cell_networks import USER_CELLS
from command import in_process_json
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_networks import images, settled
from torch import Tensor, fx, nn

import narfx
from narfx.errors import UsageError
from narfx.graph.cost import measure
from narfx.passes import verify_lowered
from narfx.space import DeclaredSite

SHAPE = (3, 8, 8)
NAMES = ("conv3", "none", "skip", "pool", "conv5")


def user_net() -> nn.Module:
    scope: dict[str, object] = {"__name__": "a_users_file"}
    exec(compile(USER_CELLS, "<user>", "exec"), scope)
    net = scope["Net"]
    assert callable(net)
    return settled(net())


TRACED = narfx.trace(user_net(), SHAPE)


def test_the_sites_of_one_slot_stand_in_every_cell_of_a_kind() -> None:
    space = TRACED.space
    assert [slot.name for slot in space.slots] == [
        "normal 0->1", "normal 0->2", "normal 1->2", "reduce 0->1", "reduce 0->2", "reduce 1->2",
    ]  # fmt: skip
    assert [site.name for site in space.slots[0].sites] == ["cells.0.edges.0_1", "cells.2.edges.0_1"]
    assert all(slot.choices == NAMES and slot.legal == (0, 1, 2, 3, 4) for slot in space.slots)
    site = space.slots[3].sites[0]
    assert isinstance(site, DeclaredSite)
    assert (site.input_shapes, site.output_shape, site.kind) == (((8, 8, 8),), (8, 4, 4), "Edge")
    assert {entry.name for entry in TRACED.skipped} == {"stem", "cells.0.pre.0", "cells.1.pre.0", "cells.2.pre.0"}


def test_the_base_vector_is_the_model_bit_for_bit() -> None:
    model = user_net()
    net = narfx.Supernet(TRACED).eval()
    x = images(2, *SHAPE)
    assert torch.equal(net(x), model(x))
    lowered = narfx.lower(net, TRACED.space.base)
    assert torch.equal(lowered(x), model(x))
    assert lowered.state_dict().keys() == model.state_dict().keys()


vectors = st.tuples(*(st.sampled_from(slot.legal) for slot in TRACED.space.slots))


@settings(max_examples=40, deadline=None)
@given(vectors)
def test_a_lowered_network_computes_what_the_supernet_does_and_costs_what_the_space_says(
    vector: tuple[int, ...],
) -> None:
    net = narfx.Supernet(TRACED).eval()
    net.set_vector(vector)
    lowered = narfx.lower(net, vector).eval()
    x = images(2, *SHAPE)
    torch.testing.assert_close(lowered(x), net(x), rtol=1e-5, atol=1e-5)
    assert measure(lowered, SHAPE) == TRACED.space.cost(vector)
    assert verify_lowered(lowered) == []
    assert all(type(part).__module__.startswith("torch.") for part in lowered.modules() if part is not lowered)


def test_none_leaves_neither_a_call_nor_a_weight_behind() -> None:
    vector = TRACED.space.validate(["none", "conv3", "none", "conv3", "conv3", "skip"])
    lowered = narfx.lower(narfx.Supernet(TRACED), vector)
    text = lowered.code
    assert not any(key.startswith(("cells.0.edges.0_1", "cells.0.edges.1_2")) for key in lowered.state_dict())
    # Node 1 of the normal cells is zeros that the concatenation reads; nothing is added to anything there.
    assert text.count("torch.zeros_like(") == 2
    assert [node.name for node in lowered.graph.nodes if "mul" in node.name] == []
    before = narfx.lower(narfx.Supernet(TRACED), TRACED.space.base)
    adds = [sum("add" in node.name for node in each.graph.nodes) for each in (before, lowered)]
    assert adds[1] < adds[0]


def test_a_skip_is_no_computation_and_a_candidate_of_a_class_of_the_users_is_written_out() -> None:
    vector = TRACED.space.validate(["skip"] * 6)
    lowered = narfx.lower(narfx.Supernet(TRACED), vector)
    kinds = {type(part).__name__ for part in lowered.modules()}
    assert "Halve" not in kinds and "Edge" not in kinds
    assert "cells.1.edges.0_1.left.weight" in lowered.state_dict()


def test_candidates_start_from_tensors_of_equal_names_and_shapes_unless_the_model_says_how() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((4, 1, 1), 3.0))

        def forward(self, x: Tensor) -> Tensor:
            scaled: Tensor = x * self.weight
            return scaled

    class Other(Scaled):
        def narfx_candidates(self) -> dict[str, Callable[[], nn.Module] | None]:
            return {"own": None, "copy": Scaled, "set": Scaled}

    class Told(Other):
        def narfx_start(self, name: str, module: nn.Module) -> None:
            if name == "set":
                next(module.parameters()).fill_(7.0)

    for edge, expected in ((Other(), (5.0, 5.0)), (Told(), (3.0, 7.0))):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), edge)
        with torch.no_grad():
            edge.weight.fill_(5.0)
        net = narfx.Supernet(narfx.trace(model, SHAPE))
        for entry, value in enumerate(expected, 1):
            lowered = narfx.lower(net, [entry])
            assert torch.all(lowered.state_dict()["1.weight"] == value)


def test_a_mixture_over_candidates_sends_gradients_to_its_weights() -> None:
    net = narfx.Supernet(TRACED)
    weights = [torch.full((5,), 0.2, requires_grad=True) for _ in TRACED.space.slots]
    net.set_mixture(weights)
    net(images(2, *SHAPE)).square().sum().backward()
    assert all(row.grad is not None and torch.isfinite(row.grad).all() for row in weights)
    # Zeros add nothing, so that the weight of none changes nothing.
    assert all(row.grad is not None and row.grad[1] == 0 for row in weights)


class Pairs(nn.Module):
    """A node that reads two of three inputs: a slot over pairs."""

    def narfx_candidates(self) -> dict[str, Callable[[], nn.Module] | None]:
        return {"0+1": None, "0+2": lambda: Pick(0, 2), "1+2": lambda: Pick(1, 2)}

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return a + b


class Pick(nn.Module):
    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        given = (a, b, c)
        return given[self.first] + given[self.second]


class ThreeInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in range(3))
        self.node = Pairs()

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = (conv(x) for conv in self.convs)
        out: Tensor = self.node(a, b, c).mean((2, 3))
        return out


def test_two_of_n_inputs_are_a_slot_over_pairs() -> None:
    model = ThreeInputs().eval()
    traced = narfx.trace(model, SHAPE)
    net = narfx.Supernet(traced).eval()
    x = images(2, *SHAPE)
    outputs = [conv(x) for conv in model.convs]
    for entry, (a, b) in enumerate([(0, 1), (0, 2), (1, 2)]):
        net.set_vector([entry])
        expected = (outputs[a] + outputs[b]).mean((2, 3))
        lowered = narfx.lower(net, [entry])
        torch.testing.assert_close(net(x), expected)
        torch.testing.assert_close(lowered(x), expected)
        assert not any(type(part) in (Pairs, Pick) for part in lowered.modules())


class InPlace(nn.Module):
    """A sum in place changes the first edge's output, which must not be a tensor that others read."""

    def __init__(self, edge: Callable[[], nn.Module], again: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.a, self.b, self.again = edge(), edge(), again

    def forward(self, x: Tensor) -> Tensor:
        state = self.stem(x)
        first = self.a(state)
        total = first.add_(self.b(state))
        out: Tensor = ((first if self.again else total) + state).mean((2, 3))
        return out


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def narfx_candidates(self) -> dict[str, Callable[[], nn.Module] | None]:
        return {"conv": None, "none": None}

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Same(Optional):
    def narfx_candidates(self) -> dict[str, Callable[[], nn.Module] | None]:
        return {"conv": None, "same": nn.Identity}


@pytest.mark.parametrize("again", [False, True])
def test_zeros_in_a_sum_that_is_written_in_place(again: bool) -> None:
    traced = narfx.trace(InPlace(Optional, again).eval(), SHAPE)
    net = narfx.Supernet(traced).eval()
    x = images(2, *SHAPE)
    for vector in ([0, 0], [0, 1], [1, 0], [1, 1]):
        net.set_vector(vector)
        lowered = narfx.lower(net, vector)
        torch.testing.assert_close(lowered(x), net(x))
        # Zeros are made only where the other edge is written into them and they are read once more (or might be).
        assert ("zeros_like" in lowered.code) == (again and vector[0] == 1)
        assert ("add_(" in lowered.code) == (vector == [0, 0] or (again and vector == [1, 0]))


class Doubled(nn.Module):
    """Returns another type than it gets."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def test_a_candidate_that_returns_a_tensor_which_is_then_changed_is_refused() -> None:
    with pytest.raises(UsageError, match="candidate same returns its own input, which add_ changes in place at a"):
        narfx.trace(InPlace(Same), SHAPE)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"a": None, "b": lambda: nn.Conv2d(4, 5, 1)}, "candidate b maps 2x4x8x8 to 2x5x8x8 at 1: 2x4x8x8 is needed"),
        ({"a": None, "b": lambda: nn.Linear(3, 3)}, "candidate b cannot be run at 1"),
        ({"a": None, "b": lambda: 1 / 0}, "candidate b cannot be built at 1: ZeroDivisionError"),
        ({"a": None, "b": lambda: 3}, "candidate b builds an int at 1: its function must return a torch.nn.Module"),
        ({"a": None, "b": lambda: nn.ReLU(inplace=True)}, "candidate b changes its input at 1"),
        ({"a": None, "b": Doubled}, "candidate b maps float32 on cpu to float64 on cpu at 1: a candidate returns"),
        ({"a": None, "b c": None}, "has the name 'b c'"),
        ({"a": None, "pop": None}, "has the name 'pop'"),
        ({"a": None, "b": 3}, "has an int for b"),
        (["a"], "returns a list: it must return a dictionary"),
        (None, "returns None: it must return a dictionary"),
        (RuntimeError("no"), "fails: RuntimeError"),
    ],
)
def test_a_wrong_declaration_is_one_sentence_that_names_the_site(declared: object, said: str) -> None:
    class Wrong(nn.Conv2d):
        def narfx_candidates(self) -> object:
            if isinstance(declared, Exception):
                raise declared
            return declared

    with pytest.raises(UsageError) as error:
        narfx.trace(nn.Sequential(nn.Conv2d(3, 4, 1), Wrong(4, 4, 1)), SHAPE)
    assert said in str(error.value) and error.value.exit_code == 2


def test_sites_of_one_slot_declare_the_same_names() -> None:
    model = user_net()
    edge = model.get_submodule("cells.0.edges.0_1")
    edge.narfx_candidates = lambda: {"conv3": None, "none": None}  # type: ignore[assignment]
    with pytest.raises(UsageError, match=r"the sites of slot normal 0->1 declare other candidates: cells\.0\.edges"):
        narfx.trace(model, SHAPE)


def test_modules_that_cannot_be_swapped_stay_with_the_reason() -> None:
    class Scale(Same):
        def forward(self, x: Tensor, by: float = 1.0) -> Tensor:
            out: Tensor = self.conv(x) * by
            return out

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.shared = nn.Conv2d(3, 4, 1), Same()
            self.hooked, self.told, self.free, self.alone = Same(), Scale(), Same(), Alone()
            self.hooked.register_forward_hook(lambda module, given, output: output)
            self.other = nn.Conv2d(4, 4, 1)
            self.other.weight = self.shared.conv.weight

        def forward(self, x: Tensor) -> Tensor:
            x = self.hooked(self.shared(self.stem(x)))
            out: Tensor = self.alone(self.free(self.told(self.other(x), by=2.0)))
            return out

    class Alone(Same):
        def narfx_candidates(self) -> dict[str, Callable[[], nn.Module] | None]:
            return {"conv": None}

    traced = narfx.trace(Net(), SHAPE)
    assert [site.name for site in traced.space.sites] == ["free"]
    codes = {entry.name: entry.code for entry in traced.skipped}
    assert (codes["shared"], codes["told"], codes["alone"]) == ("shared_weight", "arguments", "no_candidate")
    assert "hooks" in {entry.code for entry in traced.skipped if entry.name == "hooked"}


def test_a_part_that_declares_nothing_is_not_refined() -> None:
    class Fixed(nn.Sequential):
        def narfx_candidates(self) -> dict[str, None]:
            return {}

    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Fixed(nn.Conv2d(4, 4, 3, padding=1)), Same())
    traced = narfx.trace(model, SHAPE)
    assert [site.name for site in traced.space.sites] == ["2"]
    assert {entry.name: entry.code for entry in traced.skipped} == {"0": "first", "1.0": "fixed"}


def test_another_model_with_other_candidates_has_another_fingerprint() -> None:
    def traced(names: tuple[str, ...]) -> str:
        class Choice(Optional):
            def narfx_candidates(self) -> dict[str, Callable[[], nn.Module] | None]:
                return dict.fromkeys(names, None)

        return narfx.trace(nn.Sequential(nn.Conv2d(3, 4, 1), Choice()), SHAPE).space.fingerprint()

    assert traced(("conv", "none")) == traced(("conv", "none")) != traced(("conv", "zero"))


def test_a_users_network_goes_through_the_commands_without_a_change_in_narfx(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text(USER_CELLS)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 96)
    pictures = (rng.random((96, 8, 8, 3)) * 90 + labels[:, None, None, None] * 40).astype("uint8")
    np.savez(
        tmp_path / "data.npz",
        x_train=pictures[:64], y_train=labels[:64], x_test=pictures[64:], y_test=labels[64:],
    )  # fmt: skip

    monkeypatch.chdir(tmp_path)
    command = in_process_json(capfd)

    def narfx_command(*arguments: str) -> Any:
        code, found, err = command(*arguments)
        assert code == 0, err
        return found

    report = narfx_command("trace", "net.py")
    assert report["slots"] == 6 and report["sites"][0]["choices"] == list(NAMES)
    budget = ("--budget", "macs<=0.7x")
    narfx_command("search", "net.py", "--data", "data.npz", "--epochs", "1", "--out", "run", "--quiet", *budget)
    found = json.loads((tmp_path / "run" / "arch.json").read_text())
    assert len(found["vector"]) == 6 and found["fingerprint"] == report["fingerprint"]
    done = narfx_command("apply", "run/arch.json", "--out", "bundle")
    assert done["macs"] <= 0.7 * done["base"]["macs"] and done["parity"]["passed"]
    source = (tmp_path / "bundle" / "model.py").read_text()
    assert "it needs only torch" in source and "Edge" not in source
    assert narfx_command("check", "bundle")["parity"]["passed"]


def test_a_lowered_network_is_a_plain_graph_module() -> None:
    lowered = narfx.lower(narfx.Supernet(TRACED), [1] * 6)
    assert isinstance(lowered, fx.GraphModule)
    assert torch.equal(lowered(images(1, *SHAPE)), lowered(images(1, *SHAPE, seed=1)))
