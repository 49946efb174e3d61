"""``narfx analyze confusion``: conflicts between minibatches, and the depth that matches a target's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import Run, RunJson, in_process, in_process_json
from small_networks import QUICK, write_small
from test_convergence import _Stops

from narfx.analysis.confusion import ConfusionConfig, confuse, resume_confusion
from narfx.errors import InterruptedRunError

SMALL = ["--data", "small.npz", *QUICK, "--pairs", "5", "--seeds", "1"]


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


def test_the_depth_of_the_target_itself_is_chosen(run_json: RunJson) -> None:
    code, result, error = run_json(
        "analyze", "confusion", "n=net.py:Net", "--depths", "1,3,2", "--depth-argument", "depth",
        "--target", "net.py:Net?depth=3", *SMALL, "--out", "c",
    )  # fmt: skip
    assert code == 0, error
    names = ["n-depth-1", "n-depth-3", "n-depth-2"]
    assert [entry["name"] for entry in result["networks"]] == names and result["chosen"] == "n-depth-3"
    assert [entry["depth"] for entry in result["networks"]] == [1, 3, 2]
    distances = [entry["distance"]["mean"] for entry in result["networks"]]
    assert distances[1] == 0 < min(distances[0], distances[2])
    assert "chosen: depth=3" in result["verdict"]
    # The numbers are those of the events.
    lines = [json.loads(line) for line in Path("c/runs/n-depth-1-0/events.jsonl").read_text().splitlines()]
    cosines = np.array([line["cosines"] for line in lines])
    entry = result["networks"][0]
    assert cosines.shape == (2, 5) and np.abs(cosines).max() <= 1
    assert entry["confusion_by_epoch"] == [(-cosines.min(1)).tolist()]
    assert entry["confusion"]["mean"] == pytest.approx(float(-cosines.min(1).mean()))
    assert entry["mean_cosine"]["mean"] == pytest.approx(float(cosines.mean()))
    assert entry["smallest_inner"] == min(line["smallest_inner"] for line in lines)
    assert sum(entry["density"]["share"]) == pytest.approx(1)
    assert Path(result["files"]["png"]).read_bytes()[:4] == b"\x89PNG"


def test_a_supernet_is_a_mixture_of_its_operators(run_json: RunJson) -> None:
    network = "narfx:darts_search?cells=1&channels=2&in_channels=1&num_classes=4&operators=s2"
    given = ["analyze", "confusion", f"s={network}", *SMALL, "--epochs", "1"]
    plain = run_json(*given, "--out", "plain")[1]["networks"][0]
    code, result, _ = run_json(*given, "--mixture", "--out", "mixed")
    mixed = result["networks"][0]
    # The base has sep_conv_3x3 everywhere; skip_connect adds no weights in a normal cell.
    assert code == 0 and mixed["params"] >= plain["params"] and mixed["mixture"] and not plain["mixture"]
    assert mixed["confusion"]["mean"] != plain["confusion"]["mean"]
    assert result["target"] is None and result["chosen"] is None and result["verdict"] == ""


def test_an_interrupted_run_ends_in_the_same_bytes() -> None:
    config = ConfusionConfig(
        targets=("net.py", "net.py:Net?depth=2"), names=("a", "b"), data="small.npz", epochs=2, batch_size=32, seeds=1,
        pairs=3, target="net.py:Net?depth=3",
    )  # fmt: skip
    confuse(config, "whole")
    with pytest.raises(InterruptedRunError):
        confuse(config, "parts", reporter=_Stops(3))
    result = resume_confusion("parts")
    for name in ("confusion.json", "confusion.svg", "confusion.png"):
        assert (Path("parts") / name).read_bytes() == (Path("whole") / name).read_bytes(), name
    assert resume_confusion("parts") == result


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("net.py", "net.py:Net", "--depths", "1,2"), "--depths takes one MODEL at each depth, and there are 2"),
        (("net.py:Net", "--depths", "2,2"), "--depths are different whole numbers from 1 on"),
        (("net.py:Net", "--depths", "x"), "--depths takes whole numbers joined by commas"),
        (("net.py:Net", "--depths", "1,2"), "cells"),  # the argument is called depth
        (("a.json", "--mixture"), "--mixture needs a MODEL, and a.json is the architecture of one"),
        (("a.json", "--depths", "1,2"), "--depths needs a MODEL, and a.json is the architecture of one"),
        (("net.py", "--pairs", "0"), "--pairs must be at least 1"),
        (("net.py", "--batch-size", "100"), "a pair needs two minibatches"),
        (("target=net.py", "--target", "net.py"), "a network is called target"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(run: Run, arguments: tuple[str, ...], said: str) -> None:
    code, out, error = run("analyze", "confusion", *arguments, "--data", "small.npz", "--out", "none")
    assert code == 2 and said in " ".join(error.split()) and out == "" and "Traceback" not in error
    assert not Path("none").exists()


def test_a_mixture_needs_choices(run: Run) -> None:
    Path("plain.py").write_text(
        "from torch import nn\nINPUT_SHAPE = (1, 8, 8)\n\n\nclass Plain(nn.Sequential):\n"
        "    def __init__(self):\n        super().__init__(nn.Flatten(), nn.Linear(64, 4))\n"
    )
    code, _, error = run("analyze", "confusion", "plain.py", "--mixture", "--data", "small.npz", "--out", "none")
    assert code == 3 and "Traceback" not in error and not Path("none").exists()


def test_the_table_and_the_estimate(run: Run) -> None:
    given = ["analyze", "confusion", "net.py", "--target", "net.py:Net?depth=2", *SMALL, "--out", "c"]
    code, out, _ = run(*given, "--dry-run")
    assert code == 0 and "2 networks, 1 seed, so 2 trainings of 2 epochs, and 5 pairs of minibatches" in out
    code, out, _ = run(*given, "-q")
    assert code == 0 and "difference from the target" in out and "chosen: net" in out
