"""The command on several ranks: rank 0 alone speaks, in one sentence, and a run that ends early resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rank_processes import Said, command_of_ranks

from narfx.cli.app import app
from narfx.cli.console import run_app

rank_processes_first = True
NET = """
import os
import signal
from pathlib import Path

import torch
from torch import nn

INPUT_SHAPE = (1, 8, 8)


@torch.fx.wrap
def meets_its_end(x):
    left = Path("left" + os.environ.get("RANK", ""))
    if left.exists() and torch.is_grad_enabled() and len(x) > 8:
        end, calls = left.read_text().split()
        left.write_text(f"{end} {int(calls) - 1}")
        if not int(calls) and end == "memory":
            torch.empty(2**55)  # more than any machine has
        elif not int(calls):
            os.kill(os.getpid(), getattr(signal, end))
    return x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.second(self.norm(meets_its_end(self.first(x))).relu()).mean((2, 3)))
"""
TRAIN = [
    "train", "net.py", "--epochs", "4", "--data", "digits", "--data-fraction", "0.2", "--batch-size", "64", "--lr",
    "0.01", "--device", "cpu",
]  # fmt: skip
CALLS = 7  # of four steps an epoch: in the second


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What two ranks train that are never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "net.py").write_text(NET)
    command_of_ranks(2, [*TRAIN, "--out", "run", "-q"], folder)
    return {name: (folder / "run" / name).read_bytes() for name in ("weights.safetensors", "metrics.json")}


def silent(others: list[Said]) -> bool:
    return not any(said.out or said.err for said in others)


def failed(ended: list[Said], code: int, kind: str) -> str:
    """The message of a command with ``--json`` that failed in one sentence of rank 0's."""
    first, *others = ended
    assert silent(others)
    assert (first.code, first.err.count("\n")) == (code, 1), first
    error = json.loads(first.out)["error"]
    assert (error["kind"], error["code"]) == (kind, code)
    assert first.err == f"narfx: {error['message']}\n"
    assert [said.code for said in others] == [code] * len(others)
    return str(error["message"])


def test_rank_0_alone_prints_and_writes(place: Path) -> None:
    first, *others = command_of_ranks(3, [*TRAIN, "--out", "run"], place)
    assert silent(others)
    assert [said.code for said in (first, *others)] == [0, 0, 0]
    assert first.err.count("epoch 4/4") == 1
    assert "run" in first.out
    told = command_of_ranks(2, ["train", "--resume", "--out", "run", "--json", "-q"], place)
    assert json.loads(told[0].out)["files"]["metrics"] == "run/metrics.json"
    assert silent(told[1:])
    assert silent(told[:1]) is False
    assert {path.name for path in place.iterdir()} <= {"net.py", "run", "__pycache__"}


@pytest.mark.parametrize(
    ("end", "victim", "code", "kind", "said"),
    [
        ("memory", 1, 7, "out_of_memory", "rank 1 of 2: out of memory: use a smaller batch"),
        ("memory", 0, 7, "out_of_memory", "out of memory: use a smaller batch"),
        ("SIGKILL", 1, 7, "rank_killed", "rank 1 of 2 ended without a word"),
        ("SIGTERM", 0, 75, "interrupted", "interrupted"),
    ],
)
def test_a_run_goes_on_where_a_rank_met_its_end(
    place: Path, whole: dict[str, bytes], end: str, victim: int, code: int, kind: str, said: str
) -> None:
    Path(f"left{victim}").write_text(f"{end} {CALLS}")
    began = time.monotonic()
    first, second = command_of_ranks(2, [*TRAIN, "--out", "run", "-q", "--json"], place)
    assert time.monotonic() - began < 60
    error = json.loads(first.out)["error"]
    assert (first.code, error["code"], error["kind"], first.err.count("\n")) == (code, code, kind, 1), first
    assert error["message"] == f"{error['message'].partition(';')[0]}; the run in run resumes with --resume --out run"
    assert error["message"].startswith(said)
    assert silent([second])
    assert second.code == (-signal.SIGKILL if end == "SIGKILL" else code)
    Path(f"left{victim}").unlink()
    assert [said.code for said in command_of_ranks(2, ["train", "--resume", "--out", "run", "-q"], place)] == [0, 0]
    for name, content in whole.items():
        assert Path("run", name).read_bytes() == content, name


def test_more_ranks_than_images_in_a_batch(place: Path) -> None:
    ended = command_of_ranks(3, [*TRAIN, "--batch-size", "2", "--out", "run", "--json"], place)
    assert failed(ended, 2, "too_many_ranks").endswith(
        "there are 3 ranks, and a training batch has 2 images: start at most 2 ranks, or raise --batch-size"
    )
    assert not Path("run").exists()


def save_images(file: Path, seed: int) -> None:
    images, labels = np.random.default_rng(seed).integers(0, 255, (64, 8, 8, 1), dtype=np.uint8), np.arange(64) % 10
    np.savez(file, x_train=images, y_train=labels, x_test=images[::-1], y_test=labels)


