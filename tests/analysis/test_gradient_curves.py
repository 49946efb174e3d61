"""``narfx.analysis.gradients``: the magnitudes in a run's events."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from small_runs import enas_run, search

from narfx.analysis import gradients, rewards
from narfx.runs.events import read_events
from narfx.space.space import SearchSpace


@pytest.fixture(scope="module")
def enas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return enas_run(tmp_path_factory)


def test_gradients_are_those_of_the_events(enas: Path) -> None:
    found = gradients(enas)
    events = [event for event in read_events(enas) if event["event"] == "step"]
    assert (found["strategy"], found["steps"]) == ("enas", 12)
    assert list(found["parts"]) == ["operators", "skips"]
    for part, decisions in (("operators", 4), ("skips", 3)):
        series = np.array([event["gradient"][part] for event in events])
        summary = found["parts"][part]
        assert summary["steps"] == 12
        assert summary["decisions"] == decisions
        assert math.isclose(summary["mean"], series.mean())
        assert math.isclose(summary["std_over_mean"], series.std() / series.mean())
        assert math.isclose(summary["mean_per_decision"], series.mean() / decisions)
        spread = np.array([event["spread"] for event in events])
        assert math.isclose(summary["of_reward"]["mean"], (series * spread).mean())
    assert "files" not in found


def test_a_search_of_operators_alone_has_one_part(tmp_path: Path) -> None:
    path = search(tmp_path / "run", "nar", 4, SearchSpace.uniform(4, 3))
    assert list(gradients(path, tmp_path / "out")["parts"]) == ["operators"]
    assert list(rewards(path, tmp_path / "out")["parts"]) == ["operators"]


def test_alternating_phases_have_steps_of_their_own(tmp_path: Path) -> None:
    path = search(tmp_path / "run", "alternating", 14, phase=7, evaluations=2)
    found = gradients(path, tmp_path / "out")
    assert [part["steps"] for part in found["parts"].values()] == [5, 5]
    series = json.loads((tmp_path / "out" / "gradients.json").read_text())["series"]
    assert series["operators"]["step"] == [1, 2, 3, 4, 5]
    assert series["skips"]["step"] == [8, 9, 10, 11, 12]
    assert rewards(path)["steps"] == 14
