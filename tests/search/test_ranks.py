"""Several ranks of one search or training: they share the work, hold the same weights, and rank 0 alone writes."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from rank_processes import in_ranks
from small_search import CONFIG, same, timeless
from test_strategy_protocols import ByGradient
from torch import nn
from trained_base import solving, train_base

from narfx.compiler.prefixes import Prefixes
from narfx.data.image_data import load_data
from narfx.errors import LostRankError, UsageError
from narfx.runs.events import read_events
from narfx.runs.folder import RunFolder
from narfx.runs.progress import Silent
from narfx.search import SearchConfig, register_strategy, resume, run
from narfx.search.epochs import rewards_of_ranks
from narfx.search.judge import NetJudge
from narfx.search.loop import Search
from narfx.search.prepared import Prepared, prepare
from narfx.search.stages import stages_of
from narfx.space import ScoreTable
from narfx.support.ranks import Ranks
from narfx.tasks.classification import Classification
from narfx.tasks.precision import Precision, PrecisionName
from narfx.training.fit import fit
from narfx.training.recipe import Recipe

rank_processes_first = True

SEARCH = SearchConfig(**CONFIG)


class Notes(Silent):
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def kill_after(file: Path) -> None:
    """Kill this process, as ``kill -9`` does, as soon as the file is there."""

    def wait() -> None:
        while not file.exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def searched(config: SearchConfig, out: Path, size: int) -> list[Any]:
    return in_ranks(size, lambda ranks: run(config, out, ranks=ranks, device="cpu"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The search by two ranks, never stopped."""
    out = tmp_path_factory.mktemp("ranks") / "two"
    first, second = searched(SEARCH, out, 2)
    assert first["out"] == str(out)
    assert second == {}
    return out


def test_one_folder_is_written_by_rank_0(two: Path) -> None:
    names = {path.name for path in two.iterdir()}
    assert {"arch.json", "result.json", "events.jsonl", "checkpoint.pt", "weights.safetensors", "front.json"} <= names
    assert [path.name for path in two.parent.iterdir()] == ["two"]
    events = timeless(two)
    assert [event["epoch"] for event in events if event["event"] == "weights"] == [1, 2, 3]
    assert sum(event["event"] == "step" for event in events) == 2 * CONFIG["steps"]
    assert events[-1]["event"] == "done"


def test_another_search_by_two_ranks_gives_the_same_bytes(two: Path, tmp_path: Path) -> None:
    searched(SEARCH, tmp_path / "two", 2)
    same(two, tmp_path / "two")


@pytest.mark.parametrize("killed", [0, 1], ids=["rank 0", "rank 1"])
def test_a_rank_that_is_killed_ends_the_others_and_the_run_resumes_to_the_same_bytes(
    two: Path, tmp_path: Path, killed: int
) -> None:
    out = tmp_path / "run"

    def broken(ranks: Ranks) -> None:
        if ranks.rank == killed:
            kill_after(out / "checkpoint.previous.pt")  # the second checkpoint is written
        run(SEARCH, out, ranks=ranks, device="cpu")

    found = in_ranks(2, broken)
    assert found[killed] is None
    assert isinstance(found[1 - killed], LostRankError)
    assert found[1 - killed].exit_code == 7
    if killed:
        assert str(found[0]) == (
            "rank 1 of 2 ended without a word: it was killed or it crashed, or its machine is gone; the run in "
            f"{out} resumes with --resume --out {out}"
        )
    assert not (out / "result.json").exists()
    moved = shutil.copytree(out, tmp_path / "other" / "run")
    in_ranks(2, lambda ranks: resume(out, ranks=ranks, device="cpu"))
    same(two, out)
    notes = Notes()
    result = resume(moved, reporter=notes, device="cpu")
    assert result["files"]["arch"] == str(moved / "arch.json")
    assert any("this run was saved by 2 ranks and goes on with 1" in said for said in notes.said)
    assert timeless(moved)[-1]["event"] == "done"


def test_one_rank_changes_nothing(tmp_path: Path) -> None:
    run(SEARCH, tmp_path / "run", device="cpu")
    run(SEARCH, tmp_path / "again", device="cpu", ranks=Ranks(0, 1))
    same(tmp_path / "run", tmp_path / "again")


