"""The strategy that scores and solves, on tables and as a whole run; what a killed run leaves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_search import Count, broken_off, same
from trained_base import solving, train_base

from narfx.errors import UsageError
from narfx.runs.events import Scored, iter_events
from narfx.search import run
from narfx.search.measuring import Judged
from narfx.search.registry import build_strategy, make_strategy
from narfx.search.strategies.solve import Solve
from narfx.space import ScoreTable, SearchSpace, Vector
from narfx.space.budget import Budget

SPACE = SearchSpace.uniform(4, [3, 3, 2, 3]).within(Budget({"macs": 2.5}))


class Table:
    """A judge for which the loss of a vector is a sum, plus what two neighbours do to each other."""

    def __init__(self, scores: dict[tuple[int, int], float], pairs: float = 0.0) -> None:
        self.scores, self.pairs = scores, pairs
        self.images, self.base = 100, {"loss": 0.1, "accuracy": 0.9}
        self.asked: list[Vector] = []

    def __call__(self, vectors: Iterable[Vector], label: str) -> list[Judged]:
        chosen = list(vectors)
        self.asked += chosen
        return [Judged(self.loss(v), 0.01, 2 * self.loss(v), 0.01, 0.0, 0.0) for v in chosen]

    def loss(self, vector: Vector) -> float:
        clash = sum(1 for a, b in pairwise(vector) if a and b)
        return sum(self.scores.get(pair, 0.0) for pair in enumerate(vector)) + self.pairs * clash


def everything(space: SearchSpace) -> list[Vector]:
    found: list[Vector] = [()]
    for slot in space.slots:
        found = [(*vector, k) for vector in found for k in slot.legal]
    return [vector for vector in found if space.feasible(vector)]


def random_scores(draw: Any) -> dict[tuple[int, int], float]:
    return {(i, k): draw(st.integers(1, 40)) / 10 for i, slot in enumerate(SPACE.slots) for k in slot.legal if k}


@given(st.data())
def test_where_losses_add_up_the_best_vector_is_found_and_the_prediction_is_right(data: st.DataObject) -> None:
    judge = Table(random_scores(data.draw))
    strategy = Solve(SPACE, seed=data.draw(st.integers(0, 99)), check=4)
    metrics = strategy.measure(judge)
    best = min(map(judge.loss, everything(SPACE)))
    assert judge.loss(strategy.finalists(1)[0]) == pytest.approx(best)
    assert metrics["prediction"]["mean_error"] == pytest.approx(0, abs=1e-9)
    assert metrics["prediction"]["kendall_tau"] in (None, pytest.approx(1.0))
    assert all(SPACE.feasible(vector) for vector in strategy.finalists(10))
    assert len({*map(tuple, metrics["solutions"])}) == len(metrics["solutions"])


@given(st.data())
def test_a_second_round_never_makes_it_worse(data: st.DataObject) -> None:
    """Corrections are measured around the best vector so far, and kept only where they are better."""
    judge = Table(random_scores(data.draw), pairs=data.draw(st.sampled_from([0.5, 2.0])))
    strategy = Solve(SPACE, count=2, check=2)
    strategy.measure(judge)
    (first,) = strategy.finalists(1)
    judge.asked.clear()
    metrics = strategy.measure(judge)
    assert tuple(metrics["around"]) == first == judge.asked[0]
    singles = judge.asked[1 : 1 + sum(len(slot.legal) - 1 for slot in SPACE.slots)]
    assert all(sum(a != b for a, b in zip(vector, first, strict=True)) == 1 for vector in singles)
    assert judge.loss(strategy.finalists(1)[0]) <= judge.loss(first)
    table = strategy.scores()
    assert table is not None and table.around == first


def test_it_goes_on_in_another_process_with_what_it_knows() -> None:
    judge = Table({(0, 1): 0.5, (1, 2): 0.2, (3, 1): 0.1}, pairs=1.0)
    one, other = Solve(SPACE, seed=3, check=4), Solve(SPACE, seed=3, check=4)
    one.measure(judge)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert one.measure(judge) == other.measure(judge)
    assert one.scores() == other.scores() and one.archive() == other.archive()


def test_a_choice_that_gives_nan_is_not_offered() -> None:
    class Broken(Table):
        def loss(self, vector: Vector) -> float:
            return math.nan if vector[1] == 2 else super().loss(vector)

    strategy = Solve(SPACE, check=4)
    metrics = strategy.measure(Broken({(0, 1): 0.5}))
    assert metrics["not_offered"] == ["op2 at slot1"]
    assert all(vector[1] != 2 for vector in strategy.finalists(50))
    table = strategy.scores()
    assert table is not None and table.slots[1].scores[2] is None


@pytest.mark.parametrize("option", [{"by": "luck"}, {"count": 0}, {"shared": 0.0}, {"check": 1}])
def test_wrong_options_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        build_strategy("solve", SPACE, **option)
    assert caught.value.kind == "strategy_option"


def test_it_takes_no_rewards_by_hand() -> None:
    with pytest.raises(UsageError, match="works with a supernet and takes no rewards"):
        make_strategy("solve", SPACE)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_base(tmp_path_factory.mktemp("base") / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """A search of two passes and two rounds."""
    out = tmp_path_factory.mktemp("solve") / "run"
    run(solving(weights, pretrain_epochs=2, epochs=4), out)
    return out


def test_a_run_keeps_its_scores(whole: Path) -> None:
    first, second = iter_events(whole, Scored)
    table = ScoreTable.load(whole / "scores.json")
    assert (table.images, table.around) == (128, tuple(second.more["around"]))
    assert table.center["loss"] > 0 and set(table.slots[0].measures) == {"loss", "divergence", "mistakes"}
    assert all(error is None or error >= 0 for slot in table.slots for error in slot.measures["loss"].errors)
    assert set(table.slots[0].costs) == {"macs", "params"}
    found = json.loads((whole / "arch.json").read_text())
    assert found["metrics"]["prediction"]["vectors"] >= 2
    assert first.more["base"]["accuracy"] > 0.5
    assert (whole / "supernet.safetensors").is_file()


@pytest.mark.parametrize("event", [1, 3, 5, 7])
def test_a_run_that_is_killed_resumes_to_the_same(tmp_path: Path, whole: Path, weights: Path, event: int) -> None:
    """Before the first checkpoint, in the second pass, and in either round."""
    broken_off(tmp_path / "run", event, solving(weights, pretrain_epochs=2, epochs=4))
    same(tmp_path / "run", whole)
    for name in ("scores.json", "supernet.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


def test_faces_are_searched_by_the_same_way(tmp_path: Path) -> None:
    """Embeddings are no logits: the divergence is 1 less the cosine to the base's."""
    from sample_faces import NET, write_folder

    write_folder(tmp_path / "faces", 6, 8)
    (tmp_path / "net.py").write_text(NET)
    from narfx.verbs.train import TrainConfig, train

    common: dict[str, Any] = {"data": str(tmp_path / "faces"), "task": "faces", "batch_size": 16, "input": (3, 16, 16)}
    model = f"{tmp_path / 'net.py'}:Net"
    base = train(TrainConfig(target=model, epochs=8, t0=8, lr=0.05, **common), tmp_path / "base")
    events = Count()
    config = solving(Path(base["files"]["weights"]), model=model, data_fraction=1.0, pretrain_epochs=1, epochs=2,
                     budget="macs<=0.9x", **common)  # fmt: skip
    result = run(config, tmp_path / "run", subscribers=[events])
    assert result["metric"] == "identification_accuracy"
    (scored,) = (event for event in events.events if isinstance(event, Scored))
    assert 0 <= scored.more["best"]["divergence"] <= 2


