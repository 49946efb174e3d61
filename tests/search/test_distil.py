"""Operators learn the base's features: what is compared, what changes, what stays, and NaN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from trained_base import MODEL, solving

import narfx
from narfx.errors import UsageError
from narfx.inputs.model_ref import load_model
from narfx.inputs.weights import write_weights
from narfx.runs.progress import Silent
from narfx.search import SearchConfig, run
from narfx.search.config import Compared
from narfx.search.preparation import Distil
from narfx.search.preparation.lessons import Wanted
from narfx.search.prepared import prepare
from narfx.search.shared_weights import SharedWeights
from narfx.search.stages import stages_of
from narfx.support.ranks import Ranks
from narfx.tasks.options import DataOptions, open_task
from narfx.tasks.precision import Precision, PrecisionName
from narfx.training.method import method_of

SHAPE = (1, 8, 8)


class Net(nn.Module):
    """A convolution that is called twice, a functional one, and an operation in place after a site."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3) / 8)
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.out = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.twice(functional.relu(self.stem(x)))), inplace=True)
        x = functional.relu(self.twice(x)) + functional.conv2d(x, self.weight, padding=1)
        logits: Tensor = self.out(functional.relu_(self.last(x)).mean((2, 3)))
        return logits


class Said(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def shared(
    operators: tuple[str, ...] = ("base", "dwsep3x3", "avgpool3x3"), precision: PrecisionName = "fp32"
) -> SharedWeights:  # fmt: skip
    torch.manual_seed(0)
    traced = narfx.trace(Net(), input=SHAPE, operators=operators)
    config = SearchConfig(model="net", data="digits", batch_size=64, strategy="solve")
    task = open_task(
        DataOptions(data="digits", data_fraction=0.2, batch_size=64), SHAPE, seed=0, device=torch.device("cpu"),
        label_smoothing=0.0, precision=Precision(precision),
    )  # fmt: skip
    return SharedWeights(narfx.Supernet(traced), task, config, Said(), Ranks(), method_of(config))


def distilled(weights: SharedWeights, preparation: Distil) -> list[float]:
    found = [preparation.train(n, n, weights.net.space, weights) for n in range(preparation.epochs)]
    return [event.loss or 0.0 for event in found]


def learning(net: nn.Module) -> dict[str, Tensor]:
    """The weights of all operators but the base's."""
    return {
        key: value.clone() for key, value in net.state_dict().items() if "candidates" in key and ".base." not in key
    }


@pytest.mark.parametrize(("precision", "mixed"), [("fp32", 0), ("bf16", 0), ("bf16", 3)])
def test_operators_come_closer_and_the_base_stays_as_it_was(precision: PrecisionName, mixed: int) -> None:
    weights = shared(precision=precision)
    before, base = learning(weights.net), {
        key: value.clone() for key, value in weights.net.state_dict().items() if key not in learning(weights.net)
    }  # fmt: skip
    first, second, third = distilled(weights, Distil(3, 1e-2, mixed=mixed))
    assert third < 0.9 * first and second < first
    after = weights.net.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in base.items())
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert {key.split(".candidates.")[0].split(".")[-1] for key in changed} >= {"twice", "last"}
    assert len(changed) == len(before)


def test_a_pass_of_random_inputs_needs_no_more_memory_than_is_allowed() -> None:
    """Sites that learn in groups learn the same, to the last bit; narfx says that there are groups."""
    found = []
    for memory in (1 << 30, 1):
        weights = shared()
        distilled(weights, Distil(2, 1e-2, mixed=1, memory=memory))
        found.append(learning(weights.net))
        said = " ".join(weights.reporter.lines)  # type: ignore[attr-defined]
        assert ("learn in 3 groups of sites" in said) == (memory == 1)
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


