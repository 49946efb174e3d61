"""Damage every kind of file that narfx reads, thousands of times, and look at what comes of it.

A damaged file is refused with an error of narfx's, said to be changed, or read with the result of the whole file. What
is a user's own (images, arrays, weights of other programs, an ONNX file alone) has no digest, so a damaged one may be
read as another (``other``), and so may a JSON file that people edit, once its digest is gone. Of narfx's own files that
is a fault, and so is any foreign exception, a crash and a hang.

    OMP_NUM_THREADS=1 python tools/mutations.py --mutations 10000 --seed 0 --out build/mutations
    OMP_NUM_THREADS=1 python tools/mutations.py --mutations 180 --kinds arch.json,checkpoint.pt --json

Flipped bits, cut, doubled and zeroed pieces; in JSON also other types, extreme numbers, missing, doubled and renamed
keys. It goes on where it was stopped: each mutation is a line of OUT/mutations.jsonl. Workers are forks, so that a
crash is a finding and no end. Exit code 1 where there is a fault.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tarfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from torch.utils import _pytree as pytree

from narfx.analysis.steps import read_steps
from narfx.bundle import bundle
from narfx.cli.system_errors import exhausted, of_system
from narfx.compiler.open import NetworkOptions, open_architecture, open_base
from narfx.data.image_data import batches, load_data
from narfx.data.pairs import read_pairs
from narfx.errors import NarfxError
from narfx.inputs.model_ref import load_model
from narfx.inputs.weights import apply_weights, write_weights
from narfx.latency.metric import LatencyOptions, open_latency
from narfx.runs.folder import RunFolder
from narfx.search import SearchConfig, resume, run
from narfx.space.architecture import Architecture
from narfx.space.scores import ScoreTable
from narfx.support.seals import SEAL, EditedFileWarning, read_sealed
from narfx.verbs.target import open_onnx

SHAPE = (1, 8, 8)
CONFIG: dict[str, Any] = {
    "model": "net.py", "input": SHAPE, "data": "images.npz", "batch_size": 16, "init": "scratch", "epochs": 3,
    "pretrain_epochs": 1, "steps": 2, "finalists": 2, "augment": "none", "budget": "none",
}  # fmt: skip
NET = """from torch import nn


def model():
    body = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""
CHUNK, LIMIT_S, MEMORY = 25, 60, 16 * 1024**3
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**63, 10**30, -0.5, 1e308, 5e-324, "", "x", "x" * 10_000, "\x1b[2J", "../..",
    "narfx:resnet8", [], [0], [[]], {}, {"a": 1},
)  # fmt: skip
Read = Callable[[Path], Any]


@dataclass(frozen=True)
class Kind:
    """A kind of file: its place in the folder, what reads it, and whether a digest of narfx's guards it.

    One that ``grows`` is right where it ends early: a run may still be working on it. One that is ``editable`` is taken
    for a file written by hand where it has no digest.
    """

    name: str
    path: str
    read: Read
    guarded: bool = True
    weight: int = 10
    grows: bool = False
    editable: bool = False


def kinds(home: Path) -> dict[str, Kind]:
    """All kinds, with the whole files in ``home``."""
    traced = open_base(NetworkOptions(model="net.py", input=SHAPE), relative_to=home)

    def latency(path: Path) -> Any:
        timed, _ = open_latency(traced, LatencyOptions(latency_file=str(path)), measured=True)
        return [slot.costs for slot in timed.space.slots]

    def weights(path: Path) -> Any:
        model = load_model(str(home / "net.py"), seed=0)
        apply_weights(model, path)
        return model.state_dict()

    def scores(path: Path) -> Any:
        table = ScoreTable.load(path)
        table.check(traced.space)
        return table.model_dump()

    def resumed(path: Path) -> Any:
        result = resume(path.parent)
        return {key: value for key, value in result.items() if key not in ("out", "files")}

    found = [
        Kind("arch.json", "run/arch.json", _architecture, editable=True),
        Kind("config.json", "run/config.json", resumed, weight=4),
        Kind("origin.json", "run/origin.json", resumed, weight=4),
        Kind("checkpoint.pt", "run/checkpoint.pt", lambda path: RunFolder.open(path.parent).load()),
        Kind("events.jsonl", "run/events.jsonl", lambda path: read_steps(path.parent)[1], grows=True),
        Kind("events.jsonl on resuming", "run/events.jsonl", lambda path: RunFolder.open(path.parent).load()),
        Kind("evaluations.json", "run/evaluations.json", lambda path: read_sealed(path, "delete it")),
        Kind("weights.safetensors", "weights.safetensors", weights),
        Kind("latency.json", "latency.json", latency, editable=True),
        Kind("scores.json", "scores.json", scores, editable=True),
        *(
            Kind(f"bundle: {name}", f"bundle/{name}", lambda path: _proven(path.parent), weight=1)
            for name in ("arch.json", "report.json", "model.safetensors", "model.onnx")
        ),
        Kind("weights.pt", "weights.pt", weights, guarded=False),
        Kind("model.onnx alone", "bundle/model.onnx", _run_onnx, guarded=False, weight=3),
        Kind("images.npz", "images.npz", lambda path: _first_batch(path), guarded=False),
        Kind("images.tar", "images.tar", lambda path: _first_batch(path), guarded=False, weight=5),
        *(
            Kind(f"image.{suffix}", f"images/a/0.{suffix}", lambda path: _first_batch(path.parents[1]), False, 5)
            for suffix in ("png", "jpg", "webp", "tif", "bmp", "ppm")
        ),
        Kind("pairs.bin", "pairs.bin", _pairs, guarded=False),
    ]
    return {kind.name: kind for kind in found}


