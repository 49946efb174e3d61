"""The steps of a run: numbers of a curve, and runs that cannot be analysed."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from command import Run as Cli
from command import in_process
from small_runs import enas_run, refused, search

from narfx.analysis import rewards
from narfx.analysis.steps import curve
from narfx.runs.folder import RunFolder


@pytest.fixture(scope="module")
def enas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return enas_run(tmp_path_factory)


@pytest.fixture
def narfx(capfd: pytest.CaptureFixture[str]) -> Cli:
    return in_process(capfd)


def test_a_curve_in_numbers() -> None:
    found = curve([1.0, 2.0, 3.0, 4.0])
    assert found["mean"] == 2.5
    assert math.isclose(found["std"], math.sqrt(1.25))
    assert math.isclose(found["std_over_mean"], math.sqrt(1.25) / 2.5)
    assert math.isclose(found["lag1"], (-1.5 * -0.5 + -0.5 * 0.5 + 0.5 * 1.5) / 5.0)
    assert curve([1.0, -1.0] * 50)["lag1"] < -0.9
    assert curve([0.1] * 7)["lag1"] is None
    assert curve([-1.0, 1.0])["std_over_mean"] is None


@pytest.mark.parametrize("verb", ["gradients", "rewards"])
def test_what_is_no_finished_search_is_refused(narfx: Cli, tmp_path: Path, verb: str) -> None:
    path = tmp_path / "run"
    assert "holds no run" in refused(narfx, verb, str(path), kind="no_run")
    with RunFolder.create(path, {"strategy": "enas"}) as folder:
        refused(narfx, verb, str(path), kind="no_events")
        folder.event("weights", epoch=1)
        assert "no steps" in refused(narfx, verb, str(path), kind="no_events")
    assert not (path / "analysis").exists()
    short = search(tmp_path / "short", "enas", 2)
    assert "has 2 steps" in refused(narfx, verb, str(short), kind="too_few_steps")


def test_a_strategy_that_logs_nothing_is_refused(narfx: Cli, tmp_path: Path) -> None:
    path = search(tmp_path / "random", "random", 5)
    assert "'random'" in refused(narfx, "gradients", str(path), kind="no_gradients")
    assert "'random'" in refused(narfx, "rewards", str(path), kind="no_assigned_rewards")
    sampled = search(tmp_path / "sampled", "alternating", 5, mode="sample")
    refused(narfx, "gradients", str(sampled), kind="no_gradients")
    assert rewards(sampled)["steps"] == 5


@pytest.mark.parametrize(
    "line", ["{broken", '"text"', '{"no": "event"}', '{"event": "step", "gradient": 3, "assigned": 3}']
)
def test_events_that_no_search_wrote_are_refused(narfx: Cli, enas: Path, tmp_path: Path, line: str) -> None:
    path = shutil.copytree(enas, tmp_path / "run")
    with (path / "events.jsonl").open("a") as stream:
        stream.write(line + "\n")
    for verb in ("gradients", "rewards"):
        refused(narfx, verb, str(path), kind="malformed_events")
