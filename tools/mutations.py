"""Damage every kind of file that narfx reads, thousands of times, and check how narfx answers.

A damaged file must be refused with a narfx error, used with a warning, or read with the result of the undamaged file.
Files of other programs (images, arrays, weights, an ONNX file without its bundle) have no digest, so a damaged one may
be read as another (``other``); so may a JSON file that people edit, if its digest is gone. For narfx's own files that
is a fault. Any other exception, a crash and a hang are faults too.

    OMP_NUM_THREADS=1 python tools/mutations.py --mutations 10000 --seed 0 --out build/mutations
    OMP_NUM_THREADS=1 python tools/mutations.py --mutations 180 --kinds arch.json,checkpoint.pt --json

Flipped bits, cut, doubled and zeroed pieces; in JSON also other types, extreme numbers, missing, doubled and renamed
keys. A stopped hunt continues: each mutation is a line of OUT/mutations.jsonl. Workers are forks, so that a crash is
recorded and does not end the tool. The exit code is 1 if there was a fault.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from damage import mutated
from drills import Record, drill_parser, finish
from file_kinds import Kind, kinds, make_home
from rich import box
from rich.console import Console
from rich.table import Table
from run_kinds import make_runs, run_kinds
from torch.utils import _pytree as pytree

from narfx.cli.system_errors import exhausted, of_system
from narfx.errors import NarfxError
from narfx.support.seals import SEAL, EditedFileWarning

CHUNK, LIMIT_S, MEMORY = 25, 60, 16 * 1024**3
DONE = ".whole"


def all_kinds(home: Path) -> dict[str, Kind]:
    """All kinds, with the whole files in ``home``."""
    return kinds(home) | run_kinds()


@contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"no end after {LIMIT_S} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)


def outcome(kind: Kind, path: Path, right: Any) -> str:
    """``refused``, ``said``, ``same`` or ``other``; or what was wrong, beginning with ``fault``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with _in_time():
                found = kind.read(path)
                same = _equal(found, right[: len(found)] if kind.grows else right)
        except NarfxError as error:
            return "refused" if error.kind != "internal" else f"fault: internal error: {error}"
        except Exception as error:
            if exhausted(error) or (not isinstance(error, TimeoutError) and of_system(error)):
                return "refused"
            return f"fault: {type(error).__name__}: {str(error)[:300]}"
    if any(issubclass(entry.category, EditedFileWarning) for entry in caught):
        return "said"
    if same:
        return "same"
    by_hand = kind.editable and SEAL.encode() not in path.read_bytes()
    return "other" if by_hand or not kind.guarded else "fault: another result without a word"


def _equal(a: Any, b: Any) -> bool:
    (one, shape), (two, other) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    return shape == other and all(map(_same, one, two))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
    return type(a) is type(b) and bool(a == b)


class Hunt:
    """The folder of a hunt: whole files in ``home``, the record, and the files with which a fault was found."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed, self.home = out.resolve(), seed, out.resolve() / "home"
        self.record = Record(self.out / "mutations.jsonl", seed)

    def done(self) -> list[dict[str, Any]]:
        """The mutations of this seed that are on record."""
        return self.record.entries()

    def go(self, wanted: Mapping[str, int], say: Callable[[str], None]) -> None:
        """Make so many mutations of each kind, in forks of at most ``CHUNK``."""
        for kind in all_kinds(self.home).values():
            known = {entry["number"] for entry in self.done() if entry["kind"] == kind.name}
            left = [number for number in range(wanted.get(kind.name, 0)) if number not in known]
            while left:
                here, left = left[:CHUNK], left[CHUNK:]
                crashed = self._forked(kind, here)
                if crashed is not None:
                    number, status = crashed
                    self._write(kind, number, f"fault: the process ended by signal or exit {status}")
                    left = [*(other for other in here if other > number), *left]
            say(f"{kind.name}: {wanted.get(kind.name, 0)}")

    def _forked(self, kind: Kind, numbers: Sequence[int]) -> tuple[int, int] | None:
        """Run these mutations in a fork; the number at which it died, if it did."""
        child = os.fork()
        if child == 0:
            code = 70
            try:
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
                silent = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silent, 1)
                os.dup2(silent, 2)
                self._mutate(kind, numbers)
                code = 0
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        done = {entry["number"] for entry in self.done() if entry["kind"] == kind.name}
        missing = [number for number in numbers if number not in done]
        return (missing[0], status) if missing else None

    def _mutate(self, kind: Kind, numbers: Sequence[int]) -> None:
        work = self.out / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self.home, work)
        path = work / kind.path
        whole = path.read_bytes()
        right = kind.read(path)
        as_json = path.suffix in (".json", ".jsonl")
        for number in numbers:
            draw = random.Random(f"{self.seed} {kind.name} {number}")
            content = mutated(whole, draw, as_json=as_json)
            for name in ("checkpoint.pt", "events.jsonl"):  # resuming a run changes these
                shutil.copy(self.home / "run" / name, work / "run" / name)
            path.write_bytes(content)
            found = outcome(kind, path, right)
            if found.startswith("fault"):
                (self.out / "faults").mkdir(exist_ok=True)
                (
                    self.out / "faults" / f"{kind.name.replace(' ', '_').replace('/', '_')}-{self.seed}-{number}"
                ).write_bytes(content)
            self._write(kind, number, found)

    def _write(self, kind: Kind, number: int, found: str) -> None:
        self.record.add({"kind": kind.name, "number": number, "outcome": found})


def share(total: int, found: Mapping[str, Kind]) -> dict[str, int]:
    """How many mutations each kind gets of so many: by weight, at least one."""
    weights = sum(kind.weight for kind in found.values())
    return {name: max(1, round(total * kind.weight / weights)) for name, kind in found.items()}


def summary(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts by kind and outcome, and the faults."""
    rows: dict[str, Counter[str]] = {}
    for entry in entries:
        rows.setdefault(entry["kind"], Counter())[entry["outcome"].partition(":")[0]] += 1
    return {
        "mutations": len(entries),
        "rows": [{"kind": kind, **counts} for kind, counts in rows.items()],
        "faults": [entry for entry in entries if entry["outcome"].startswith("fault")],
    }


def show(found: Mapping[str, Any], console: Console) -> None:
    """The summary as a table."""
    columns = ("refused", "said", "same", "other", "fault")
    table = Table("file", *columns, box=box.SIMPLE)
    for row in found["rows"]:
        table.add_row(row["kind"], *(str(row.get(column, 0)) for column in columns))
    console.print(table)
    for fault in found["faults"]:
        console.print(f"{fault['kind']} {fault['number']}: {fault['outcome']}", markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Damage files; 0 where there is no fault."""
    parser = drill_parser(str(__doc__), "mutations")
    parser.add_argument("--mutations", type=int, default=10_000, help="Mutations in all [10000].")
    parser.add_argument("--kinds", default=None, help="Only these kinds, joined by commas, such as arch.json,report:*.")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    hunt = Hunt(options.out, options.seed)
    if not (hunt.home / DONE).exists():
        make_home(hunt.home)
        make_runs(hunt.home)
        (hunt.home / DONE).touch()
    known = all_kinds(hunt.home)
    wanted = ["*"] if options.kinds is None else options.kinds.split(",")
    chosen = {name: kind for name, kind in known.items() if any(fnmatchcase(name, each) for each in wanted)}
    hunt.go(share(options.mutations, chosen), lambda text: print(text, file=sys.stderr, flush=True))
    return finish(summary(hunt.done()), show, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
