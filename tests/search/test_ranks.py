"""Several ranks of one search or training: rank 0 alone writes, and each draws for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_search import CONFIG, timeless

from narfx.runs.folder import RunFolder
from narfx.runs.progress import Silent
from narfx.search import SearchConfig, run
from narfx.search.loop import Search
from narfx.search.prepared import prepare
from narfx.search.stages import stages_of
from narfx.space.records import Vector
from narfx.support.ranks import Ranks
from narfx.training.fit import fit

SEARCH = SearchConfig(**CONFIG)


def searched(path: Path, ranks: Ranks) -> tuple[list[Vector], dict[str, Any], Path]:
    """The finalists of one rank, the vectors that it observed with their rewards, and its folder."""
    RunFolder.create(path, {})
    before = {entry.name for entry in path.iterdir()}
    prepared = prepare(SEARCH, stages_of(SEARCH), "cpu", None)
    with RunFolder(path, ranks) as folder:
        search = Search(
            SEARCH, prepared.space, prepared.net, prepared.stages, prepared.task, folder, Silent(), ranks
        )  # fmt: skip
        search.run()
    archive = {str(entry.vector): entry.result.reward for entry in search.strategy.archive()}
    if not ranks.first:
        assert {entry.name for entry in path.iterdir()} == before
    return search.strategy.finalists(3), archive, path


def test_rank_1_of_2_writes_nothing_and_draws_other_vectors(tmp_path: Path) -> None:
    alone, first, second = (
        searched(tmp_path / f"{ranks.rank} of {ranks.size}", ranks) for ranks in (Ranks(), Ranks(0, 2), Ranks(1, 2))
    )
    assert first[:2] == alone[:2]
    assert second[1].keys() != first[1].keys()
    assert (first[2] / "checkpoint.pt").is_file()


def test_only_rank_0_makes_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    RunFolder.create(out, {"seed": 1}, ranks=Ranks(1, 2))
    assert not out.exists()
    RunFolder.create(out, {"seed": 1}, ranks=Ranks(0, 2))
    RunFolder.create(out, {"seed": 2}, overwrite=True, ranks=Ranks(1, 2))
    assert RunFolder.open(out).config() == {"seed": 1}


def test_one_rank_changes_nothing(tmp_path: Path) -> None:
    run(SEARCH, tmp_path / "run")
    finalists, archive, path = searched(tmp_path / "alone", Ranks(0, 1))
    whole = timeless(tmp_path / "run")
    assert whole[-1]["event"] == "done"
    assert timeless(path) == whole[:-1]
    assert len(finalists) == 3
    assert archive


def test_ranks_of_a_training_draw_their_own_batches_from_one_start(tmp_path: Path) -> None:
    config = SEARCH.model_copy(update={"epochs": 1})
    weights = []
    for ranks in (Ranks(), Ranks(0, 2), Ranks(1, 2)):
        path = tmp_path / f"{ranks.rank}-{ranks.size}"
        path.mkdir()
        prepared = prepare(SEARCH, stages_of(SEARCH), "cpu", None)
        with RunFolder(path, ranks) as folder:
            fit(prepared.net, prepared.task, config, folder=folder, ranks=ranks)
        weights.append(torch.cat([p.detach().flatten() for p in prepared.net.parameters()]))
        assert ({entry.name for entry in path.iterdir()} == set()) == (not ranks.first)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("rank", "size"), [(1, 1), (-1, 2), (0, 0)])
def test_a_rank_that_does_not_exist_is_refused(rank: int, size: int) -> None:
    with pytest.raises(ValueError, match="ranks count from 0"):
        Ranks(rank, size)


def test_rank_0_keeps_the_seed() -> None:
    assert Ranks().seed(7) == Ranks(0, 8).seed(7) == 7
    assert len({Ranks(rank, 8).seed(7) for rank in range(8)}) == 8
