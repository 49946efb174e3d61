"""Shared weights and a strategy, trained in turn (ENAS, arXiv 1802.03268; NAR, arXiv 1905.02341, section 3).

An epoch of shared weights (the strategy fixed, one fresh vector a minibatch) alternates with steps of the strategy
(the weights fixed). Rewards use the statistics of their own batch, because the running averages of shared weights
belong to no sub-network; all vectors of one lot see the same minibatch, so that they differ by themselves alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from narfx.compiler.supernet import Supernet
from narfx.graph.batchnorm import batch_statistics
from narfx.graph.frozen import train_mode
from narfx.runs.folder import RunFolder
from narfx.runs.progress import Reporter
from narfx.search.config import SearchConfig
from narfx.search.outcome import evaluate_vector
from narfx.search.strategy import Result, Strategy
from narfx.space.records import Vector
from narfx.space.sampling import FeasibleSampler
from narfx.space.space import SearchSpace
from narfx.support.seeds import derive, numpy_generator
from narfx.tasks.task import Task
from narfx.training.fit import check_diverged, restore, set_rate, sgd, train_step
from narfx.training.recipe import sgdr

__all__ = ["Search", "quick_reward"]


@dataclass
class Search:
    """One search: the alternation, its events and its checkpoints.

    ``space`` is the supernet's under the budget; the strategy was made for it. ``base`` is the evaluation of the base
    with the weights that the search starts from, where it does not start from scratch.
    """

    config: SearchConfig
    space: SearchSpace
    net: Supernet
    strategy: Strategy
    task: Task
    folder: RunFolder
    reporter: Reporter
    base: dict[str, Any] | None = None

    def run(self) -> None:
        """Go through all epochs from the last checkpoint on.

        Raises:
            RunError: The loss is not finite; the last checkpoint is kept.
        """
        self.task.precision.arrange(self.net)
        self.optimizer = sgd(nn.ModuleList([self.net, self.task.head]), self.config)
        for epoch in range(self._restore(), self.config.epochs):
            started = time.monotonic()
            loss = self._train_weights(epoch)
            self.folder.event("weights", epoch=epoch + 1, loss=loss, lr=self.optimizer.param_groups[0]["lr"])
            said = f"epoch {epoch + 1}/{self.config.epochs}: loss {loss:.4f}"
            if epoch >= self.config.pretrain_epochs:
                metrics = self._train_strategy(epoch)
                known = {key: metrics[key] for key in ("reward", "entropy") if key in metrics}
                said += "".join(f", {key} {value:.4f}" for key, value in known.items())
            else:
                said += ", uniform random vectors"
            check_diverged(self.net, self.task.head)
            self._save(epoch + 1)
            self.reporter.say(f"{said} ({time.monotonic() - started:.0f} s)")

    def _restore(self) -> int:
        state = self.folder.load()
        if state is None:
            trained = self.config.init == "base" and self.config.weights is not None
            self.task.start(self.config.seed, self.net if trained else None)
            if self.config.init == "base":
                # Before the first step: shared weights move on, and the base deserves its own.
                self.base = evaluate_vector(self.net, self.space.base, self.task)
            self._save(0)
            return 0
        restore(
            self.folder,
            (self.net, state["net"]),
            (self.task.head, state["head"]),
            (self.optimizer, state["optimizer"]),
            (self.strategy, state["strategy"]),
        )
        self.base = state["base"]
        return int(state["epoch"])

    def _save(self, epoch: int) -> None:
        self.folder.save(
            {
                "net": self.net.state_dict(),
                "head": self.task.head.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "strategy": self.strategy.state_dict(),
                "base": self.base,
                "epoch": epoch,
            }
        )

    def _train_weights(self, epoch: int) -> float:
        """One epoch of the shared weights; returns the mean loss."""
        config, steps = self.config, self.task.steps_per_epoch
        vectors = self._vectors(epoch)
        train_mode(self.net)
        torch.manual_seed(derive(config.seed, "dropout", epoch))
        batches = self.task.train_batches(derive(config.seed, "epoch", epoch))
        losses = []
        for step, (x, y) in enumerate(self.reporter.track(batches, steps, f"epoch {epoch + 1}: weights")):
            set_rate(self.optimizer, sgdr(epoch + step / steps, config.lr, config.lr_min, config.t0, config.tmult))
            self.net.set_vector(next(vectors))
            losses.append(train_step(self.net, self.optimizer, self.task, x, y, config.clip))
        return sum(losses) / len(losses)

    def _vectors(self, epoch: int) -> Iterator[Vector]:
        """Uniform random vectors while pretraining (NAR-PreTrain), then what the strategy proposes, never told."""
        if epoch < self.config.pretrain_epochs:
            sampler, rng = FeasibleSampler(self.space), numpy_generator(self.config.seed, "pretrain", epoch)
            while True:
                yield sampler.draw(rng)
        while True:
            yield from (proposal.vector for proposal in self.strategy.ask(16))

    def _train_strategy(self, epoch: int) -> dict[str, Any]:
        """All steps of the strategy behind one epoch; returns the means of its metrics."""
        config, metrics, told = self.config, {}, []
        batches = self.task.reward_batches(derive(config.seed, "reward", epoch), config.steps, config.reward_images)
        for batch in self.reporter.track(batches, config.steps, f"epoch {epoch + 1}: strategy"):
            proposals = self.strategy.ask(config.lot)
            rewards = [quick_reward(self.net, proposal.vector, self.task, batch) for proposal in proposals]
            results = [
                Result(reward, self.space.cost(proposal.vector))
                for proposal, reward in zip(proposals, rewards, strict=True)
            ]
            metrics = self.strategy.tell(proposals, results)
            told.append(metrics)
            self.folder.event(
                "step",
                metric=self.task.metric,
                epoch=epoch + 1,
                vectors=[list(p.vector) for p in proposals],
                rewards=rewards,
                **metrics,
            )
        numbers = [key for key, value in metrics.items() if isinstance(value, float)]
        return {key: sum(entry[key] for entry in told) / len(told) for key in numbers}


def quick_reward(net: Supernet, vector: Vector, task: Task, batch: tuple[Tensor, Tensor]) -> float:
    """The metric of one sub-network on one minibatch, with the batch's own BatchNorm statistics."""
    net.set_vector(vector)
    with batch_statistics(net):
        return task.reward(net, batch)
