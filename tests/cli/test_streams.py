"""Exit codes where the caller or the machine is unkind: never a traceback, never a wrong code.

What a stream, a signal, memory or the environment decides is tested as a process, the rest in this one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Run, in_process

NET = """
from torch import nn

INPUT_SHAPE = (3, 16, 16)


def model():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


@pytest.fixture
def narfx(here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process, in the folder ``here``, with a look at what it says."""
    monkeypatch.chdir(here)
    run = in_process(capfd)

    def checked(*arguments: str) -> tuple[int, str, str]:
        code, out, err = run(*arguments)
        for word in ("Traceback", "internal error", "Exception ignored"):
            assert word not in err, err
        return code, out, err

    return checked


def shell(command: str, here: Path, **environment: str) -> tuple[int, str, str]:
    """A command line of bash in which NARFX is the program; its exit code, output and errors."""
    program = f"{sys.executable} -m narfx"
    done = subprocess.run(
        ["bash", "-c", command.replace("NARFX", program)], cwd=here, capture_output=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    stderr = done.stderr.decode(errors="replace")
    for word in ("Traceback", "internal error", "Exception ignored"):
        assert word not in stderr, stderr
    return done.returncode, done.stdout.decode(errors="replace"), stderr


@pytest.mark.parametrize("options", ["", "--json"])
def test_a_reader_that_goes_is_no_error(here: Path, options: str) -> None:
    code, _, stderr = shell(f"NARFX trace net.py {options} | true; exit ${{PIPESTATUS[0]}}", here)
    assert (code, stderr) == (0, "")


@pytest.mark.parametrize("options", ["", "--json"])
@pytest.mark.parametrize(("to", "reason"), [(">/dev/full", "No space left"), (">&-", "closed")])
def test_a_result_that_cannot_be_written_is_said(here: Path, options: str, to: str, reason: str) -> None:
    code, _, stderr = shell(f"NARFX trace net.py {options} {to}", here)
    assert code == 7 and reason in stderr and stderr.count("\n") == 1, stderr


@pytest.mark.parametrize("to", ["2>/dev/full", "2>&-", "2> >(true)"])
def test_a_log_that_cannot_be_written_ends_no_run(here: Path, to: str) -> None:
    run = "NARFX train net.py --data digits --epochs 1 --data-fraction 0.1 --json --out out"
    code, stdout, _ = shell(f"{run} {to}", here)
    assert code == 0, stdout
    assert json.loads(stdout)["epochs"] == 1


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_a_terminal_that_closes_and_a_scheduler_interrupt_with_a_checkpoint(here: Path, name: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "narfx", "train", "net.py", "--data", "digits", "--epochs", "100000", "--out", "out"],
        cwd=here, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(getattr(signal, name), signal.SIG_DFL),  # tests may run under nohup
    )  # fmt: skip
    end = time.monotonic() + 120
    while not (here / "out" / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    try:
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, stderr
    assert stderr.strip().splitlines()[-1].startswith("narfx: interrupted; the run in out resumes with --resume")


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a process has made the bundle ``out``, with ``home`` as the user's home."""
    here = tmp_path_factory.mktemp("applied")
    (here / "net.py").write_text(NET)
    (here / "home").mkdir()
    home = {"HOME": str(here / "home"), "XDG_CACHE_HOME": str(here / "home" / "cache")}
    assert shell("NARFX apply arch.json --out out", _with_arch(here), **home)[0] == 0
    return here


def test_nothing_is_written_below_the_home(applied: Path) -> None:
    files = (applied / "home").rglob("*")
    assert not [path for path in files if "icrosoft" in str(path) or "onnxruntime" in str(path)]


def test_too_many_open_files_are_no_wrong_network(applied: Path) -> None:
    (applied / "few.py").write_text(
        "import resource\nimport narfx.bundle.bundle as bundle\nfrom narfx.cli.app import main\n"
        "real = bundle.Proof.add\n"
        "def add(self, *arguments, **options):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n    return real(self, *arguments, **options)\n"
        "bundle.Proof.add = add\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "few.py", "check", "out"], cwd=applied, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, "too many open files" in done.stderr) == (7, True), done.stderr


def _with_arch(here: Path) -> Path:
    (here / "arch.json").write_text(json.dumps({"model": "net.py", "vector": [1]}))
    return here


def test_a_package_that_is_missing_is_named(narfx: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as where it is not installed
    code, stdout, _ = narfx("apply", str(_with_arch(here) / "arch.json"), "--out", "out", "--json")
    error = json.loads(stdout)["error"]
    assert (code, error["kind"]) == (2, "missing_package")
    assert "pip install onnxruntime" in error["message"]


@pytest.mark.parametrize(
    "command",
    [
        "trace {long}.py", "trace net.py --weights {long}.pt", "apply {long}.json --out out", "check {long}",
        "train net.py --data digits --out {long}", "evaluate {long} --data digits", "evaluate net.py --data {long}",
        "search net.py --config {long}.json --out out",
    ],
)  # fmt: skip
def test_a_name_of_300_letters_is_a_wrong_argument(narfx: Run, command: str) -> None:
    code, _, stderr = narfx(*command.format(long="x" * 300).split())
    assert code == 2, stderr


@pytest.mark.parametrize("number", [10**18, 10**30])
def test_a_batch_of_any_size_is_taken_or_refused(narfx: Run, number: int) -> None:
    train = "train net.py --data digits --epochs 1 --data-fraction 0.1 --out out"
    for command in ("evaluate net.py --data digits", train):
        code, _, stderr = narfx(*command.split(), "--batch-size", str(number))
        assert code in (0, 2), stderr
    code, _, stderr = narfx("trace", "net.py", "--latency", "--batch", str(number))
    assert code == 2, stderr


def test_a_working_folder_that_was_removed_is_said(here: Path) -> None:
    code, _, stderr = shell("mkdir gone && cd gone && rmdir ../gone && NARFX trace narfx:resnet20", here)
    assert code == 2 and "working folder was removed" in stderr, stderr


@pytest.mark.parametrize("megabytes", [300, 1400, 1500])
def test_little_memory_is_said(here: Path, megabytes: int) -> None:
    code, stdout, stderr = shell(
        f"ulimit -v {megabytes * 1024}; NARFX evaluate narfx:lresnet50e_ir --data digits --batch-size 4096", here
    )
    assert code == 7 and "memory" in stderr, (code, stdout, stderr)


def test_a_locale_without_utf8_prints_what_it_can(here: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    (here / "nét.py").write_text(NET)
    for command in ("trace nét.py", "trace nichtsö.py"):
        code, _, stderr = shell(f"NARFX {command}", here, **plain)
        assert code == (2 if "nichts" in command else 0), stderr


def test_a_checkpoint_is_promised_only_where_there_is_one(narfx: Run) -> None:
    run = "train net.py --data digits --batch-size 16 --epochs 3 --lr 1e30 --out out"
    code, _, stderr = narfx(*run.split())
    assert (code, "there is no checkpoint yet" in stderr, "is kept" in stderr) == (7, True, False), stderr


def test_data_of_one_class_are_warned_of(narfx: Run, here: Path) -> None:
    np.savez(here / "one.npz", x_train=np.zeros((40, 16, 16, 3), np.uint8), y_train=np.zeros(40, np.int64),
             x_test=np.zeros((8, 16, 16, 3), np.uint8), y_test=np.zeros(8, np.int64))  # fmt: skip
    for command in ("train net.py --epochs 1 --batch-size 8 --out out", "evaluate net.py"):
        code, _, stderr = narfx(*command.split(), "--data", "one.npz")
        assert code == 0 and "all images have the same label" in stderr, stderr


def test_control_characters_and_long_messages_do_not_reach_the_terminal(narfx: Run, here: Path) -> None:
    evil = "\x1b[2J\x9b31m\r\nnarfx: all is well\u202e"
    for fields in ({"model": evil, "vector": [1]}, {"model": "net.py", "vector": [1], evil: 1}):
        (here / "arch.json").write_text(json.dumps(fields))
        _, _, stderr = narfx("apply", "arch.json", "--out", "out")
        assert stderr.count("\n") == 1 and not set("\x1b\x9b\r\u202e") & set(stderr), ascii(stderr)
    (here / "arch.json").write_text(json.dumps({"model": "x" * 10**8, "vector": [1]}))
    _, stdout, stderr = narfx("apply", "arch.json", "--out", "out", "--json")
    assert len(stderr) < 5000 and len(stdout) < 8000
    folder = here / "data" / "train"
    for name in ("a\x1b[31m", "b"):
        (folder / name).mkdir(parents=True)
    _, _, stderr = narfx("evaluate", "net.py", "--data", "data")
    assert "\x1b" not in stderr and "\\x1b" in stderr


@pytest.mark.parametrize(
    "command",
    ["apply pipe.json --out out", "trace net.py --weights pipe.pt", "evaluate net.py --data data",
     "search --config pipe.json --out out", "evaluate /dev/zero.json --data digits", "trace pipe.py",
     "evaluate net.py --data pipe.npz", "evaluate net.py --data pipe.bin", "evaluate net.py --data . --pairs pipe.txt",
     "check bundle"],
)  # fmt: skip
def test_a_pipe_is_refused_and_never_waited_for(narfx: Run, here: Path, command: str) -> None:
    for name in ("pipe.json", "pipe.pt", "pipe.py", "pipe.npz", "pipe.bin", "pipe.txt", "data/train/a/1.png",
                 "data/train/b/1.png", "bundle/arch.json"):  # fmt: skip
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(here / name)

    def waited(*_: object) -> None:
        raise AssertionError("it waited for the pipe")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(60)
    try:
        code, _, stderr = narfx(*command.split())
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert code == 2, stderr


def _endless(path: Path) -> None:
    """An ONNX file whose loop never ends."""
    import onnx
    from onnx import TensorProto, helper

    def value(name: str, kind: int = TensorProto.FLOAT, shape: list[Any] | None = None) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    nodes = [helper.make_node("Constant", [], ["on"], value=true), helper.make_node("Identity", ["v"], ["w"])]
    inputs = [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v")]
    body = helper.make_graph(nodes, "body", inputs, [value("on", TensorProto.BOOL, []), value("w")])
    loop = helper.make_node("Loop", ["", "true", "input"], ["out"], body=body)
    graph = helper.make_graph([loop], "g", [value("input", shape=["n", 3, 16, 16])], [value("out")], [true])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


@pytest.mark.parametrize("target", ["loop.onnx", "loop.py"])
def test_a_model_that_never_ends_is_interrupted(here: Path, target: str) -> None:
    _endless(here / "loop.onnx")
    loop = "def model():\n    open('reached', 'w').close()\n    while True:\n        pass"
    (here / "loop.py").write_text(NET.replace("def model():", loop))
    process = subprocess.Popen(
        [sys.executable, "-m", "narfx", "evaluate", target, "--data", "digits", "-v"], cwd=here, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    end, since = time.monotonic() + 90, None
    while time.monotonic() < end and process.poll() is None:
        used = _processor_seconds(process.pid)
        if since is None and ((here / "reached").exists() or _maps_onnxruntime(process.pid)):
            since = used
        if since is not None and used > since + 3:  # it is in the loop
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert since is not None
    assert (process.returncode, stderr) == (130, "narfx: interrupted\n")


def _tree(pid: int) -> list[int]:
    """A process and the children that it waits for."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in _tree(int(child)))]


def _processor_seconds(pid: int) -> float:
    fields = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in _tree(pid)]
    return sum(int(own[11]) + int(own[12]) for own in fields) / os.sysconf("SC_CLK_TCK")


def _maps_onnxruntime(pid: int) -> bool:
    return any("onnxruntime" in Path(f"/proc/{each}/maps").read_text() for each in _tree(pid))
