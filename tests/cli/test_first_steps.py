"""What a new user does first: ask how long it takes, and take a quick look."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import RunJson, in_process, in_process_json

from narfx.search import SearchConfig

MODEL = "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10"


@pytest.fixture
def cli(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> RunJson:
    monkeypatch.chdir(tmp_path)
    arch = {"model": MODEL, "vector": ["dwsep3x3", *[0] * 5], "input": [1, 8, 8]}
    (tmp_path / "arch.json").write_text(json.dumps(arch))
    return in_process_json(capfd)


def test_a_dry_run_says_how_long_it_takes_and_writes_nothing(
    cli: RunJson, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    digits = ["--data", "digits", "--max-train-images", "300", "--dry-run", "--out", "deep/run"]
    model = [MODEL, "--input", "1,8,8"]
    expected = {
        "search": (model, {"epochs": 30, "training_steps": 60, "rewards": 6750, "evaluations": 19}),
        "train": (["arch.json"], {"epochs": 35, "training_steps": 70}),
        "compare": (["arch.json"], {"epochs": 35, "seeds": 3}),
    }
    for verb, (target, numbers) in expected.items():
        code, result, _ = cli(verb, *target, *digits)
        assert code == 0 and result["dry_run"] is True and result["estimate"]["seconds"] > 0
        assert numbers.items() <= result["estimate"].items()
    estimate = result["estimate"]
    assert estimate["networks"] >= 2 and estimate["trainings"] == 3 * estimate["networks"]
    assert estimate["training_steps"] == 70 * estimate["trainings"]
    code, out, _ = in_process(capfd)("train", "arch.json", *digits)
    assert code == 0 and "35 epochs of 2 steps" in out and "nothing was written" in out
    assert [path.name for path in tmp_path.iterdir()] == ["arch.json"]
    (tmp_path / "deep" / "run").mkdir(parents=True)
    (tmp_path / "deep" / "run" / "mine").touch()
    code, result, _ = cli("train", "arch.json", *digits)
    assert (code, result["error"]["kind"]) == (2, "output_exists")
    assert cli("train", "--resume", "--dry-run", "--out", "deep/run")[1]["error"]["kind"] == "resume_options"


def test_a_dry_run_warns_of_a_single_class(cli: RunJson, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "one.npz", x_train=np.zeros((40, 8, 8), np.uint8), y_train=np.zeros(40, int))
    model = [MODEL, "--input", "1,8,8", "--budget", "macs<=0.777x"]
    for verb, target in (("search", model), ("train", ["arch.json"]), ("compare", ["arch.json"])):
        asked = (verb, *target, "--data", "one.npz", "--dry-run", "--out", "run")
        assert any("all images have the same label" in note for note in cli(*asked)[1]["notes"])
        code, out, _ = in_process(capfd)(*asked)
        assert code == 0 and "all images have the same label" in out and "." not in out.partition("budget ")[2][:20]


def test_a_quick_look_is_no_result_and_says_so(cli: RunJson) -> None:
    config = SearchConfig(model=MODEL, quick=True)
    assert (config.epochs, config.pretrain_epochs, config.steps, config.max_train_images) == (4, 1, 10, 2000)
    given = SearchConfig(model=MODEL, quick=True, epochs=2, steps=3)
    assert (given.epochs, given.pretrain_epochs, given.steps) == (2, 1, 3)
    code, result, told = cli(
        "search", MODEL, "--input", "1,8,8", "--data", "digits", "--quick", "--epochs", "2", "--steps", "1",
        "--out", "r", "--max-train-images", "150",
    )  # fmt: skip
    assert code == 0 and result["quick"] is True
    assert result["verdict"].startswith("QUICK LOOK (--quick), NOT A RESULT: ")
    assert told.count("NOT A RESULT") == 2
    assert json.loads(Path("r/config.json").read_text())["quick"] is True
    assert json.loads(Path("r/arch.json").read_text())["metrics"]["quick"] is True
    assert result["below_budget"] is None or result["below_budget"]["message"] in told
