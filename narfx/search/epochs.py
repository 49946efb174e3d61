"""One epoch of a strategy: turns of shared weights and rewards, or steps of a strategy that trains the supernet.

Rewards use the statistics of their own batch, because the running averages of shared weights belong to no
sub-network; all vectors of one batch of proposals see the same minibatch, so that only the vectors differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from narfx.compiler.prefixes import Prefixes
from narfx.compiler.supernet import Supernet
from narfx.data.image_data import Batch
from narfx.errors import UsageError
from narfx.graph.batchnorm import batch_statistics
from narfx.graph.frozen import train_mode
from narfx.runs.events import Scored, Step, Weights
from narfx.runs.folder import RunFolder
from narfx.search.goals import archive_hypervolume
from narfx.search.judge import NetJudge
from narfx.search.measuring import MeasuringStrategy
from narfx.search.shared_weights import SharedWeights
from narfx.search.strategy import Proposal, Result, RewardSteps, Scheduled, Strategy, Turn, WeightSteps, alternation
from narfx.search.supernet_strategy import AnyStrategy, Minibatch, SupernetStrategy
from narfx.space.records import Vector
from narfx.space.space import SearchSpace
from narfx.support.collectives import broadcast, gather
from narfx.support.ranks import Ranks
from narfx.support.seeds import derive
from narfx.tasks.task import Task

__all__ = ["SCORES", "StrategyEpoch", "quick_reward", "quick_rewards", "rewards_of_ranks", "train_epoch"]

SCORES = "scores.json"


@dataclass(frozen=True)
class StrategyEpoch:
    """Where an epoch takes place: the stage's space, the shared weights, the run, and the epoch's numbers.

    ``number`` counts over the whole search, ``own`` from the first of the strategy's ``epochs``; both from 0. The
    events of steps have the hypervolume over ``costs`` of all that the strategy evaluated, or with ``None`` none.
    """

    space: SearchSpace
    shared: SharedWeights
    folder: RunFolder
    number: int
    own: int
    epochs: int
    costs: tuple[str, ...] | None = None


def train_epoch(strategy: AnyStrategy, epoch: StrategyEpoch) -> None:
    """Train the shared weights and the strategy for one epoch, and write its events.

    Of several ranks, only rank 0's strategy is asked and told; all ranks call this at once, and share the work.

    Raises:
        RunError: The loss is not finite.
        UsageError: The strategy's schedule cannot be kept.
    """
    if isinstance(strategy, SupernetStrategy):
        _minibatches(strategy, epoch)
    elif isinstance(strategy, MeasuringStrategy):
        _measure(strategy, epoch)
    else:
        _turns(strategy, epoch)


def _turns(strategy: Strategy, epoch: StrategyEpoch) -> None:
    turns = _schedule(strategy, epoch)
    shared, config = epoch.shared, epoch.shared.config
    weights, vectors = shared.epoch(epoch.number), _proposed(strategy, shared.ranks)
    batches = sum(turn.batches for turn in turns if isinstance(turn, RewardSteps))
    minibatches = shared.task.reward_batches(
        derive(config.seed, "reward", epoch.number), batches, config.reward_images
    )  # fmt: skip
    for turn in turns:
        if isinstance(turn, WeightSteps):
            _write_weights(epoch, weights.train(vectors, turn.minibatches))
        else:
            label = f"epoch {epoch.number + 1}: strategy"
            for _ in shared.reporter.track(range(turn.batches), turn.batches, label):
                _reward_step(strategy, epoch, next(minibatches))


def _write_weights(epoch: StrategyEpoch, losses: Sequence[float]) -> None:
    mean = sum(losses) / len(losses)
    epoch.folder.write(Weights(epoch=epoch.number + 1, loss=mean, lr=epoch.shared.rate))


def _schedule(strategy: Strategy, epoch: StrategyEpoch) -> list[Turn]:
    ranks = epoch.shared.ranks
    turns = _own_schedule(strategy, epoch) if ranks.first else []
    lengths = [[turn.minibatches, 0] if isinstance(turn, WeightSteps) else [0, turn.batches] for turn in turns]
    agreed = broadcast(ranks, lengths)
    return turns if ranks.first else [WeightSteps(steps) if steps else RewardSteps(n) for steps, n in agreed]


def _own_schedule(strategy: Strategy, epoch: StrategyEpoch) -> list[Turn]:
    most, steps = epoch.shared.task.steps_per_epoch, epoch.shared.config.steps
    schedule = strategy.schedule if isinstance(strategy, Scheduled) else alternation
    turns = list(schedule(epoch.own, most, steps))
    weights = [turn.minibatches for turn in turns if isinstance(turn, WeightSteps)]
    rewards = [turn.batches for turn in turns if isinstance(turn, RewardSteps)]
    if min([*weights, *rewards], default=0) < 1 or sum(weights) > most:
        raise UsageError(
            f"the strategy's schedule of epoch {epoch.own} has turns of {weights} minibatches and {rewards} batches "
            f"of proposals: a turn has at least 1, and all have at most the {most} minibatches of an epoch",
            where="schedule",
            kind="strategy_schedule",
        )
    return turns


def _proposed(strategy: Strategy, ranks: Ranks) -> Iterator[Vector]:
    """What the strategy proposes, for training the weights alone: it is not given back to ``tell``.

    Each rank gets others of them, all the same number.
    """
    while True:
        proposals = _ask(strategy, 16 * ranks.size, ranks)
        rounds = max(len(proposals) // ranks.size, 1)
        yield from (
            proposals[(ranks.rank + turn * ranks.size) % len(proposals)].vector for turn in range(rounds)
        )  # fmt: skip


def _ask(strategy: Strategy, n: int, ranks: Ranks) -> list[Proposal]:
    """What rank 0's strategy proposes, on all ranks."""
    proposals = strategy.ask(n) if ranks.first else []
    vectors = broadcast(ranks, [list(proposal.vector) for proposal in proposals])
    return proposals if ranks.first else [Proposal(tuple(vector)) for vector in vectors]