def test_blocks_are_solved_as_one_slot(tmp_path: Path, weights: Path) -> None:
    result = run(solving(weights, granularity="block", pretrain_epochs=1, epochs=2), tmp_path / "run")
    assert len(result["vector"]) == 3


MINE = """
import torch
from torch import nn
import narfx

class Broken(nn.Module):
    def __init__(self, site):
        super().__init__()
        self.conv = nn.Conv2d(site.in_channels, site.out_channels, 1, stride=site.stride)
        self.norm = nn.BatchNorm2d(site.out_channels)

    def forward(self, x):
        return self.norm(self.conv(x) + (torch.nan if len(x) > 8 else 0.0))

narfx.register_operator(narfx.Operator("broken", build=Broken))
"""


def test_an_operator_of_the_users_own_that_gives_nan_ends_no_search(tmp_path: Path, weights: Path) -> None:
    """It is named and not offered; nor is it drawn for comparison."""
    (tmp_path / "mine.py").write_text(MINE)
    config = solving(
        weights, operators=("base", "dwsep3x3", "broken"), operator_files=(str(tmp_path / "mine.py"),),
        pretrain_epochs=2, epochs=3,
    )  # fmt: skip
    result = run(config, tmp_path / "run")
    (scored,) = iter_events(tmp_path / "run", Scored)
    assert len(scored.more["not_offered"]) == 6 and all(
        name.startswith("broken at ") for name in scored.more["not_offered"]
    )
    assert all(2 not in record["vector"] for record in [result, *result["randoms"], *result["finalists"]])