def test_all_ranks_end_with_the_same_weights_and_rank_0_alone_has_learnt(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", {})

    def work(ranks: Ranks) -> Any:
        prepared = prepare(SEARCH, stages_of(SEARCH), "cpu", None, ranks=ranks)
        with RunFolder(tmp_path / "run", ranks) as folder:
            search = Search(
                SEARCH, prepared.space, prepared.net, prepared.stages, prepared.task, folder, Silent(), ranks
            )  # fmt: skip
            search.run()
        state = [tensor.tolist() for tensor in prepared.net.state_dict().values()]
        moments = [entry["momentum_buffer"].tolist() for entry in search._shared.optimizer.state.values()]
        return state, moments, len(search.strategy.archive()), len(prepared.task.data.train)

    first, second, third = in_ranks(3, work)
    assert first[:2] == second[:2] == third[:2]
    assert first[2] > 0
    assert second[2] == third[2] == 0


def test_solve_distils_and_measures_over_ranks(tmp_path: Path) -> None:
    config = solving(train_base(tmp_path / "base"))
    run(config, tmp_path / "one", device="cpu")
    searched(config, tmp_path / "two", 2)
    one, two = ({event["event"]: event for event in read_events(tmp_path / name)} for name in ("one", "two"))
    assert two["distilled"]["errors"].keys() == one["distilled"]["errors"].keys()
    assert two["distilled"]["loss"] == pytest.approx(one["distilled"]["loss"], rel=0.2)
    assert two["scored"]["base"] == one["scored"]["base"]  # which learns nothing
    assert two["scored"]["vectors"] == one["scored"]["vectors"]
    tables = [ScoreTable.load(tmp_path / name / "scores.json").scores for name in ("one", "two")]
    assert tables[0].keys() == tables[1].keys()


def test_judgements_and_rewards_do_not_depend_on_the_number_of_ranks() -> None:
    """In float32 and in bfloat16."""

    def work(ranks: Ranks) -> list[Any]:
        prepared = prepare(SEARCH, stages_of(SEARCH), "cpu", None, ranks=ranks)
        return [judged(prepared, Precision(name), ranks) for name in get_args(PrecisionName)]

    def judged(prepared: Prepared, precision: Precision, ranks: Ranks) -> Any:
        prepared.task.precision = precision
        vectors = [prepared.space.base, *((k, 0, 0, 0, 0, 0) for k in prepared.space.slots[0].legal if k)]
        batch = next(prepared.task.reward_batches(0, 1, 32))
        prefixes = Prefixes(prepared.net, memory=1 << 20)
        rewards = rewards_of_ranks(prefixes, vectors, prepared.task, batch, ranks)
        judge = NetJudge(prefixes, prepared.task, 64, Silent(), ranks)
        if not ranks.first:
            return judge.crew.follow()
        found = judge(vectors, "some")
        judge.crew.dismiss()
        return rewards, [(each.loss, each.divergence_error, each.mistakes) for each in found]

    assert in_ranks(2, work)[0] == in_ranks(3, work)[0] == in_ranks(1, work)[0]


class Net(nn.Module):
    """Without BatchNorm, so that images do not depend on each other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.head = nn.Conv2d(1, 4, 3, stride=2), nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.conv(x).relu().mean((2, 3)))
        return logits


def trained(ranks: Ranks) -> tuple[list[float], dict[str, Any]]:
    task = Classification(load_data("digits", (1, 8, 8), fraction=0.25), batch_size=50, augment="none")
    network = Net()
    metrics = fit(network, task, Recipe(epochs=2, lr=0.05), seed=1, ranks=ranks)
    return torch.cat([p.detach().flatten() for p in network.parameters()]).tolist(), metrics


@pytest.mark.parametrize("size", [2, 3])  # 50 images are no multiple of 3
def test_a_training_by_ranks_is_that_of_one_process(size: int) -> None:
    (alone, metrics), *_ = in_ranks(1, trained)
    shares = in_ranks(size, trained)
    assert all(share == shares[0] for share in shares)
    weights, found = shares[0]
    torch.testing.assert_close(torch.tensor(weights), torch.tensor(alone), rtol=1e-4, atol=1e-5)
    assert found["loss"] == pytest.approx(metrics["loss"], rel=1e-4)
    assert found["val"]["images"] == metrics["val"]["images"]
    assert found["val"]["loss"] == pytest.approx(metrics["val"]["loss"], rel=1e-3)


def test_the_shares_of_a_batch_are_disjoint_and_together_the_batch() -> None:
    task = Classification(load_data("digits", (1, 8, 8)), batch_size=48, augment="none")
    whole = [images for images, _ in task.train_batches(5)]
    parts: Sequence[Any] = [[images for images, _ in task.train_batches(5, Ranks(rank, 3))] for rank in range(3)]
    for number, images in enumerate(whole):
        together = torch.stack([part[number] for part in parts], 1).flatten(0, 1)
        assert torch.equal(together, images)


def test_a_strategy_that_trains_with_the_supernet_is_refused() -> None:
    register_strategy("test-by-gradient-over-ranks", ByGradient)
    config = SEARCH.model_copy(update={"strategy": "test-by-gradient-over-ranks"})
    with pytest.raises(UsageError, match="which several ranks cannot share: search with one process") as caught:
        prepare(config, stages_of(config), "cpu", None, ranks=Ranks(0, 2))
    assert caught.value.kind == "strategy_ranks"


def test_more_ranks_than_images_are_refused() -> None:
    config = SEARCH.model_copy(update={"batch_size": 2})
    with pytest.raises(UsageError) as caught:
        prepare(config, stages_of(config), "cpu", None, ranks=Ranks(1, 3))
    assert str(caught.value) == (
        "there are 3 ranks, and a training batch has 2 images: start at most 2 ranks, or raise --batch-size"
    )