def _architecture(path: Path) -> Any:
    architecture = Architecture.load(path)
    network = open_architecture(architecture, relative_to=path.parent).network
    return architecture.model_dump(), network.state_dict()


def _proven(folder: Path) -> Any:
    report = bundle.check(folder)
    return {key: value for key, value in report.items() if key not in ("parity", "folder")}


def _run_onnx(path: Path) -> Any:
    return open_onnx(path)(torch.zeros(2, *SHAPE))


def _first_batch(path: Path) -> Any:
    data = load_data(str(path), SHAPE)
    return data.mean, data.std, next(iter(batches(data.train, 64, data=data)))


def _pairs(path: Path) -> Any:
    pairs = read_pairs(str(path))
    return pairs.images.read(pairs.first, SHAPE), torch.from_numpy(pairs.same)


def make_home(home: Path) -> None:
    """Write one whole file of each kind."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    (home / "net.py").write_text(NET)
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (24, 8, 8), np.uint8), np.arange(24) % 3
    np.savez(home / "images.npz", x_train=images, y_train=labels)
    run(SearchConfig.model_validate(CONFIG), home / "run", relative_to=home)
    bundle.apply(home / "run" / "arch.json", home / "bundle")
    model = load_model(str(home / "net.py"), seed=1)
    torch.save(model.state_dict(), home / "weights.pt")
    write_weights(model, home / "weights.safetensors")
    traced = open_base(NetworkOptions(model="net.py", input=SHAPE), relative_to=home)
    open_latency(traced, LatencyOptions(latency_file=str(home / "latency.json")))
    choices = {(index, k): 0.5 * k for index, slot in enumerate(traced.space.slots) for k in slot.legal}
    ScoreTable.of(traced.space, choices, measured="nothing", images=24).save(home / "scores.json")
    suffixes = ("png", "jpg", "webp", "tif", "bmp", "ppm")
    for index, image in enumerate(images[:12]):
        path = home / "images" / "ab"[index % 2] / f"{index // 2}.{suffixes[index // 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    for suffix in suffixes:
        Image.fromarray(images[0]).save(home / "images" / "a" / f"0.{suffix}")
    with tarfile.open(home / "images.tar", "w") as archive:
        for path in sorted((home / "images").rglob("*.*")):
            archive.add(path, str(path.relative_to(home / "images")))
    encoded = [_encoded(image) for image in images[:8]]
    (home / "pairs.bin").write_bytes(pickle.dumps((encoded, [True, False, True, False])))


def _encoded(image: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def mutated(content: bytes, draw: random.Random, *, as_json: bool) -> bytes:
    """The content after one to three mutations."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        if as_json and draw.random() < 0.6:
            content = _other_json(content, draw)
        elif content:
            content = draw.choice((_flipped, _flipped, _cut, _without, _doubled, _zeroed))(content, draw)
    return content


def _flipped(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 8))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def _span(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randrange(len(content))
    return start, min(len(content), start + draw.choice((1, 4, 32, 512)))


def _without(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + content[end:]


def _doubled(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:end] + content[start:]


def _zeroed(content: bytes, draw: random.Random) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + bytes(end - start) + content[end:]


def _other_json(content: bytes, draw: random.Random) -> bytes:
    """The JSON, or one line of it, with one value, key or entry changed; what is no JSON any more stays."""
    lines = content.splitlines(keepends=True) if content.count(b"\n{") else [content]
    chosen = draw.randrange(max(len(lines), 1))
    try:
        value = json.loads(lines[chosen])
        places = list(_places(value))
        holder, key = draw.choice(places)
    except (ValueError, IndexError, RecursionError):
        return content
    action = draw.randrange(4)
    if action == 0 and isinstance(holder, dict):
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder[draw.choice(("x", f"{key}s", ""))] = holder.pop(key)
    elif action == 1:
        holder.insert(key, holder[key])
    else:
        holder[key] = draw.choice(VALUES)
    lines[chosen] = json.dumps(value).encode() + b"\n"
    return b"".join(lines)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(entries):
        yield value, key
        yield from _places(inner)


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
        self.record = self.out / "mutations.jsonl"
        self.out.mkdir(parents=True, exist_ok=True)

    def done(self) -> list[dict[str, Any]]:
        """The mutations of this seed that are on record."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["seed"] == self.seed]

    def go(self, wanted: Mapping[str, int], say: Callable[[str], None]) -> None:
        """Make so many mutations of each kind, in forks of at most ``CHUNK``."""
        for kind in kinds(self.home).values():
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
                (self.out / "faults" / f"{kind.name.replace(' ', '_')}-{self.seed}-{number}").write_bytes(content)
            self._write(kind, number, found)

    def _write(self, kind: Kind, number: int, found: str) -> None:
        with self.record.open("a") as stream:
            entry = {"kind": kind.name, "number": number, "outcome": found, "seed": self.seed}
            stream.write(json.dumps(entry) + "\n")


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
    """Hunt; 0 where there is no fault."""
    parser = argparse.ArgumentParser(description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=10_000, help="How many, over all kinds [10000].")
    parser.add_argument("--seed", type=int, default=0, help="Decides the mutations [0].")
    parser.add_argument("--kinds", help="Only these kinds, joined by commas.")
    parser.add_argument("--out", type=Path, default=Path("build/mutations"), help="A folder [build/mutations].")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    hunt = Hunt(options.out, options.seed)
    if not (hunt.home / "pairs.bin").exists():
        make_home(hunt.home)
    known = kinds(hunt.home)
    chosen = known if options.kinds is None else {name: known[name] for name in options.kinds.split(",")}
    hunt.go(share(options.mutations, chosen), lambda text: print(text, file=sys.stderr, flush=True))
    found = summary(hunt.done())
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found, Console())
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
