"""Kill search, train, compare and apply at random moments, resume them, and compare with undisturbed runs.

Each kill is a SIGKILL while the process works. A run is then resumed (every third one is killed again); ``apply`` is
repeated. The final folder must equal, byte for byte, that of an undisturbed command, and no other file may be left.
``seconds`` in events and checkpoints are not compared.

    OMP_NUM_THREADS=1 python tools/kill_drill.py --kills 100 --seed 0 --out build/kill_drill
    OMP_NUM_THREADS=1 python tools/kill_drill.py --kills 8 --json

A stopped drill continues: each kill is a line of OUT/kills.jsonl. Folders with a fault stay in OUT. Commands run in
forks of this process, so that a kill hits the work and not the imports. The exit code is 1 if there was a fault.
"""

from __future__ import annotations

import importlib
import io
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from drills import Record, drill_parser, finish
from rich import box
from rich.console import Console
from rich.table import Table
from torch.utils import _pytree as pytree

from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.runs.checkpoints import CHECKPOINT, PREVIOUS
from narfx.runs.events import EVENTS, read_events
from narfx.runs.folder import LOCK
from narfx.support.seals import unsealed_bytes

NET = """from torch import nn


def block(inputs):
    return nn.Sequential(nn.Conv2d(inputs, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())


def model():
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    return nn.Sequential(block(1), block(8), block(8), *head)
"""
DATA = "--data digits --data-fraction 0.1 --batch-size 64 --augment none"
ARCH = "../base/search/arch.json"
VERBS = {
    "search": f"../net.py {DATA} --input 1,8,8 --init scratch --epochs 3 --pretrain-epochs 1 --steps 3 --finalists 3",
    "train": f"{ARCH} {DATA} --epochs 3 --init scratch",
    "compare": f"{ARCH} {DATA} --epochs 2 --t0 2 --seeds 1 --randoms 1",
    "apply": ARCH,
}
IMPORTS = (
    "narfx.search", "narfx.verbs.train", "narfx.verbs.compare", "narfx.bundle.bundle", "onnx", "onnxruntime",
    "onnxscript", "sklearn.datasets", "torch.onnx._internal.exporter._core",
)  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """One kill: its moment and the duration of the work in seconds, the number of kills, and the fault, if any."""

    number: int
    verb: str
    moment: float
    of: float
    killed: int
    fault: str | None

    @property
    def sound(self) -> bool:
        """Whether the result was that of an undisturbed command."""
        return self.fault is None


