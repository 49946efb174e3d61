"""``narfx analyze convergence``: networks trained alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from command import Run, RunJson, in_process, in_process_json
from small_networks import QUICK, write_small

from narfx.analysis.convergence import converge, resume_convergence
from narfx.errors import InterruptedRunError
from narfx.inputs.weights import read_weights
from narfx.runs.events import read_events
from narfx.runs.progress import Silent
from narfx.verbs.alike import AlikeConfig

T = TypeVar("T")
SMALL = ["--data", "small.npz", *QUICK]


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    return in_process(capfd)


@pytest.fixture
def run_json(capfd: pytest.CaptureFixture[str]) -> RunJson:
    return in_process_json(capfd)


def test_the_numbers_are_those_of_the_trainings(run_json: RunJson) -> None:
    networks = ["a=net.py", "again=net.py", "wide=net.py:Net?width=16"]
    code, result, error = run_json("analyze", "convergence", *networks, *SMALL, "--seeds", "2", "--out", "c")
    assert code == 0, error
    a, again, wide = result["networks"]
    assert (result["part"], result["steps"], result["window"]) == ("test", 8, 1)
    assert a["train"]["steps"] == list(range(1, 9)) and a["test"]["steps"] == [4, 8]
    losses: list[list[float]] = []
    for seed in (0, 1):
        lines = [json.loads(line) for line in Path(f"c/runs/wide-{seed}/events.jsonl").read_text().splitlines()]
        losses.append([loss for line in lines for loss in line["losses"]])
        assert [np.mean(line["losses"]) for line in lines] == pytest.approx([line["loss"] for line in lines])
        metrics = json.loads(Path(f"c/runs/wide-{seed}/metrics.json").read_text())
        # What is measured after the last epoch is what the finished network has.
        assert lines[-1]["evaluated"]["loss"] == pytest.approx(metrics["test"]["loss"], abs=1e-6)
    assert wide["train"]["loss"] == pytest.approx(np.mean(losses, 0).tolist())
    assert wide["train"]["standard_error"] == pytest.approx((np.std(losses, 0, ddof=1) / 2**0.5).tolist())
    assert wide["mean_loss"]["mean"] == pytest.approx(np.mean(losses))
    # All networks reach the level, the slowest one at its smallest loss.
    reached = [steps for entry in result["networks"] for steps in entry["steps_to_level"]["by_seed"]]
    assert all(1 <= steps <= 8 for steps in reached)
    minima = [min(loss) for loss in losses]
    assert result["level"] >= max(minima)
    # The same network is trained alike, and is not told apart.
    assert again["train"] == a["train"] and again["against_first"]["train"]["difference"] == 0
    assert wide["mean_part_loss"]["mean"] == pytest.approx(np.mean(wide["test"]["loss"]))
    for key, mean in (("train", "mean_loss"), ("part", "mean_part_loss")):
        less = wide["against_first"][key]["difference"]
        assert less == pytest.approx(a[mean]["mean"] - wide[mean]["mean"])
    assert "again is not told apart from a" in result["verdict"] and a["against_first"] is None
    assert Path(result["files"]["png"]).read_bytes()[:4] == b"\x89PNG"
    assert "wide" in Path(result["files"]["svg"]).read_text()


def test_a_network_is_trained_as_narfx_train_does(run_json: RunJson) -> None:
    assert run_json("analyze", "convergence", "net.py", *SMALL, "--seeds", "1", "--out", "c")[0] == 0
    assert run_json("train", "net.py", *SMALL, "--init", "scratch", "--out", "t")[0] == 0
    ours, theirs = (read_weights(Path(file))[0] for file in ("c/runs/net-0/weights.safetensors",
                                                             "t/weights.safetensors"))  # fmt: skip
    assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())
    # So the weights can be looked at next.
    code, result, _ = run_json(
        "analyze", "landscape", "net.py", "--weights", "c/runs/net-0/weights.safetensors", "--data", "small.npz",
        "--grid", "3", "--out", "p",
    )  # fmt: skip
    assert code == 0
    ended = json.loads(Path("c/convergence.json").read_text())["networks"][0]["final_loss"]["mean"]
    assert result["networks"][0]["centre"] == pytest.approx(ended, abs=0.05)


class _Stops(Silent):
    def __init__(self, epochs: int) -> None:
        self._left = epochs

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        yield from items


def test_an_interrupted_run_ends_in_the_same_bytes() -> None:
    config = AlikeConfig(
        targets=("net.py", "net.py:Net?width=6"), names=("a", "b"), data="small.npz", epochs=2, batch_size=32, seeds=2
    )
    converge(config, "whole")
    with pytest.raises(InterruptedRunError) as stopped:
        converge(config, "parts", reporter=_Stops(5))  # in the first training of the second network
    assert stopped.value.exit_code == 75
    result = resume_convergence("parts")
    for name in ("convergence.json", "convergence.svg", "convergence.png", "runs/b-0/weights.safetensors"):
        assert (Path("parts") / name).read_bytes() == (Path("whole") / name).read_bytes(), name
    assert resume_convergence("parts") == result
    # Killed after a network was finished and before its event was written.
    events, names = Path("parts/events.jsonl"), ["a", "a", "b", "b"]
    events.write_text("".join(events.read_text().splitlines(keepends=True)[:-1]))
    Path("parts/convergence.json").unlink()
    resume_convergence("parts")
    assert [event["name"] for event in read_events(Path("parts"))] == names


def test_a_genotype_is_written_out_so_that_a_run_resumes_without_its_file(run_json: RunJson) -> None:
    assert run_json("analyze", "cells", "darts_v2", "--variant", "widest", "--out", "wide.json")[0] == 0
    network = "narfx:darts?cells=1&channels=2&in_channels=1&num_classes=4&genotype=wide.json"
    given = ["analyze", "convergence", f"w={network}", *SMALL, "--epochs", "1", "--seeds", "1", "--out", "c"]
    code, result, _ = run_json(*given)
    Path("wide.json").unlink()
    Path("c/convergence.json").unlink()
    assert code == 0 and "sep_conv_3x3" in result["networks"][0]["target"]
    assert run_json("analyze", "convergence", "--resume", "--out", "c")[1] == result


def test_an_architecture_is_trained_too_and_any_part_is_judged(run_json: RunJson) -> None:
    model = "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10"
    Path("arch.json").write_text(json.dumps({"model": model, "input": [1, 8, 8], "vector": [1, 0, 2, 0, 3, 0]}))
    rng = np.random.default_rng(0)
    np.savez("no_test.npz", x_train=rng.integers(0, 255, (80, 8, 8), dtype=np.uint8), y_train=np.arange(80) % 4)
    code, result, _ = run_json(
        "analyze", "convergence", "refined=arch.json", f"base={model}", "--data", "no_test.npz", "--epochs", "1",
        "--batch-size", "24", "--seeds", "1", "--out", "c",
    )  # fmt: skip
    refined, base = result["networks"]
    assert code == 0 and result["part"] == "val" and refined["params"] < base["params"]
    assert refined["val"]["standard_error"] is None


def test_a_loss_that_is_not_finite_stops_the_run(run: Run) -> None:
    code, out, error = run(
        "analyze", "convergence", "net.py", "--data", "small.npz", "--epochs", "3", "--batch-size", "32", "--seeds",
        "1", "--lr", "1e30", "--out", "c",
    )  # fmt: skip
    assert code == 7 and "lower the learning rate" in error and out == "" and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "a network is missing"),
        (("net.py", "--seeds", "0"), "--seeds must be at least 1"),
        (("net.py:Net?width=0",), "net.py"),
        (("narfx:darts?genotype=none.json",), "none.json"),
        (("net.py", "--batch-size", "0"), "--batch-size must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(run: Run, arguments: tuple[str, ...], said: str) -> None:
    code, out, error = run("analyze", "convergence", *arguments, "--data", "small.npz", "--out", "none")
    assert code == 2 and said in " ".join(error.split()) and out == "" and "Traceback" not in error
    assert not Path("none").exists()


def test_the_table_and_the_estimate(run: Run) -> None:
    given: list[Any] = ["analyze", "convergence", "net.py", "net.py:Net?width=6", *SMALL, "--seeds", "1", "--out", "c"]
    code, out, _ = run(*given, "--dry-run")
    assert code == 0 and "2 networks, 1 seed, so 2 trainings of 2 epochs" in out and not Path("c").exists()
    code, out, _ = run(*given, "-q")
    assert code == 0 and "mean training loss" in out and "Net-width-6 is not told apart from net" in out
    code, _, error = run("report", "c", "--out", "page.html")
    assert code == 2 and "no run of narfx search, train or compare" in error
