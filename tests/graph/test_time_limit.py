"""A model that never ends: every step with it has a limit, and the command ends in one sentence with exit code 2."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from command import RunJson, in_process_json

import narfx
from narfx.errors import UsageError
from narfx.graph.time_limit import model_time
from narfx.inputs.model_ref import load_model

narfx_json = pytest.fixture(in_process_json)

NET = """
from torch import nn

INPUT_SHAPE = (1, 8, 8)
{top}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 10)
        {built}

    def forward(self, x):
        {run}
        return self.out(self.b(self.a(x)).mean((2, 3)))
"""
LOOP = "while True: pass"
CATCHING = """
        while True:
            try:
                sum(range(1000))
            except Exception:
                pass
"""
DEAF = CATCHING.replace("except Exception", "except BaseException").replace("while True", "for _ in range(200_000)")
DELETED = """
class Slow:
    def __del__(self):
        while True: pass
Slow()
while True: pass
"""  # Python prints what a __del__ raises, and goes on
PARTS = {"top": "", "built": "pass", "run": "pass"}
EVALUATE = ["evaluate", "net.py", "--data", "digits"]
TRAIN = ["train", "net.py:Net", "--data", "digits", "--out", "out"]
CASES = [
    (EVALUATE, {"top": LOOP}, 5),
    (EVALUATE, {"top": DELETED}, 8),
    (EVALUATE, {"built": LOOP}, 12),
    (EVALUATE, {"run": LOOP}, 15),
    (EVALUATE, {"run": CATCHING}, None),
    (["trace", "net.py"], {"run": LOOP}, 15),
    (TRAIN, {"built": LOOP}, 12),
    (TRAIN, {"run": LOOP}, 15),
    (["search", "net.py", "--data", "digits", "--out", "out"], {"run": LOOP}, 15),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NARFX_MODEL_SECONDS", "0.5")
    return tmp_path


def write(place: Path, **parts: str) -> None:
    (place / "net.py").write_text(NET.format(**PARTS | parts))


def quiet() -> bool:
    """Whether no alarm is set any more."""
    unset = signal.getitimer(signal.ITIMER_REAL) == (0, 0) == signal.getitimer(signal.ITIMER_VIRTUAL)
    return unset and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


@pytest.mark.parametrize(("verb", "parts", "line"), CASES)
def test_a_loop_without_end(
    narfx_json: RunJson, place: Path, verb: list[str], parts: dict[str, str], line: int | None
) -> None:
    write(place, **parts)
    code, found, stderr = narfx_json(*verb, "--quiet")
    assert (code, found["error"]["code"], found["error"]["kind"]) == (2, 2, "model_time")
    assert stderr.count("\n") == 1 and "the model did not end within 0.5 s" in stderr
    assert found["error"]["where"].startswith(f"{place}/net.py:{'' if line is None else line}")
    assert "NARFX_MODEL_SECONDS" in found["error"]["message"]
    assert not (place / "out").exists() and quiet()


def test_a_bundle_whose_model_never_ends(narfx_json: RunJson, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place)
    (place / "arch.json").write_text('{"model": "net.py", "vector": [0], "input": [1, 8, 8]}')
    monkeypatch.setenv("NARFX_MODEL_SECONDS", "0")
    narfx.apply(place / "arch.json", place / "bundle")
    monkeypatch.setenv("NARFX_MODEL_SECONDS", "0.5")
    source = place / "bundle/model.py"
    whole = source.read_text()
    for where in ("def __init__(self):", "def forward(self, x):"):
        head, mark, tail = whole.partition(where)
        assert mark
        source.write_text(f"{head}{mark}\n        while True: pass\n{tail}")
        for verb in (["check", "bundle"], ["evaluate", "bundle", "--data", "digits"]):
            code, found, _ = narfx_json(*verb, "--quiet", "--trust" if verb[0] == "evaluate" else "--quiet")
            assert (code, found["error"]["kind"]) == (2, "model_time")


def test_code_that_catches_everything_is_interrupted_again(place: Path) -> None:
    write(place, built=DEAF)
    begin = time.monotonic()
    load_model("net.py")  # each alarm ends one turn only; the loop itself has an end
    assert time.monotonic() - begin > 0.5 and quiet()


def test_without_a_limit_the_model_ends_by_itself(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place, built="import time; time.sleep(0.7)")
    with pytest.raises(UsageError, match=r"0\.5 s"):
        load_model("net.py")
    monkeypatch.setenv("NARFX_MODEL_SECONDS", "0")
    assert load_model("net.py") is not None
    for wrong in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv("NARFX_MODEL_SECONDS", wrong)
        with pytest.raises(UsageError, match="must be a number of seconds") as caught:
            load_model("net.py")
        assert caught.value.where == "NARFX_MODEL_SECONDS"


def test_the_alarm_of_a_program_is_left_alone(place: Path) -> None:
    rings: list[int] = []
    previous = signal.signal(signal.SIGALRM, lambda number, _: rings.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.6)
        with model_time():
            time.sleep(0.8)
        assert rings == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_other_threads_and_inner_blocks(place: Path) -> None:
    ended: list[bool] = []

    def wait() -> None:
        with model_time():
            time.sleep(0.7)
        ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert ended == [True]
    with pytest.raises(UsageError), model_time():  # the inner blocks do not begin the time anew
        for _ in range(4):
            with model_time():
                time.sleep(0.3)
    assert quiet()


@pytest.mark.parametrize("error", [ValueError("own"), KeyboardInterrupt()])
def test_other_errors_pass(place: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, model_time():
        raise error
    assert caught.value is error and quiet()