@pytest.mark.parametrize("mixed", [0, 1])
def test_an_operator_that_gives_nan_is_named_and_the_others_go_on(mixed: int) -> None:
    """Also where the operators behind it get NaN from it."""

    class Broken(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.norm(self.conv(x) + (torch.nan if x.shape[0] > 8 else 0.0))
            return output

    narfx.register_operator(narfx.Operator("broken", build=lambda site: Broken(site.in_channels)))
    weights = shared(("base", "dwsep3x3", "broken"))
    start = learning(weights.net)
    event = Distil(1, 1e-2, mixed=mixed).train(0, 0, weights.net.space, weights)
    assert {name.partition(" at ")[0] for name in event.left_out or ()} == {"broken"}
    said = " ".join(weights.reporter.lines)  # type: ignore[attr-defined]
    assert "warning: broken at twice gave NaN, or a gradient that is not finite, for 4 of 4 batches" in said
    assert event.errors is not None and event.errors["twice"]["broken"] is None
    for key, value in learning(weights.net).items():
        assert torch.isfinite(value).all()
        assert torch.equal(value, start[key]) == ("broken" in key)


def test_what_cannot_learn_is_refused() -> None:
    weights = shared()
    space = weights.net.space
    for narrow, said in (
        (space.restrict({0: [1]}), "has no base to learn from"),
        (space.restrict({i: [0] for i in range(len(space))}), "the base is the only operator"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            Distil(1).train(0, 0, narrow, weights)
        assert caught.value.kind == "nothing_to_distil"


@given(st.integers(0, 10_000), st.floats(0.1, 10), st.floats(-5, 5))
def test_the_error_of_features(seed: int, scale: float, shift: float) -> None:
    """0 for the same, 1 for each channel's mean; standardised, neither scale nor shift counts."""
    wanted = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    outputs, standardised = Wanted(wanted, "output"), Wanted(wanted, "standardised")
    assert float(outputs.error(wanted)[0]) == 0
    mean = wanted.mean((0, 2, 3), keepdim=True).expand_as(wanted)
    assert float(outputs.error(mean)[0]) == pytest.approx(1, abs=1e-5)
    assert float(standardised.error(wanted * scale + shift)[0]) == pytest.approx(0, abs=1e-4)
    assert float(standardised.error(-wanted)[0]) == pytest.approx(4, abs=1e-4)


@given(st.integers(0, 10_000), st.sampled_from(["output", "standardised"]))
def test_the_gradient_of_the_error_is_that_of_its_definition(seed: int, compare: Compared) -> None:
    generator = torch.Generator().manual_seed(seed)
    wanted, output = (torch.randn(3, 4, 5, 5, generator=generator, dtype=torch.float32) for _ in range(2))
    wanted[:, 0] *= 1e-3  # below the floor
    output = output + wanted
    output.requires_grad_()
    axes = (0, 2, 3)
    variance = wanted.var(axes, correction=0, keepdim=True)
    variance = variance.clamp(min=float(0.01 * variance.mean()))
    if compare == "output":
        defined = ((output - wanted).square() / variance).mean()
    else:
        ours = (output - output.mean(axes, keepdim=True)) / output.std(axes, correction=0, keepdim=True)
        defined = (ours - (wanted - wanted.mean(axes, keepdim=True)) / variance.sqrt()).square().mean()
    defined.backward()
    error, gradient = Wanted(wanted, compare).error(output.detach())
    torch.testing.assert_close(error, defined.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, output.grad, rtol=1e-3, atol=1e-6)


def test_a_channel_that_is_always_the_same_does_not_count_without_bound() -> None:
    wanted = torch.randn(2, 2, 4, 4)
    wanted[:, 0] = 0
    output = wanted + 0.1
    kinds: tuple[Compared, ...] = ("output", "standardised")
    for compare in kinds:
        assert all(torch.isfinite(part).all() for part in Wanted(wanted, compare).error(output))


def test_searches_that_learn_from_a_base_need_one(tmp_path: Path) -> None:
    for changes, said in (
        ({}, "chance would be 10.0%; name its weights"),
        ({"init": "scratch"}, "--init scratch has none"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            run(solving(None, **changes), tmp_path / "run")
        assert caught.value.kind == "needs_weights" and not (tmp_path / "run").exists()


def test_weights_that_know_nothing_are_warned_of(tmp_path: Path) -> None:
    write_weights(load_model(MODEL, seed=5), tmp_path / "new.safetensors")
    config = solving(tmp_path / "new.safetensors")
    notes = " ".join(prepare(config, stages_of(config), "cpu", None).notes)
    assert "warning: the base classifies" in notes and "new.safetensors the right weights?" in notes
