"""How long a training takes, measured on a copy of the network before it begins."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from narfx.graph.copying import copy_module
from narfx.graph.frozen import train_mode
from narfx.support.ranks import Ranks
from narfx.tasks.task import Task
from narfx.training.fit import train_step
from narfx.training.method import Method
from narfx.training.recipe import Recipe

__all__ = ["Estimate", "duration", "timed_step", "training_seconds"]

_FORWARD = 1 / 3  # of the time of a training step


@dataclass(frozen=True)
class Estimate:
    """What a run will take: in words, in seconds, and the numbers that they follow from; and what the run would say."""

    text: str
    seconds: float
    numbers: Mapping[str, int]
    notes: Sequence[str] = ()

    def shared(self, ranks: Ranks) -> Estimate:
        """The estimate, which was measured for these ranks on one of them, with a word on that."""
        if ranks.alone:
            return self
        return replace(self, text=f"{self.text} by one of {ranks.size} ranks, without what they send each other")

    def to_json(self) -> dict[str, Any]:
        """The result of a verb with ``--dry-run``."""
        estimate = {"seconds": round(self.seconds, 1), **self.numbers}
        return {"dry_run": True, "estimate": estimate, "message": self.text, "notes": [*self.notes]}


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def training_seconds(
    network: nn.Module, task: Task, recipe: Recipe, method: Method, ranks: Ranks | None = None
) -> float:
    """Seconds of a whole training with its evaluation, shared by these ranks; the network is not changed."""
    copied = copy_module(network)
    task.precision.arrange(copied)
    optimizer = method.optimizer(copied)
    with torch.random.fork_rng(devices=[]):
        step = [timed_step(copied, optimizer, task, recipe, ranks) for _ in range(2)][-1]  # the first one warms up
    images = len(task.data.val) + (0 if task.data.test is None else len(task.data.test))
    return (recipe.epochs * task.steps_per_epoch + _FORWARD * images / task.batch_size) * step


def timed_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, task: Task, recipe: Recipe, ranks: Ranks | None = None
) -> float:
    """Seconds of one training step of a rank alone on its share of a batch, data included; the network is changed."""
    start = time.monotonic()
    train_mode(network)
    images, labels = next(task.train_batches(0, ranks))
    train_step(network, optimizer, task.objective, images, labels, recipe.clip)
    return time.monotonic() - start
