"""Memory that ends in the middle of a run: one sentence, exit code 7, and nothing lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import RunJson, in_process_json

NET = """
from pathlib import Path

import torch
from torch import nn

INPUT_SHAPE = (1, 8, 8)


@torch.fx.wrap
def hungry(x):
    left = Path("left")
    if len(x) > 32 and torch.is_grad_enabled() and left.exists():
        calls = int(left.read_text())
        if not calls:
            torch.empty(2**55)  # more than any machine has
        left.write_text(str(calls - 1))
    return x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.second(hungry(self.first(x)).relu()).mean((2, 3)))
"""
COMMANDS = {
    "train": ["train", "net.py", "--epochs", "3"],
    "search": [
        "search", "net.py", "--epochs", "3", "--pretrain-epochs", "1", "--steps", "1", "--reward-images", "16",
        "--finalists", "1", "--budget", "none",
    ],
}  # fmt: skip


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_run_goes_on_where_memory_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], verb: str
) -> None:
    narfx: RunJson = in_process_json(capfd)
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    command = [
        *COMMANDS[verb],
        "--data",
        "digits",
        "--data-fraction",
        "0.2",
        "--batch-size",
        "64",
        "--lr",
        "0.01",
        "-q",
    ]
    assert narfx(*command, "--out", "whole")[0] == 0
    Path("left").write_text("7")  # of four calls an epoch, and a few before the first
    code, found, stderr = narfx(*command, "--out", "run")
    assert (code, found["error"]["kind"], stderr.count("\n")) == (7, "out_of_memory", 1), (found, stderr)
    assert "resumes with --resume" in found["error"]["message"]
    Path("left").unlink()
    assert narfx(verb, "--resume", "--out", "run", "-q")[0] == 0
    for name in ("weights.safetensors", "arch.json" if verb == "search" else "metrics.json"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes(), name
