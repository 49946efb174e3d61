"""Strategies of a user: one trains with the supernet, one has a schedule and data of its own; and their names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_search import CONFIG, Count, broken_off, same

from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.compiler.supernet import Supernet
from narfx.errors import UsageError
from narfx.runs.events import Saved, Step, Weights, iter_events
from narfx.search import (
    Evaluated,
    Minibatch,
    Proposal,
    Result,
    RewardSteps,
    SearchConfig,
    WeightSteps,
    make_strategy,
    register_strategy,
    run,
    strategy_names,
    strategy_options,
)
from narfx.search.history import History
from narfx.space.records import Vector
from narfx.space.sampling import FeasibleSampler
from narfx.space.space import SearchSpace
from narfx.support.seeds import numpy_generator
from narfx.tasks.task import Task


class ByGradient:
    """A score for each choice, lowered by the training loss of the vectors that had it; trains weights by itself.

    Args:
        space: The slots.
        seed: Of the draws.
        rate: How far one minibatch moves a score.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0, rate: float = 0.1) -> None:
        self._space, self._seed, self._rate = space, seed, rate
        self._scores = torch.zeros(len(space), len(space.operators))
        self._steps = 0

    def train_step(self, net: Supernet, task: Task, batches: Minibatch) -> dict[str, Any]:
        assert net.training
        vector = FeasibleSampler(self._space).draw(numpy_generator(self._seed, self._steps))
        net.set_vector(vector)
        x, y = batches.validation
        gradients = torch.autograd.grad(task.loss(net(x), y), [*net.active_parameters()], allow_unused=True)
        norm = float(torch.stack([g.norm() for g in gradients if g is not None]).norm())
        loss = batches.train_weights()
        for slot, entry in enumerate(vector):
            self._scores[slot, entry] -= self._rate * loss
        self._steps += 1
        return {"norm": norm, "vector": list(vector)} if self._steps % 2 else {}

    def finalists(self, n: int) -> list[Vector]:
        sampler, rng = FeasibleSampler(self._space), numpy_generator(self._seed, "finalists")
        drawn = {sampler.draw(rng) for _ in range(50)}
        return sorted(drawn, key=lambda v: (-float(sum(self._scores[i, k] for i, k in enumerate(v))), v))[:n]

    def archive(self) -> list[Evaluated]:
        return []

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self._scores.clone(), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._scores, self._steps = state["scores"].clone(), state["steps"]


