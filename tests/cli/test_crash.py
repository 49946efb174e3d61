"""The parent process of the command: crashes of native code, signals to the whole group, and its own death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_interrupts import reach, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the command has no parent process")

CRASHING = """
import os, signal
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        os.kill(os.getpid(), signal.SIGSEGV)
        return self.conv(x)
"""
NATIVE = """
import torch
from torch import nn

INPUT_SHAPE = (1, 8, 8)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.spin = torch.jit.CompilationUnit(
            "def spin(x):\\n    n = 1\\n    while n > 0:\\n        n = n % 7 + 1\\n    return x\\n"
        ).spin

    def forward(self, x):
        return self.spin(x)
"""
WAITING = """
import os, time
from pathlib import Path


def model():
    Path("pid").write_text(str(os.getpid()))
    Path("reached").touch()
    try:
        time.sleep(60)
    finally:
        time.sleep(0.3)  # a second interrupt would end this
        Path("cleaned up").touch()
"""


def test_a_crash_is_one_sentence_and_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CRASHING)
    process = start(tmp_path, *["train", "net.py", "--input", "1,8,8", "--data", "digits", "--out", "out", "--json"])
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr.count("\n")) == (7, 1)
    assert stderr.startswith("narfx: torch or another native library crashed (Segmentation fault); nothing was written")
    assert json.loads(stdout)["error"]["kind"] == "native_crash"
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["net.py"]


def test_a_native_loop_without_end_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARFX_MODEL_SECONDS", "0.5")
    (tmp_path / "net.py").write_text(NATIVE)
    process = start(tmp_path, *["evaluate", "net.py", "--data", "digits", "--json", "--quiet"])
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "narfx: the model did not end within its time, in code that Python cannot interrupt" in stderr
    assert json.loads(stdout)["error"]["kind"] == "model_time"


def test_a_signal_to_the_whole_group_interrupts_once(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(WAITING)
    process = subprocess.Popen(
        [sys.executable, "-m", "narfx", "trace", "net.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    reach(process, tmp_path / "reached")
    os.killpg(process.pid, signal.SIGTERM)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("narfx: interrupted\n", 130)
    assert (tmp_path / "cleaned up").exists()


def test_who_kills_the_command_kills_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(WAITING)
    process = start(tmp_path, "trace", "net.py")
    reach(process, tmp_path / "reached")
    process.kill()
    process.communicate()
    stat, end = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat"), time.monotonic() + 30
    while stat.exists() and ") Z " not in stat.read_text() and time.monotonic() < end:
        time.sleep(0.01)
    assert not stat.exists() or ") Z " in stat.read_text()
