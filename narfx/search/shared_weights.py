"""The shared weights of a supernet in training: one optimizer, one schedule of learning rates, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import nn

from narfx.compiler.prefixes import Prefixes
from narfx.compiler.supernet import Supernet
from narfx.data.image_data import Batch
from narfx.graph.frozen import train_mode
from narfx.runs.progress import Reporter
from narfx.search.config import SearchConfig
from narfx.space.records import Vector
from narfx.support.ranks import Ranks
from narfx.support.seeds import derive
from narfx.tasks.task import Task
from narfx.training.fit import train_step
from narfx.training.method import Method, set_rate

__all__ = ["SharedWeights", "WeightEpoch"]


@dataclass
class SharedWeights:
    """A supernet and the head of its task, with the optimizer of both."""

    net: Supernet
    task: Task
    config: SearchConfig
    reporter: Reporter
    ranks: Ranks
    method: Method
    optimizer: torch.optim.Optimizer = field(init=False)
    prefixes: Prefixes = field(init=False)

    def __post_init__(self) -> None:
        self.task.precision.arrange(self.net)
        self.optimizer = self.method.optimizer(nn.ModuleList([self.net, self.task.head]))
        self.prefixes = Prefixes(self.net, self.config.reuse_memory * 2**20)

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def seed(self) -> int:
        """The seed of this rank's own draws."""
        return self.ranks.seed(self.config.seed)

    def epoch(self, number: int) -> WeightEpoch:
        """Begin the epoch of this number, from 0 over the whole search: its batches depend on it alone.

        Each rank gets its share of each batch.
        """
        torch.manual_seed(derive(self.seed, "dropout", number))
        batches = self.task.train_batches(derive(self.config.seed, "epoch", number), self.ranks)
        return WeightEpoch(self, number, batches)

    def set_rate(self, time: float) -> None:
        """Set the learning rate to that of a step at ``time`` epochs."""
        set_rate(self.optimizer, self.method.rate(time))

    def step(self, batch: Batch, time: float) -> float:
        """One step on one batch for what the supernet is set to, at ``time`` epochs; returns the loss.

        Each rank has its own batch, and may have set the supernet to something else.

        Raises:
            RunError: The loss is not finite; nothing was changed by this step.
        """
        self.set_rate(time)
        return train_step(self.net, self.optimizer, self.task.objective, *batch, self.config.clip, self.ranks)


@dataclass
class WeightEpoch:
    """One pass over the training part, which may be taken in several turns."""

    shared: SharedWeights
    number: int
    batches: Iterator[Batch]
    done: int = 0

    def take(self, minibatches: int, label: str) -> Iterator[tuple[Batch, float]]:
        """The next minibatches, the supernet in training mode, and the time in epochs at which each comes."""
        train_mode(self.shared.net)
        turn = islice(self.batches, minibatches)
        for batch in self.shared.reporter.track(turn, minibatches, f"epoch {self.number + 1}: {label}"):
            yield batch, self.number + self.done / self.shared.task.steps_per_epoch
            self.done += 1

    def train(self, vectors: Iterator[Vector], minibatches: int | None = None) -> list[float]:
        """Train on the next minibatches, all of the epoch by default, one vector each; returns the losses.

        ``vectors`` are those of this rank.
        """
        losses = []
        for batch, time in self.take(minibatches or self.shared.task.steps_per_epoch, "weights"):
            self.shared.net.set_vector(next(vectors))
            losses.append(self.shared.step(batch, time))
        return losses