def _reward_step(strategy: Strategy, epoch: StrategyEpoch, batch: Batch) -> None:
    """One batch of proposals, evaluated on one minibatch; each rank evaluates its share of them."""
    shared, ranks = epoch.shared, epoch.shared.ranks
    proposals = _ask(strategy, shared.config.proposals, ranks)
    vectors = [proposal.vector for proposal in proposals]
    rewards = rewards_of_ranks(shared.prefixes, vectors, shared.task, batch, ranks)
    if not ranks.first:
        return
    results = [
        Result(reward, epoch.space.cost(proposal.vector)) for proposal, reward in zip(proposals, rewards, strict=True)
    ]
    metrics = strategy.tell(proposals, results)
    if epoch.costs is not None:
        # Here and not in a strategy: so it means the same for all of them.
        metrics = {**metrics, "hypervolume": archive_hypervolume(epoch.space, strategy.archive(), epoch.costs)}
    _write_step(epoch, proposals, rewards, metrics)


def _write_step(
    epoch: StrategyEpoch, proposals: Sequence[Proposal], rewards: list[float], metrics: Mapping[str, Any]
) -> None:
    epoch.folder.write(
        Step(
            metric=epoch.shared.task.metric,
            epoch=epoch.number + 1,
            vectors=[list(proposal.vector) for proposal in proposals],
            rewards=rewards,
            more=metrics,
        )
    )


def _measure(strategy: MeasuringStrategy, epoch: StrategyEpoch) -> None:
    shared = epoch.shared
    judge = NetJudge(shared.prefixes, shared.task, shared.config.score_images, shared.reporter, shared.ranks)
    if not shared.ranks.first:
        judge.crew.follow()
        return
    metrics = strategy.measure(judge)
    judge.crew.dismiss()
    epoch.folder.write(
        Scored(epoch=epoch.number + 1, images=judge.images, vectors=judge.judged, more=metrics)
    )  # fmt: skip
    table = strategy.scores()
    if table is not None:
        table.save(epoch.folder.path / SCORES)


def _minibatches(strategy: SupernetStrategy, epoch: StrategyEpoch) -> None:
    shared, losses = epoch.shared, list[float]()
    steps = shared.task.steps_per_epoch
    validation = shared.task.reward_batches(derive(shared.seed, "reward", epoch.number), steps)

    def train_weights(batch: Batch, time: float) -> float:
        losses.append(shared.step(batch, time))
        return losses[-1]

    for step, (batch, time) in enumerate(shared.epoch(epoch.number).take(steps, "strategy and weights"), 1):
        shared.set_rate(time)
        minibatch = Minibatch(
            train=batch,
            draw_validation=partial(next, validation),
            train_weights=partial(train_weights, batch, time),
            optimizer=shared.optimizer,
            progress=(epoch.own + (step - 1) / steps) / epoch.epochs,
            last=step == steps,
        )
        train_mode(shared.net)
        metrics = strategy.train_step(shared.net, shared.task, minibatch)
        if metrics:
            _write_step(epoch, (), [], metrics)
    if losses:
        _write_weights(epoch, losses)


def rewards_of_ranks(
    prefixes: Prefixes, vectors: Sequence[Vector], task: Task, batch: Batch, ranks: Ranks
) -> list[float]:
    """The rewards of vectors on one minibatch, on every rank, each computed on one rank.

    The ranks take neighbours in the order of the vectors, which have most in common, of about equal MACs in all.
    """
    ordered = sorted(range(len(vectors)), key=lambda index: vectors[index])
    parts = ranks.cut([prefixes.net.space.cost(vectors[index])["macs"] for index in ordered])
    own = [vectors[ordered[place]] for place in parts[ranks.rank]]
    found = [reward for part in gather(ranks, quick_rewards(prefixes, own, task, batch)) for reward in part]
    return [reward for _, reward in sorted(zip(ordered, found, strict=True))]


def quick_reward(net: Supernet, vector: Vector, task: Task, batch: Batch) -> float:
    """The metric of one sub-network on one minibatch, with the batch's own BatchNorm statistics."""
    return quick_rewards(Prefixes(net, memory=0), [vector], task, batch)[0]


def quick_rewards(prefixes: Prefixes, vectors: Sequence[Vector], task: Task, batch: Batch) -> list[float]:
    """The same for several sub-networks on one minibatch; what they have in common is computed once."""
    rewards = [0.0] * len(vectors)
    with batch_statistics(prefixes.net):
        for index in prefixes.over(vectors, len(batch[1])):
            rewards[index] = task.reward(prefixes, batch)
    return rewards
