"""The rank correlation of supernet rewards with stand-alone accuracy: the statistics, and one small measurement."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from narfx.space.space import SearchSpace

TOOLS = Path(__file__).parents[2] / "tools"
SMALL = [
    "--model", "narfx:resnet_digits?width=4", "--epochs", "1", "--supernets", "1", "--supernet-epochs", "1",
    "--repeats", "1", "--batch-size", "256", "--reward-images", "64", "--data-fraction", "0.5", "--quiet", "--json",
]  # fmt: skip


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("fair_judge")


def judges(tool: Any, **rewards: list[float]) -> dict[str, np.ndarray]:
    """All judges the same ones but those given, as ``shared_proper=[...]``."""
    one = next(iter(rewards.values()))
    names = [f"{norms} {reward}" for norms in tool.NORMS for reward in tool.REWARDS] + ["macs"]
    return {name: np.array(rewards.get(name.replace(" ", "_"), one)).reshape(1, 1, -1) for name in names}


def test_measures_and_goes_on_from_what_is_kept(tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert tool.main([*SMALL, *out, "--vectors", "3"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first == json.loads((tmp_path / "run" / "result.json").read_text())
    assert [len(entry["accuracies"]) for entry in first["vectors"]] == [2, 1, 1]
    assert set(first["judges"]) == {f"{n} {r}" for n in tool.NORMS for r in tool.REWARDS} | {"macs"}
    for judge in first["judges"].values():
        assert judge["tau"] is None or -1 <= judge["tau"] <= 1
    assert len(first["verdict"]) == 3

    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("alone/*/metrics.json")}
    assert len(trained) == 4
    assert tool.main([*SMALL, *out, "--vectors", "4"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["vectors"][:3] == first["vectors"]
    assert all(path.stat().st_mtime_ns == time for path, time in trained.items())
    kept = json.loads((tmp_path / "run" / "supernets" / "shared.0.1" / "rewards.json").read_text())
    assert len(kept) == 4

    assert tool.main([*SMALL, *out, "--vectors", "4", "--lr", "0.2"]) == 2
    assert "lr was 0.1 and is 0.2" in capsys.readouterr().err


def test_refuses_a_folder_of_something_else(tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert tool.main([*SMALL, "--out", str(tmp_path)]) == 2
    assert "has no measurement" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_refuses_more_vectors_than_there_are(tool: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(Exception, match="4 vectors, fewer than --vectors 5"):
        tool.draw(SearchSpace.uniform(slots=2, operators=2), 5, 0)


def test_a_larger_draw_begins_with_the_smaller(tool: Any) -> None:
    space = SearchSpace.uniform(slots=3, operators=3)
    all_of_them = tool.draw(space, 27, 5)
    assert len(set(all_of_them)) == 27
    assert tool.draw(space, 10, 5) == all_of_them[:10]
    assert tool.draw(space, 10, 6) != all_of_them[:10]


def test_a_perfect_judge_and_its_opposite(tool: Any) -> None:
    alone = np.linspace(0.4, 0.6, 20)
    found = tool.compare_judges(
        judges(tool, shared_proper=list(alone), separate_proper=list(-alone)), alone, seed=0, resamples=200
    )
    assert found["judges"]["shared proper"]["tau"] == pytest.approx(1)
    assert found["judges"]["separate proper"]["tau"] == pytest.approx(-1)
    assert found["differences"]["separate proper - shared proper"]["interval"] == pytest.approx([-2, -2])
    text = tool.verdict(found)[-1]
    assert "shared judged better, more than noise" in text
    assert "neither judged better" in tool.verdict(found)[0]


def test_a_judge_that_knows_nothing_has_an_interval_around_zero(tool: Any) -> None:
    around = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        blind = judges(tool, shared_quick=list(rng.random(30)))
        found = tool.compare_judges(blind, rng.random(30), seed=seed, resamples=100)
        low, high = found["judges"]["shared quick"]["interval"]
        around += low < 0 < high
    assert around >= 15


def test_equal_rewards_for_all_say_nothing(tool: Any) -> None:
    alone = np.arange(5.0)
    same = judges(tool, shared_proper=[0.5] * 5, separate_proper=list(alone))
    found = tool.compare_judges(same, alone, seed=0, resamples=50)
    assert found["judges"]["shared proper"] == {"tau": None, "interval": None, "by_supernet": [None]}
    assert "nothing can be said" in tool.verdict(found)[-1]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2)), min_size=3, max_size=20))
def test_the_resampled_tau_is_scipys(rows: list[tuple[int, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        tool: Any = importlib.import_module("fair_judge")
    x, y, counts = (np.array(column) for column in zip(*rows, strict=True))
    assume(counts.sum() >= 2)
    (ours,) = tool._taus(tool._signs(x), tool._signs(y), counts[None])
    scipys = kendalltau(x.repeat(counts), y.repeat(counts)).statistic
    assert ours == pytest.approx(scipys, nan_ok=True)
