"""Scalars for TensorBoard: of a run while it runs, after it was resumed, and when it is finished."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command import RunJson, in_process_json

from narfx.runs.tensorboard import write_tensorboard

SEARCH = [
    "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10", "--input", "1,8,8", "--data", "digits",
    "--data-fraction", "0.25", "--batch-size", "64", "--init", "scratch", "--epochs", "3", "--pretrain-epochs", "1",
    "--steps", "3", "--finalists", "2", "--augment", "none",
]  # fmt: skip
Scalars = dict[str, list[tuple[int, float]]]


def scalars(folder: Path) -> Scalars:
    """The steps and values of each tag, as TensorBoard reads them."""
    module = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install 'narfx[tensorboard]'"
    )
    read = module.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


@pytest.fixture
def narfx(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunJson:
    monkeypatch.chdir(tmp_path)
    return in_process_json(capfd)


def test_a_resumed_run_has_each_step_once(narfx: RunJson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert narfx("search", *SEARCH, "--out", "whole", "--tensorboard")[0] == 0
    whole = scalars(tmp_path / "whole" / "tensorboard")
    assert [step for step, _ in whole["strategy/reward"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in whole["weights/loss"]] == [1, 2, 3]
    assert len(whole["result/accuracy"]) == 1 and len(whole["probability/choice_3"]) == 6

    from narfx.search import shared_weights

    epochs = iter(range(9))
    step = shared_weights.SharedWeights.epoch

    def interrupted(self: shared_weights.SharedWeights, number: int) -> object:
        if next(epochs) == 2:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(shared_weights.SharedWeights, "epoch", interrupted)
        assert narfx("search", *SEARCH, "--out", "cut", "--tensorboard")[0] == 75
    assert [step for step, _ in scalars(tmp_path / "cut" / "tensorboard")["strategy/reward"]] == [1, 2, 3]
    assert narfx("search", "--resume", "--out", "cut", "--tensorboard")[0] == 0
    assert scalars(tmp_path / "cut" / "tensorboard") == whole
    # The same from a run that is finished.
    (tmp_path / "cut" / "tensorboard" / "events.out.tfevents.narfx").unlink()
    code, result, _ = narfx("report", "cut", "--tensorboard")
    assert (code, result["files"]["tensorboard"]) == (0, "cut/tensorboard")
    assert scalars(tmp_path / "cut" / "tensorboard") == whole


def test_the_networks_of_a_comparison_are_runs_of_their_own(narfx: RunJson, tmp_path: Path) -> None:
    (tmp_path / "arch.json").write_text(f'{{"model": "{SEARCH[0]}", "vector": [1, 0, 2, 0, 3, 0], "input": [1, 8, 8]}}')
    given = ["--data", "digits", "--data-fraction", "0.2", "--epochs", "2", "--batch-size", "64"]
    given = ["compare", "arch.json", *given, "--seeds", "1", "--randoms", "1", "--out", "c", "--tensorboard"]
    assert narfx(*given)[0] == 0
    logs = tmp_path / "c" / "tensorboard"
    assert {path.name for path in logs.iterdir() if path.is_dir()} == {"base-0", "refined-0", "random-1-0"}
    assert [step for step, _ in scalars(logs / "refined-0")["train/loss"]] == [1, 2]
    before = {name: scalars(logs / name) for name in ("base-0", "refined-0", "random-1-0", ".")}
    assert {tag for tag in before["."] if "accuracy" in tag} >= {"trained/base/test/accuracy"}
    write_tensorboard(tmp_path / "c")
    assert {name: scalars(logs / name) for name in before} == before


@pytest.mark.parametrize("verb", [["search", *SEARCH], ["train", SEARCH[0], *SEARCH[1:5]]], ids=["search", "train"])
def test_without_the_extra_nothing_begins(
    narfx: RunJson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for more in ([], ["--dry-run"]):
        code, result, err = narfx(*verb, "--out", "new", "--tensorboard", *more)
        assert (code, result["error"]["kind"]) == (2, "missing_extra") and "narfx[tensorboard]" in err
        assert len(err.splitlines()) == 1 and not list(tmp_path.iterdir())
