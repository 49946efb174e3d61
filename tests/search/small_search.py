"""A search that takes a second, runs of it that break off at a chosen event, and the comparison of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from narfx.runs.events import Event, Saved, read_events
from narfx.search import SearchConfig, Stage, resume, run

CONFIG: dict[str, Any] = {
    "model": "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10",
    "input": (1, 8, 8),
    "data": "digits",
    "data_fraction": 0.25,
    "batch_size": 64,
    "init": "scratch",
    "epochs": 3,
    "pretrain_epochs": 1,
    "steps": 3,
    "finalists": 3,
    "augment": "none",
}


class Killed(BaseException):
    """No handler of narfx's catches this: the files stay as they are at that moment."""


class KillAt:
    """A subscriber that breaks the run off at its n-th event, the checkpoints counted."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, event: Event) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class Count:
    """A subscriber that keeps the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events if not isinstance(event, Saved)]


def broken_off(out: Path, n: int, config: SearchConfig, stages: Sequence[Stage] | None = None) -> None:
    """Run until the n-th event, then resume to the end."""
    try:
        run(config, out, stages=stages, subscribers=[KillAt(n)])
    except Killed:
        assert not (out / "arch.json").exists()
        resume(out, stages=stages)
    else:
        raise AssertionError(f"the run ended before event {n}")


def same(a: Path, b: Path) -> None:
    """Vector, metrics, front, weights and all events but their seconds."""
    for name in ("arch.json", "front.json", "evaluations.json", "weights.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert timeless(a) == timeless(b)


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k != "seconds"} for event in read_events(folder)]