def test_ranks_on_different_data(place: Path) -> None:
    for rank in range(2):
        (place / str(rank)).mkdir()
        save_images(place / str(rank) / "data.npz", rank)
    data = lambda rank: ["--data", f"{rank}/data.npz"]  # noqa: E731
    base = [*TRAIN[:4], "--batch-size", "16", "--device", "cpu", "--out", "run", "--json"]
    message = failed(command_of_ranks(2, base, place, own=data), 2, "ranks_differ")
    assert "rank 1 of 2 has other inputs than rank 0 (" in message
    assert "the images or labels" in message
    assert not Path("run").exists()
    save_images(place / "1" / "data.npz", 0)  # in another folder, and the same
    assert command_of_ranks(2, base, place, own=data)[0].code == 0


def test_ranks_with_different_options(place: Path) -> None:
    ended = command_of_ranks(2, [*TRAIN, "--out", "run", "--json"], place, own=lambda rank: ["--seed", str(rank)])
    assert "(the option seed" in failed(ended, 2, "ranks_differ")


def test_a_run_folder_that_a_rank_does_not_see(place: Path) -> None:
    ended = command_of_ranks(2, [*TRAIN, "--json"], place, own=lambda rank: ["--out", f"host{rank}/run"])
    assert "rank 1 of 2 does not see the run folder host0/run that rank 0 writes" in failed(ended, 2, "run_not_shared")
    assert not any(path for host in place.glob("host*") for path in host.iterdir())


def test_a_backend_that_is_not_there(place: Path) -> None:
    ended = command_of_ranks(2, [*TRAIN, "--out", "run", "--json"], place, {"NARFX_BACKEND": "pigeon"})
    assert failed(ended, 2, "no_backend").startswith("there is no backend 'pigeon': this torch has gloo")


def test_a_loss_that_is_nan_is_one_sentence(place: Path) -> None:
    ended = command_of_ranks(2, [*TRAIN, "--lr", "1e30", "--out", "run", "--json", "-q"], place)
    assert "lower the learning rate (--lr)" in failed(ended, 7, "nan_loss")


def test_other_verbs_run_in_one_process(place: Path) -> None:
    message = failed(command_of_ranks(2, ["trace", "net.py", "--json"], place), 2, "ranks")
    assert message.startswith("narfx trace runs in one process, and torchrun has started 2: call it without torchrun")


def test_a_dry_run_says_what_ranks_share(place: Path) -> None:
    first, second = command_of_ranks(2, [*TRAIN, "--out", "run", "--dry-run", "--json"], place)
    assert json.loads(first.out)["dry_run"] is True
    assert json.loads(first.out)["message"].endswith("by one of 2 ranks, without what they send each other")
    assert silent([second])


def test_compare_by_ranks_resumes(place: Path) -> None:
    assert run_app(app, ["search", "net.py", *TRAIN[4:], "--quick", "--budget", "none", "--out", "found", "-q"]) == 0
    common = ["--seeds", "1", "--randoms", "1", "--epochs", "2", *TRAIN[4:]]
    command = ["compare", "found/arch.json", *common, "-q", "--json"]
    command_of_ranks(2, [*command, "--out", "whole"], place)
    Path("left1").write_text("SIGKILL 12")
    assert command_of_ranks(2, [*command, "--out", "run"], place)[0].code == 7
    Path("left1").unlink()
    first, second = command_of_ranks(2, ["compare", "--resume", "--out", "run", "--json", "-q"], place)
    assert (first.code, second.code) == (0, 0), first
    assert Path("run/comparison.json").read_bytes() == Path("whole/comparison.json").read_bytes()
    rows = json.loads(first.out)["rows"]
    assert [row["name"] for row in rows][:2] == ["base", "refined"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the command has no parent process")
def test_torchrun_ends_when_a_rank_is_killed_and_the_run_resumes(place: Path) -> None:
    def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return subprocess.run(
            [*launcher, "-m", "narfx", *arguments, "-q", "--json"], cwd=place, text=True, capture_output=True,
            timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
        )  # fmt: skip

    Path("left1").write_text(f"SIGKILL {CALLS}")
    killed = torchrun(*TRAIN, "--out", "run")
    said = [line for line in killed.stderr.splitlines() if line.startswith("narfx: ")]
    assert said == [
        "narfx: rank 1 of 2 ended without a word: it was killed or it crashed, or its machine is gone; the run in run "
        "resumes with --resume --out run"
    ]
    assert json.loads(killed.stdout)["error"]["code"] == 7
    assert killed.stderr.count("exitcode  : 7") == 2  # what torchrun itself reports of the two
    Path("left1").unlink()
    resumed, _ = command_of_ranks(2, ["train", "--resume", "--out", "run", "-q", "--json"], place)
    assert resumed.code == 0, resumed.err
    assert json.loads(resumed.out)["epochs"] == 4
