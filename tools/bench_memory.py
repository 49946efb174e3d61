"""What it saves that a command keeps the memory of freed tensors (narfx/support/freed_memory.py): child processes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["KEPT", "QUICK_KEPT", "memory_seconds"]

Command = tuple[str, str, int, tuple[str, ...]]
"""Verb, model, number of random images, and further options."""

LEFT_ALONE = {"MALLOC_ARENA_TEST": "8"}  # glibc's own default; any setting of the user's leaves its allocator alone
KEPT: dict[str, Command] = {
    "train narfx:resnet20, 20 steps of 128": ("train", "narfx:resnet20", 2560, ()),
    "search by darts, 4 steps of 64": (
        "search", "narfx:darts_search?cells=3&channels=8", 512,
        ("--strategy", "darts", "--init", "scratch", "--budget", "none", "--val-fraction", "0.5", "--batch-size", "64",
         "--finalists", "1"),
    ),
}  # fmt: skip
QUICK_KEPT: dict[str, Command] = {"train narfx:resnet8, 2 steps of 128": ("train", "narfx:resnet8", 256, ())}


def memory_seconds(commands: dict[str, Command], rounds: int) -> Iterator[tuple[str, list[float], list[float]]]:
    """For each command its name, and processor seconds with the allocator as it is and as narfx sets it, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (verb, model, images, options) in commands.items():
            data = Path(folder) / f"{images}.npz"
            _write_random(data, images)
            given = [verb, model, *options, "--data", str(data), "--epochs", "1", "--t0", "1", "--quiet", "--overwrite"]
            found: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                for seconds, more in zip(found, (LEFT_ALONE, {}), strict=True):
                    seconds.append(_seconds([*given, "--out", str(Path(folder) / "run")], more))
            yield name, *found


def _write_random(path: Path, images: int) -> None:
    generator = np.random.default_rng(0)
    train, test = (generator.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8) for size in (images, 64))
    np.savez(path, x_train=train, y_train=np.arange(images) % 10, x_test=test, y_test=np.arange(64) % 10)


def _seconds(arguments: list[str], more: dict[str, str]) -> float:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")} | more
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "narfx", *arguments], capture_output=True, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
