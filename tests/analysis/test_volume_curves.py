"""``narfx analyze hypervolume``: the curves of several searches beside each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Run as Cli
from command import in_process
from small_runs import refused, search

from narfx.analysis import hypervolumes
from narfx.runs.events import Step, iter_events
from narfx.search import SearchConfig, run

SMALL: dict[str, Any] = {
    "model": "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10", "input": (1, 8, 8), "data": "digits",
    "data_fraction": 0.25, "init": "scratch", "epochs": 2, "pretrain_epochs": 1, "finalists": 1, "augment": "none",
    "front": "macs", "front_points": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three searches with fronts, one of them over other costs."""
    folder = tmp_path_factory.mktemp("volumes")
    run(SearchConfig(**SMALL, strategy="random", steps=6), folder / "random")
    run(SearchConfig(**SMALL, strategy="evolution", steps=9, strategy_options={"population": 4, "tournament": 2}),
        folder / "evolution")  # fmt: skip
    run(SearchConfig(**SMALL | {"front": "params"}, strategy="random", steps=3), folder / "params")
    return folder


@pytest.fixture
def narfx(capfd: pytest.CaptureFixture[str]) -> Cli:
    return in_process(capfd)


def test_runs_are_drawn_beside_each_other_against_distinct_vectors(runs: Path, narfx: Cli, tmp_path: Path) -> None:
    named = [str(runs / name) for name in ("random", "evolution")]
    code, out, _ = narfx("analyze", "hypervolume", *named, "--out", str(tmp_path / "drawn"), "--json")
    found = json.loads(out)
    assert code == 0 and found["costs"] == ["macs"] and found["notes"] == []
    drawn = json.loads(Path(found["files"]["json"]).read_text())["series"]
    for name, row in zip(named, found["runs"], strict=True):
        steps = list(iter_events(Path(name), Step))
        batches = [{tuple(vector) for vector in step.vectors or ()} for step in steps]
        distinct = [len(set().union(*batches[: n + 1])) for n in range(len(batches))]
        volumes = [step.more["hypervolume"] for step in steps]
        assert (row["run"], row["steps"], row["evaluations"]) == (name, len(steps), distinct[-1])
        assert row["end"] == volumes[-1]
        assert row["after"] == [volumes[np.searchsorted(distinct, n)] for n in found["counts"]]
        assert drawn[f"{row['strategy']}, {Path(name).name}"] == {"evaluations": distinct, "hypervolume": volumes}
    assert found["counts"][-1] == min(row["evaluations"] for row in found["runs"]) > 10
    picture = Path(found["files"]["svg"]).read_text()
    assert "distinct vectors evaluated" in picture and "evolution" in picture
    assert Path(found["files"]["png"]).read_bytes()[:4] == b"\x89PNG"


def test_the_table_has_a_row_for_each_run(runs: Path, narfx: Cli) -> None:
    code, shown, _ = narfx("analyze", "hypervolume", str(runs / "random"), str(runs / "evolution"))
    assert code == 0 and "after " in shown and "--out DIR draws the curves" in shown
    assert [line.split()[0] for line in shown.splitlines()[1:3]] == ["random", "evolution"]
    assert not (runs / "random" / "analysis").exists()
    code, shown, _ = narfx("analyze", "hypervolume", str(runs / "random"))
    assert code == 0 and (runs / "random" / "analysis" / "hypervolume.svg").exists()


def test_what_does_not_compare_is_refused_or_told(runs: Path, narfx: Cli, tmp_path: Path) -> None:
    said = refused(narfx, "hypervolume", str(runs / "random"), str(runs / "params"), kind="other_costs")
    assert "random is over macs, and that of" in said and "params over params" in said
    shutil.copytree(runs / "evolution", tmp_path / "other")
    assert hypervolumes([runs / "random", tmp_path / "other"])["notes"] == []
    # Another network, as the run says that it read it, and another budget.
    other = SMALL | {"model": SMALL["model"].replace("width=4", "width=5"), "budget": "macs<=0.9x"}
    run(SearchConfig(**other, strategy="random", steps=3), tmp_path / "fewer")
    assert hypervolumes([runs / "random", tmp_path / "fewer"])["notes"] == [
        "the runs differ in budget, the traced network: their hypervolumes do not compare"
    ]


def test_a_run_without_a_hypervolume_is_refused(narfx: Cli, tmp_path: Path) -> None:
    search(tmp_path / "plain", "random", 4)
    said = refused(narfx, "hypervolume", str(tmp_path / "plain"), kind="no_hypervolume")
    assert "search with --front" in said
