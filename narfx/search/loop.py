"""The loop of a search: stage after stage, epoch after epoch, with an event and a checkpoint at the end of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from torch import nn

from narfx.compiler.supernet import Supernet
from narfx.runs.events import StageBegan
from narfx.runs.folder import RunFolder
from narfx.runs.progress import Reporter
from narfx.search.config import SearchConfig
from narfx.search.effort import Effort
from narfx.search.epochs import StrategyEpoch, train_epoch
from narfx.search.evaluations import evaluate_vector
from narfx.search.shared_weights import SharedWeights
from narfx.search.stages import Found, Stage, spaces
from narfx.search.strategy import Evaluated
from narfx.search.supernet_strategy import AnyStrategy
from narfx.space.space import SearchSpace
from narfx.support.collectives import average_buffers, broadcast, equalise
from narfx.support.ranks import Ranks
from narfx.tasks.task import Task
from narfx.training.fit import check_diverged, check_order, parameter_names, restore, say_other_ranks
from narfx.training.method import Method, method_of, state_of

__all__ = ["Search"]


@dataclass
class Search:
    """One search: its stages, its events and its checkpoints.

    Of several ranks, which all run one, rank 0 alone has the strategy that is asked and told; the weights are the same
    on all ranks after each step, and the statistics of BatchNorms after each epoch.

    ``space`` is the supernet's under the budget, which the stages narrow. ``strategy`` is that of the present stage.
    ``base`` is the evaluation of the base with the weights that the search starts from, where these may have learnt
    something.
    """

    config: SearchConfig
    space: SearchSpace
    net: Supernet
    stages: Sequence[Stage]
    task: Task
    folder: RunFolder
    reporter: Reporter
    ranks: Ranks = field(default_factory=Ranks)
    method: Method | None = None
    base: dict[str, Any] | None = field(default=None, init=False)
    strategy: AnyStrategy = field(init=False)

    def __post_init__(self) -> None:
        self._ends = [*accumulate(stage.length for stage in self.stages)]
        self._found: list[Found] = []
        # A search that is resumed begins with the same weights, so that no checkpoint need hold them.
        self._start = {key: value.clone() for key, value in self.net.state_dict().items()} if self._restarts else {}
        self._begin()

    @property
    def _restarts(self) -> bool:
        return any(stage.fresh for stage in self.stages)

    @property
    def trained(self) -> SearchSpace:
        """The space whose vectors the shared weights can compute: since a fresh stage only its own were trained."""
        return self._here if self.stages[len(self._found)].fresh else self.space

    def run(self) -> None:
        """Go through all epochs from the last checkpoint on.

        Raises:
            RunError: The loss is not finite; the last checkpoint is kept.
            UsageError: A stage cannot begin, because its narrowing gives no space that fits.
        """
        self._share()
        for epoch in range(self._restore(), self._ends[-1]):
            if epoch == self._ends[len(self._found)]:
                self._next_stage()
            self._epoch(epoch)
            average_buffers(self.ranks, self.net, self.task.head)
            check_diverged(self.net, self.task.head)
            self._save(epoch + 1)

    def _share(self) -> None:
        method = self.method or method_of(self.config, relative_to=self.folder.path)
        self._shared = SharedWeights(self.net, self.task, self.config, self.reporter, self.ranks, method)

    def _begin(self) -> None:
        """The space and the strategy of the stage that follows all that was found."""
        index = len(self._found)
        self._here = spaces(self.space, self.stages, self._found)[index]
        self.strategy = self.stages[index].build(self._here, index, self.config.seed, self.config.front)

    @property
    def archives(self) -> list[Sequence[Evaluated]]:
        """What each stage has evaluated so far, stage by stage; the last strategy need not remember anything."""
        last = self.strategy.archive() if hasattr(self.strategy, "archive") else ()
        return [*(found.archive for found in self._found), last]

    def _next_stage(self) -> None:
        found = Found.by(self.strategy, self.config.finalists).to_state() if self.ranks.first else None
        self._found.append(Found.from_state(broadcast(self.ranks, found)))
        self._begin()
        index = len(self._found)
        if self.stages[index].fresh:
            self.net.set_vector(self.net.space.start)
            self.net.load_state_dict(self._start)
            self.task.start(self.config.seed, self.net if self.config.base_is_trained else None)
            equalise(self.ranks, self.net, self.task.head)
            self._share()
        legal = [list(slot.legal) for slot in self._here.slots]
        self.folder.write(StageBegan(stage=index + 1, strategy=self.stages[index].strategy, legal=legal))

    def _epoch(self, number: int) -> None:
        index = len(self._found)
        preparation = self.stages[index].preparation
        own = number - (self._ends[index] - self.stages[index].epochs)
        if own < 0:
            self.folder.write(preparation.train(number, own + preparation.epochs, self._here, self._shared))
        else:
            stage = self.stages[index]
            costs = stage.judged(self._here, self.config.front)
            here = StrategyEpoch(self._here, self._shared, self.folder, number, own, stage.epochs, costs)
            train_epoch(self.strategy, here)

    def _restore(self) -> int:
        state = self.folder.load()
        if state is None:
            trained = self.config.base_is_trained
            self.task.start(self.config.seed, self.net if trained else None)
            equalise(self.ranks, self.net, self.task.head)
            if trained and self.ranks.first:
                # Before the first step: shared weights move on, and the base is judged by its own.
                effort = Effort.most(self.config, self.task)
                self.base = evaluate_vector(self.net, self.space.base, self.task, effort)
            self._save(0)
            return 0
        self._found = [Found.from_state(entry) for entry in state.get("found", ())]
        self._begin()
        check_order(self.folder, nn.ModuleList([self.net, self.task.head]), state.get("parameters"))
        restore(
            self.folder,
            (self.net, state["net"]),
            (self.task.head, state["head"]),
            (self._shared.optimizer, state["optimizer"]),
            *([(self.strategy, state["strategy"])] if self.ranks.first else []),
        )
        say_other_ranks(self.reporter, self.ranks, state.get("ranks", 1))
        self.base = state["base"]
        return int(state["epoch"])

    def _save(self, epoch: int) -> None:
        if not self.ranks.first:
            return
        self.folder.save(
            {
                "net": self.net.state_dict(),
                "head": self.task.head.state_dict(),
                "optimizer": state_of(self._shared.optimizer),
                "parameters": parameter_names(nn.ModuleList([self.net, self.task.head])),
                "strategy": self.strategy.state_dict(),
                "found": [found.to_state() for found in self._found],
                "base": self.base,
                "epoch": epoch,
                "ranks": self.ranks.size,
            }
        )
