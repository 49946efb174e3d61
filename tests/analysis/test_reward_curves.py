"""``narfx.analysis.rewards``: the assigned rewards in a run's events."""

from __future__ import annotations

import json
import math
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from command import Run as Cli
from command import in_process
from small_runs import enas_run

from narfx.analysis import rewards
from narfx.analysis.steps import curve
from narfx.runs.events import read_events
from narfx.search import SearchConfig, run


@pytest.fixture(scope="module")
def enas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return enas_run(tmp_path_factory)


@pytest.fixture
def narfx(capfd: pytest.CaptureFixture[str]) -> Cli:
    return in_process(capfd)


def test_rewards_are_those_of_the_events(enas: Path) -> None:
    found = rewards(enas)["parts"]
    events = [event for event in read_events(enas) if event["event"] == "step"]
    for part in ("operators", "skips"):
        for over in ("samples", "depth"):
            variance = np.mean([event["assigned"]["variance"][part][over] for event in events])
            assert math.isclose(found[part][f"over_{over}"]["variance"], variance)
            assert math.isclose(found[part][f"over_{over}"]["relative"], math.sqrt(variance) / found[part]["mean"])
    # every vector has one of three operators, and a skip is open or closed
    mean = np.mean([event["reward"] for event in events])
    assert math.isclose(found["operators"]["mean"], mean / 3, rel_tol=1e-4)
    assert math.isclose(found["skips"]["mean"], mean / 2, rel_tol=1e-4)
    opened = np.array([[*chain(*event["assigned"]["skips"]["open"])] for event in events])
    closed = np.array([event["reward"] for event in events])[:, None] - opened
    states = [*opened.T, *closed.T]
    assert math.isclose(found["skips"]["lag1"], np.mean([curve(series)["lag1"] for series in states]), rel_tol=1e-9)


def test_a_search_on_images_logs_what_is_analysed(tmp_path: Path, narfx: Cli) -> None:
    config = SearchConfig(
        model="narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10", input=(1, 8, 8), data="digits",
        init="scratch", epochs=2, pretrain_epochs=1, steps=4, finalists=1, augment="none", strategy="enas",
    )  # fmt: skip
    run(config, tmp_path / "run")
    for verb in ("gradients", "rewards"):
        code, out, _ = narfx("analyze", verb, str(tmp_path / "run"), "--json")
        assert code == 0
        found = json.loads(out)
        assert (found["strategy"], found["steps"], list(found["parts"])) == ("enas", 4, ["operators"])
        assert all(Path(file).parent == tmp_path / "run" / "analysis" for file in found["files"].values())
        assert narfx("analyze", verb, str(tmp_path / "run"))[0] == 0  # its own folder it may write again
    legend = (tmp_path / "run" / "analysis" / "rewards.svg").read_text()
    assert all(f"<!-- {name} -->" in legend for name in ("base", "dwsep3x3", "maxpool3x3", "avgpool3x3"))
