"""The kinds of files that narfx reads: one whole file of each, and what reads it."""

from __future__ import annotations

import io
import pickle
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from narfx.analysis.steps import read_steps
from narfx.bundle import bundle
from narfx.compiler.open import NetworkOptions, open_architecture, open_base
from narfx.data.image_data import batches, load_data
from narfx.data.pairs import read_pairs
from narfx.inputs.model_ref import load_model
from narfx.inputs.weights import apply_weights, write_weights
from narfx.latency.metric import LatencyOptions, open_latency
from narfx.runs.folder import RunFolder
from narfx.search import SearchConfig, resume, run
from narfx.space.architecture import Architecture
from narfx.space.scores import ScoreTable
from narfx.support.seals import read_sealed
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
