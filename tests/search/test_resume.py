"""Nothing is lost: a run that is killed at any moment resumes to what it would have been."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from narfx.errors import UsageError
from narfx.runs.events import read_events
from narfx.runs.folder import RunFolder
from narfx.search import SearchConfig, resume, run

CONFIG = SearchConfig(
    model="narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10",
    input=(1, 8, 8),
    data="digits",
    init="scratch",
    epochs=5,
    pretrain_epochs=2,
    steps=4,
    finalists=3,
    augment="none",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(CONFIG, out)
    return out


def same(a: Path, b: Path) -> None:
    """Vector, metrics, front, weights and all events but their seconds."""
    for name in ("arch.json", "front.json"):
        assert (a / name).read_text() == (b / name).read_text(), name
    digests = [hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest() for folder in (a, b)]
    assert digests[0] == digests[1]
    assert timeless(a) == timeless(b)


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k != "seconds"} for event in read_events(folder)]


def start(out: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "narfx", "search", *arguments, "--out", str(out), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": threads()},
        preexec_fn=heed_interrupts,
    )  # fmt: skip


def heed_interrupts() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def threads() -> str:
    """The promise is for equal numbers of threads: a process of its own gets as many as this one has."""
    return str(torch.get_num_threads())


def wait_for(out: Path, events: int, process: subprocess.Popen[str]) -> None:
    """Until the run has written so many events."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if (out / "events.jsonl").exists() and (out / "events.jsonl").read_text().count("\n") >= events:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run ended or hung before {events} events: {process.communicate(timeout=5)}")


def test_kill_and_resume(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "--config", str(whole / "config.json"))
    wait_for(out, 9, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "arch.json").exists()
    resume(out)
    same(out, whole)


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "--config", str(whole / "config.json"))
    wait_for(out, 4, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 75
    assert json.loads(stdout)["error"]["kind"] == "interrupted"
    assert "--resume" in stderr and "Traceback" not in stderr
    resume(out)
    same(out, whole)


def test_a_run_without_a_checkpoint_starts_over(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    config = json.loads((whole / "config.json").read_text())
    folder = RunFolder.create(out, config)
    with folder:
        folder.event("weights", epoch=1, loss=0.0)
    resume(out)
    same(out, whole)


def test_resuming_a_finished_run_gives_its_result_again(whole: Path) -> None:
    before = {name: (whole / name).read_bytes() for name in ("arch.json", "front.json", "weights.safetensors")}
    resume(whole)
    assert before == {name: (whole / name).read_bytes() for name in before}


@pytest.mark.parametrize("names", [None, ["another.weight"]])
def test_a_checkpoint_with_parameters_in_another_order_is_refused(
    tmp_path: Path, whole: Path, names: list[str] | None
) -> None:
    """An optimizer's state goes by position: older versions saved no names, and had another order."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    assert saved["state"].pop("parameters")
    if names is not None:
        saved["state"]["parameters"] = names
    torch.save(saved, out / "checkpoint.pt")
    (out / "result.json").unlink()  # of a finished run the result is read, and nothing else
    with pytest.raises(UsageError, match="start a new run") as caught:
        resume(out)
    assert caught.value.kind == "checkpoint_mismatch"


def test_a_broken_checkpoint_is_refused(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    folder = RunFolder.create(out, json.loads((whole / "config.json").read_text()))
    (out / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match=r"checkpoint.pt"):
        resume(out)
    assert folder.has_checkpoint


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    with folder, pytest.raises(UsageError, match="another process"), RunFolder.open(tmp_path / "run"):
        pass


def test_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    from narfx.verbs.train import TrainConfig, resume_train, train

    config = TrainConfig(target=CONFIG.model, input=(1, 8, 8), data="digits", init="scratch", epochs=4, t0=2)
    train(config, tmp_path / "whole")
    process = subprocess.Popen(
        [sys.executable, "-m", "narfx", "train", "--config", str(tmp_path / "whole" / "config.json"),
         "--out", str(tmp_path / "cut")],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": threads()},
        preexec_fn=heed_interrupts,
    )  # fmt: skip
    wait_for(tmp_path / "cut", 2, process)
    process.kill()
    process.communicate()
    resume_train(tmp_path / "cut")
    for name in ("weights.safetensors", "metrics.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
