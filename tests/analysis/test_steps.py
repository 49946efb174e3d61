"""What a run's events say of gradients and assigned rewards: numbers, figures, and one sentence where they cannot."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Run as Cli
from command import in_process

from narfx.analysis import gradients, rewards
from narfx.analysis.steps import curve
from narfx.errors import UsageError
from narfx.runs.events import read_events
from narfx.runs.folder import RunFolder
from narfx.search import Result, SearchConfig, make_strategy, run
from narfx.space.space import SearchSpace

SPACE = SearchSpace.uniform(4, 3, skips=True)


def search(path: Path, strategy: str, steps: int, space: SearchSpace = SPACE, **options: Any) -> Path:
    """The run directory of a search on a table: its configuration and its events."""
    with RunFolder.create(path, {"strategy": strategy}) as folder:
        made = make_strategy(strategy, space, **options)
        folder.event("weights", epoch=1, loss=1.0)
        for _ in range(steps):
            proposals = made.ask(5)
            earned = [0.5 + 0.1 * math.sin(sum(i * k for i, k in enumerate(p.vector))) for p in proposals]
            metrics = made.tell(proposals, [Result(reward) for reward in earned])
            folder.event("step", epoch=1, vectors=[list(p.vector) for p in proposals], rewards=earned, **metrics)
    return path


@pytest.fixture(scope="module")
def enas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return search(tmp_path_factory.mktemp("runs") / "enas", "enas", 12)


@pytest.fixture
def narfx(capfd: pytest.CaptureFixture[str]) -> Cli:
    return in_process(capfd)


# Numbers


def test_a_curve_in_numbers() -> None:
    found = curve([1.0, 2.0, 3.0, 4.0])
    assert found["mean"] == 2.5
    assert math.isclose(found["std"], math.sqrt(1.25))
    assert math.isclose(found["std_over_mean"], math.sqrt(1.25) / 2.5)
    assert math.isclose(found["lag1"], (-1.5 * -0.5 + -0.5 * 0.5 + 0.5 * 1.5) / 5.0)
    assert curve([1.0, -1.0] * 50)["lag1"] < -0.9
    assert curve([0.1] * 7)["lag1"] is None
    assert curve([-1.0, 1.0])["std_over_mean"] is None


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


# Figures


@pytest.mark.parametrize("verb", [gradients, rewards])
def test_the_same_run_gives_the_same_files(enas: Path, tmp_path: Path, verb: Callable[..., dict[str, Any]]) -> None:
    one, other = (verb(enas, tmp_path / name)["files"] for name in ("one", "other"))
    assert set(one) == {"png", "svg", "json"}
    for kind, path in one.items():
        assert Path(path).read_bytes() == Path(other[kind]).read_bytes()
    assert Path(one["png"]).read_bytes().startswith(b"\x89PNG")
    svg = Path(one["svg"]).read_text()
    assert "<svg" in svg
    assert "dc:date" not in svg


def test_the_table_names_parts_and_files(enas: Path, tmp_path: Path, narfx: Cli) -> None:
    for verb in ("gradients", "rewards"):
        code, out, _ = narfx("analyze", verb, str(enas), "--out", str(tmp_path / "out"))
        assert code == 0
        assert "operators" in out
        assert "skips" in out
        assert str(tmp_path / "out" / f"{verb}.svg") in out.replace("\n", "")


# Bad input


def refused(narfx: Cli, *arguments: str, kind: str) -> str:
    code, out, err = narfx("analyze", *arguments, "--json")
    error = json.loads(out)["error"]
    assert (code, error["code"], error["kind"]) == (2, 2, kind)
    assert "Traceback" not in err
    assert err.count("\n") == 1
    return str(error["message"])


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


def test_nothing_is_overwritten_unasked(narfx: Cli, enas: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "gradients.svg"
    mine.write_text("mine")
    refused(narfx, "gradients", str(enas), "--out", str(tmp_path / "out"), kind="output_exists")
    assert [mine.read_text(), len(list(mine.parent.iterdir()))] == ["mine", 1]
    refused(narfx, "gradients", str(enas), "--out", str(mine), kind="output_exists")
    assert narfx("analyze", "gradients", str(enas), "--out", str(tmp_path / "out"), "--overwrite")[0] == 0
    assert mine.read_text() != "mine"


def test_an_analysis_must_be_named(narfx: Cli) -> None:
    code, _, err = narfx("analyze")
    assert code == 2
    assert "gradients or rewards" in err
    with pytest.raises(UsageError):
        gradients("nowhere")
