"""Ctrl-C and a polite kill, as a process: exit code 130 and one sentence, wherever they meet the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WAIT = """
from pathlib import Path
import time


def wait():
    if not Path("reached").exists():
        Path("reached").touch()
        for _ in range(600):  # a signal just before a call of sleep waits for its end
            time.sleep(0.1)


"""
NET = WAIT + "def model():\n    {}\n"
OPERATORS = (
    WAIT
    + """
import narfx
from torch import nn


class Holding:
    def __del__(self):
        wait()


def build(site):
    {}
    return nn.Conv2d(site.in_channels, site.out_channels, 3, site.stride, 1)


narfx.register_operator(narfx.Operator("own", build))
"""
)


def start(folder: Path, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *options, "-m", "narfx", *arguments], cwd=folder, text=True, preexec_fn=heed_interrupts,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def heed_interrupts() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def reach(process: subprocess.Popen[str], mark: Path) -> None:
    end = time.monotonic() + 120
    while not mark.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert mark.exists(), process.communicate(timeout=5)


@pytest.mark.parametrize(
    ("name", "source", "arguments", "number"),
    [
        ("net.py", NET.format("wait()"), "trace net.py --latency", signal.SIGINT),
        ("net.py", NET.format("wait()"), "evaluate net.py --data digits", signal.SIGTERM),
        # CPython itself would end by the signal behind a text in exec.
        ("net.py", NET.format("exec('wait()')"), "trace net.py", signal.SIGINT),
        ("ops.py", OPERATORS.format("wait()"), "ops test ops.py", signal.SIGINT),
        # What a library swallows is no failure of the operator, but an interruption.
        (
            "ops.py",
            OPERATORS.format("try:\n        wait()\n    except BaseException:\n        pass"),
            "ops list ops.py",
            signal.SIGINT,
        ),
        # Out of a finaliser comes no exception.
        ("ops.py", OPERATORS.format("Holding()"), "ops list ops.py", signal.SIGINT),
    ],
    ids=["trace", "evaluate", "in exec", "ops test", "swallowed", "in a finaliser"],
)
def test_an_interruption_is_one_sentence(
    tmp_path: Path, name: str, source: str, arguments: str, number: signal.Signals
) -> None:
    (tmp_path / name).write_text(source)
    process = start(tmp_path, *arguments.split(), "--json")
    reach(process, tmp_path / "reached")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "narfx: interrupted\n")
    assert json.loads(stdout)["error"] == {
        "code": 130,
        "kind": "interrupted",
        "message": "interrupted",
        "where": None,
    }


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_interruption_of_the_imports_is_one_sentence(tmp_path: Path, options: tuple[str, ...]) -> None:
    process = start(tmp_path, "trace", "net.py", *options, options=("-X", "importtime"))
    assert process.stderr is not None
    assert any("torch." in line for line in process.stderr)  # Python writes a line for each import that has ended
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    told = [line for line in stderr.splitlines() if not line.startswith("import time:")]
    assert told == ["narfx: interrupted"]
    assert json.loads(stdout)["error"]["kind"] == "interrupted" if options else stdout == ""


def test_another_program_keeps_its_own_interruptions(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import signal, sys\nimport narfx\nassert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, preexec_fn=heed_interrupts)
    assert done.returncode == 0, done.stderr