class InTurns:
    """Uniform draws with a number each, rewards between every two minibatches, and only weights in the first epoch.

    Args:
        space: The slots.
        seed: Of the draws.
        every: Minibatches between two steps.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0, every: int = 2) -> None:
        self._space, self._seed, self._every = space, seed, every
        self._history = History(space)
        self._asked = 0
        self._numbers: list[int] = []

    def schedule(self, epoch: int, minibatches: int, steps: int) -> Iterator[WeightSteps | RewardSteps]:
        if epoch == 0:
            yield WeightSteps(minibatches)
        else:
            for _ in range(minibatches // self._every):
                yield WeightSteps(self._every)
                yield RewardSteps(1)

    def ask(self, n: int) -> list[Proposal]:
        numbers = range(self._asked, self._asked + n)
        self._asked += n
        sampler = FeasibleSampler(self._space)
        return [
            Proposal(sampler.draw(numpy_generator(self._seed, number)), {"number": torch.tensor(number)})
            for number in numbers
        ]

    def tell(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> dict[str, Any]:
        _, rewards = self._history.add(proposals, results)
        self._numbers += [int(proposal.data["number"]) for proposal in proposals]
        return {"reward": sum(rewards) / len(rewards), "numbers": self._numbers[-len(rewards) :]}

    def finalists(self, n: int) -> list[Vector]:
        return self._history.best(n)

    def archive(self) -> list[Evaluated]:
        return self._history.archive()

    def state_dict(self) -> dict[str, Any]:
        return {"history": self._history.state_dict(), "asked": self._asked, "numbers": self._numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._history.load_state_dict(state["history"])
        self._asked, self._numbers = state["asked"], list(state["numbers"])


# One line a strategy: this is all that registers it.
register_strategy("test-by-gradient", ByGradient)
register_strategy("test-in-turns", InTurns)


def config(strategy: str, **options: Any) -> SearchConfig:
    return SearchConfig(**CONFIG | {"strategy": strategy, "strategy_options": options})


@pytest.fixture(scope="module")
def by_gradient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gradient") / "run"
    run(config("test-by-gradient", rate=0.2), out)
    return out


@pytest.fixture(scope="module")
def in_turns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("turns") / "run"
    run(config("test-in-turns"), out)
    return out


# A strategy that trains with the supernet


def test_a_strategy_that_trains_with_the_supernet_sees_every_minibatch(by_gradient: Path) -> None:
    weights, steps = list(iter_events(by_gradient, Weights)), list(iter_events(by_gradient, Step))
    assert [event.epoch for event in weights] == [1, 2, 3]
    minibatches = [step for step in steps if step.epoch == 2]
    assert len(steps) == 5  # of five minibatches an epoch, in two epochs, those for which the strategy has metrics
    assert len(minibatches) == 3
    for step in steps:
        assert (step.vectors, step.rewards, step.metric) == ([], [], "accuracy")
        assert step.more["norm"] > 0
    assert json.loads((by_gradient / "arch.json").read_text())["metrics"]["strategy"] == "test-by-gradient"


@pytest.mark.parametrize("event", [2, 6])
def test_it_resumes_to_the_same(tmp_path: Path, by_gradient: Path, event: int) -> None:
    broken_off(tmp_path / "run", event, config("test-by-gradient", rate=0.2))
    same(tmp_path / "run", by_gradient)


def test_it_cannot_be_asked_by_hand() -> None:
    with pytest.raises(UsageError, match=r"narfx\.search\.run") as caught:
        make_strategy("test-by-gradient", SearchSpace.uniform(3, 2))
    assert caught.value.kind == "supernet_strategy"


# A schedule, data and an archive of a strategy's own


def test_the_schedule_is_the_strategys(in_turns: Path, tmp_path: Path) -> None:
    kinds = [(type(event), event.epoch) for event in iter_events(in_turns, Step | Weights)]  # type: ignore[arg-type]
    assert kinds == [(Weights, 1), (Weights, 2), *[(Weights, 3), (Step, 3)] * 2]
    seen = Count()
    run(config("test-in-turns", every=5), tmp_path / "run", subscribers=[seen])
    assert seen.kinds() == ["weights", "weights", "weights", "step", "done"]


def test_a_proposals_data_comes_back_with_its_result(in_turns: Path) -> None:
    numbers = [step.more["numbers"] for step in iter_events(in_turns, Step)]
    assert all(entry == list(range(entry[0], entry[0] + 5)) for entry in numbers)
    assert Proposal((0, 1), torch.ones(3)) == Proposal((0, 1))  # data decide nothing about equality


@pytest.mark.parametrize("event", [3, 7])
def test_a_schedule_resumes_to_the_same(tmp_path: Path, in_turns: Path, event: int) -> None:
    broken_off(tmp_path / "run", event, config("test-in-turns"))
    same(tmp_path / "run", in_turns)


@pytest.mark.parametrize("every", [0, 99])
def test_a_schedule_that_cannot_be_kept_is_refused(tmp_path: Path, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def schedule(self: InTurns, epoch: int, minibatches: int, steps: int) -> Iterator[WeightSteps]:
        yield WeightSteps(every)

    monkeypatch.setattr(InTurns, "schedule", schedule)
    with pytest.raises(UsageError, match="schedule") as caught:
        run(config("test-in-turns"), tmp_path / "run")
    assert caught.value.kind == "strategy_schedule"


@pytest.mark.parametrize("name", ["alternating", "ddas", "enas", "evolution", "nar", "nsga2", "random"])
def test_an_archive_has_all_that_was_evaluated(name: str) -> None:
    space = SearchSpace.uniform(5, 3)
    strategy = make_strategy(name, space, seed=2)
    assert strategy.archive() == []
    earned: dict[Vector, list[float]] = {}
    for step in range(4):
        proposals = strategy.ask(3)
        rewards = [float(sum(proposal.vector) + step) for proposal in proposals]
        strategy.tell(proposals, [Result(reward) for reward in rewards])
        for proposal, reward in zip(proposals, rewards, strict=True):
            earned.setdefault(proposal.vector, []).append(reward)
    archive = strategy.archive()
    assert {entry.vector: entry.evaluations for entry in archive} == {v: len(rewards) for v, rewards in earned.items()}
    for entry in archive:
        rewards = earned[entry.vector]
        assert entry.result.reward == pytest.approx(sum(rewards) / len(rewards))
        assert entry.result.costs == space.cost(entry.vector)
    resumed = make_strategy(name, space)
    resumed.load_state_dict(strategy.state_dict())
    assert resumed.archive() == archive


# One registration


def test_a_registered_strategy_runs_from_the_command_line(
    tmp_path: Path, in_turns: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    call: Callable[..., int] = lambda *arguments: run_app(app, ["search", *arguments])  # noqa: E731
    out = ["--out", str(tmp_path / "run")]
    assert call("--config", str(in_turns / "config.json"), "--strategy-option", "every=2", *out, "--json") == 0
    assert json.loads(capfd.readouterr().out)["strategy"] == "test-in-turns"
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == (in_turns / "weights.safetensors").read_bytes()
    wrong = ["--config", str(in_turns / "config.json"), "--strategy-option", "often=2", "--out", str(tmp_path / "no")]
    assert call(*wrong) == 2
    assert "it has every=2" in capfd.readouterr().err
    assert call(*wrong, "--strategy", "annealing") == 2
    assert "test-in-turns" in capfd.readouterr().err


def test_options_are_those_of_the_constructor_and_its_docstring() -> None:
    assert {"test-in-turns", "test-by-gradient"} <= set(strategy_names())
    (every,) = strategy_options("test-in-turns")
    assert (every.name, every.default, every.help) == ("every", 2, "Minibatches between two steps.")
    enas = {option.name: option for option in strategy_options("enas")}
    assert {"skip_prior", "skip_weight", "hidden", "clip"} <= set(enas)  # its own and those of nar
    for name in ("alternating", "ddas", "enas", "evolution", "nar", "nsga2", "random"):
        assert all(option.help.endswith(".") for option in strategy_options(name)), name
    with pytest.raises(UsageError, match="unknown strategy"):
        strategy_options("annealing")


def test_subscribers_receive_what_a_reader_of_the_file_gets(tmp_path: Path) -> None:
    seen = Count()
    run(config("random"), tmp_path / "run", subscribers=[seen])
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    written = [event for event in seen.events if not isinstance(event, Saved)]
    assert len(lines) == len(written)
    for line, event in zip(lines, written, strict=True):
        values = json.loads(line)
        assert list(values) == [*event.line(), "seconds", "crc"]
        del values["crc"]  # the check sum of the line
        assert values == {**event.line(), "seconds": event.seconds}
