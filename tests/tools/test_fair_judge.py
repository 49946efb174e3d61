"""Supernet rewards against stand-alone accuracy: one small measurement, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import fair_judge
import pytest
import rank_agreement

from narfx.space.space import SearchSpace

SMALL = [
    "--model", "narfx:resnet_digits?width=4", "--epochs", "1", "--supernets", "1", "--supernet-epochs", "1",
    "--repeats", "1", "--batch-size", "256", "--reward-images", "64", "--data-fraction", "0.5", "--quiet", "--json",
]  # fmt: skip


def test_measures_and_goes_on_from_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert fair_judge.main([*SMALL, *out, "--vectors", "3"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first == json.loads((tmp_path / "run" / "result.json").read_text())
    assert [len(entry["accuracies"]) for entry in first["vectors"]] == [2, 1, 1]
    assert set(first["judges"]) == {f"{n} {r}" for n in rank_agreement.NORMS for r in rank_agreement.REWARDS} | {"macs"}
    for judge in first["judges"].values():
        assert judge["tau"] is None or -1 <= judge["tau"] <= 1
    assert len(first["verdict"]) == 3

    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("alone/*/metrics.json")}
    assert len(trained) == 4
    assert fair_judge.main([*SMALL, *out, "--vectors", "4"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["vectors"][:3] == first["vectors"]
    assert all(path.stat().st_mtime_ns == time for path, time in trained.items())
    kept = json.loads((tmp_path / "run" / "supernets" / "shared.0.1" / "rewards.json").read_text())
    assert len(kept) == 4

    assert fair_judge.main([*SMALL, *out, "--vectors", "4", "--lr", "0.2"]) == 2
    assert "lr was 0.1 and is 0.2" in capsys.readouterr().err


def test_refuses_a_folder_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert fair_judge.main([*SMALL, "--out", str(tmp_path)]) == 2
    assert "has no measurement" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_refuses_more_vectors_than_there_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(Exception, match="4 vectors, fewer than --vectors 5"):
        fair_judge.draw(SearchSpace.uniform(slots=2, operators=2), 5, 0)


def test_a_larger_draw_begins_with_the_smaller() -> None:
    space = SearchSpace.uniform(slots=3, operators=3)
    all_of_them = fair_judge.draw(space, 27, 5)
    assert len(set(all_of_them)) == 27
    assert fair_judge.draw(space, 10, 5) == all_of_them[:10]
    assert fair_judge.draw(space, 10, 6) != all_of_them[:10]