class Drill:
    """The folder of a drill: ``whole`` has the undisturbed results, ``base`` the architecture that other verbs take."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed = out.resolve(), seed
        self.whole, self.record = self.out / "whole", Record(self.out / "kills.jsonl", seed)

    def done(self) -> list[Kill]:
        """The kills of this seed that are on record."""
        return [Kill(**{k: v for k, v in entry.items() if k != "seed"}) for entry in self.record.entries()]

    def prepare(self) -> dict[str, float]:
        """The undisturbed results, made anew in each process, and the seconds that each took."""
        for folder in (self.whole, self.out / "base"):
            shutil.rmtree(folder, ignore_errors=True)
        self.whole.mkdir()
        (self.out / "net.py").write_text(NET)
        seconds = {}
        for verb in VERBS:
            began = time.monotonic()
            code = _wait(_start(self.whole, verb))
            seconds[verb] = time.monotonic() - began
            if code != 0:
                raise SystemExit(f"the undisturbed {verb} ended in {code}: {(self.whole / 'log').read_text()}")
            if verb == "search":  # all commands run in folders of one depth, so that relative paths are equal
                shutil.copytree(self.whole / verb, self.out / "base" / verb)
        return seconds

    def kill(self, number: int, seconds: Mapping[str, float]) -> Kill:
        """Kill one command, go on, and compare."""
        draw = random.Random(f"{self.seed} {number}")
        verb = list(VERBS)[number % len(VERBS)]
        work = self.out / f"work-{self.seed}-{number}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        moment, killed = draw.uniform(0, seconds[verb]), 0
        while killed == 0:  # one that ends before its moment is not killed: a moment earlier
            shutil.rmtree(work / verb, ignore_errors=True)
            killed += _killed(_start(work, verb), moment)
            moment *= 1 if killed else 0.7
        fault = self._half(work, verb)
        if fault is None and number % 3 == 0:
            killed += _killed(_start(work, verb, again=True), draw.uniform(0, seconds[verb]))
            fault = self._half(work, verb)
        fault = fault or self._fault(work, verb)
        if fault is None:
            shutil.rmtree(work)
        kill = Kill(number, verb, round(moment, 3), round(seconds[verb], 3), killed, fault)
        self.record.add(asdict(kill))
        return kill

    def _half(self, work: Path, verb: str) -> str | None:
        """The fault in what a kill left: a bundle must be whole or absent, a run must be resumable or absent."""
        if verb != "apply":
            there = (work / verb).exists() and any((work / verb).iterdir())
            return "a folder without a run" if there and not (work / verb / "config.json").exists() else None
        return _difference(work / verb, self.whole / verb) if (work / verb).exists() else None

    def _fault(self, work: Path, verb: str) -> str | None:
        """Run the command to its end; the fault in its result."""
        code = _wait(_start(work, verb, again=True))
        if code != 0:
            return f"exit code {code}: {(work / 'log').read_text()[-400:]}"
        beside = sorted(path.name for path in work.iterdir() if path.name not in (verb, "log"))
        if beside:
            return f"left beside it: {', '.join(beside)}"
        return _difference(work / verb, self.whole / verb)


def _start(folder: Path, verb: str, *, again: bool = False) -> int:
    """Start a command in a fork, with its output in a log; ``again`` resumes or repeats the one that was killed."""
    arguments = [verb, *VERBS[verb].split()]
    if again and verb == "apply":
        arguments.append("--overwrite")
    elif again and (folder / verb / "config.json").exists():
        arguments = [verb, "--resume"]
    child = os.fork()
    if child:
        return child
    code = 70
    with suppress(BaseException):
        os.chdir(folder)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = run_app(app, [*arguments, "--out", verb])
    os._exit(code)


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _killed(child: int, after: float) -> bool:
    """Kill a process after so many seconds; whether it still ran."""
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return _wait(child) == -signal.SIGKILL


def _difference(found: Path, right: Path) -> str | None:
    """The first file that differs, if any."""
    names = [sorted(str(path.relative_to(top)) for path in _files(top)) for top in (found, right)]
    if names[0] != names[1]:
        return f"other files: {', '.join(sorted(set(names[0]) ^ set(names[1])))}"
    return next((f"{name} differs" for name in names[0] if not _same(found / name, right / name)), None)


def _files(top: Path) -> Iterator[Path]:
    return (path for path in top.rglob("*") if path.is_file() and path.name != LOCK)


def _same(a: Path, b: Path) -> bool:
    if a.name == EVENTS:
        return _timeless_events(a.parent) == _timeless_events(b.parent)
    if a.name in (CHECKPOINT, PREVIOUS):
        (one, shape), (two, other) = (pytree.tree_flatten(_state(path)) for path in (a, b))
        return shape == other and all(map(_equal, one, two))
    return a.read_bytes() == b.read_bytes()


def _timeless_events(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in event.items() if key != "seconds"} for event in read_events(run)]


def _state(path: Path) -> Any:
    content = unsealed_bytes(path.read_bytes())
    if content is None:
        return "damaged"
    return torch.load(io.BytesIO(content), weights_only=True)["state"]


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def summary(kills: list[Kill]) -> dict[str, Any]:
    """The numbers of a drill, for each verb and in all, and the faults."""
    rows = [
        {
            "verb": verb,
            "kills": sum(kill.killed for kill in own),
            "commands": len(own),
            "sound": sum(kill.sound for kill in own),
        }
        for verb in VERBS
        for own in [[kill for kill in kills if kill.verb == verb]]
    ]
    return {"rows": rows, "faults": [asdict(kill) for kill in kills if not kill.sound]}


def show(found: Mapping[str, Any], console: Console) -> None:
    """The summary as a table."""
    table = Table("verb", "commands killed", "kills", "sound", box=box.SIMPLE)
    for row in found["rows"]:
        table.add_row(row["verb"], *(str(row[key]) for key in ("commands", "kills", "sound")))
    console.print(table)
    for fault in found["faults"]:
        console.print(
            f"kill {fault['number']} of {fault['verb']} at {fault['moment']} s: {fault['fault']}", markup=False
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the drill; 0 where every kill was sound."""
    parser = drill_parser(str(__doc__), "kill_drill")
    parser.add_argument("--kills", type=int, default=100, help="The number of commands that are killed [100].")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in IMPORTS:  # once, and not in every fork
        importlib.import_module(name)
    drill = Drill(options.out, options.seed)
    kills = drill.done()
    known = {kill.number for kill in kills}
    missing = [number for number in range(options.kills) if number not in known]
    seconds = drill.prepare() if missing else {}
    for number in missing:
        kill = drill.kill(number, seconds)
        kills.append(kill)
        print(f"{number + 1}/{options.kills} {kill.verb}: {kill.fault or 'sound'}", file=sys.stderr, flush=True)
    return finish(summary(kills), show, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
