"""What a search will cost, said before it begins."""

from __future__ import annotations

import math
import time

import torch

from narfx.graph.copying import copy_module
from narfx.search.config import SearchConfig
from narfx.search.effort import MEASURED, Effort, for_front
from narfx.search.epochs import quick_reward
from narfx.search.mixture.memory import activation_bytes, largest_mixture, weight_bytes
from narfx.search.mixture.strategy import MixtureStrategy
from narfx.search.preparation import Distil
from narfx.search.prepared import Prepared
from narfx.support.ranks import Ranks
from narfx.support.text import count
from narfx.training.estimate import Estimate, duration, timed_step

__all__ = ["plan"]

_PASS = 2.0  # a pass of distillation in training steps
_MB = 1e6


def plan(prepared: Prepared, config: SearchConfig, ranks: Ranks | None = None) -> Estimate:
    """Images, evaluations, and a time measured on a copy of the supernet, for a search shared by these ranks."""
    ranks = ranks or Ranks()
    task, space = prepared.task, prepared.space
    mixing = prepared.stages[0].build(space, 0, config.seed)
    if isinstance(mixing, MixtureStrategy):
        return _mixing(prepared, config, mixing)
    train = config.epochs * task.steps_per_epoch
    rewards = (config.epochs - config.pretrain_epochs) * config.steps * config.proposals
    evaluations = config.finalists + config.randoms + 1 + for_front(config)
    effort = Effort.of(config, task, prepared.traced.space)
    images = effort.val + effort.calibration
    step, reward = _probe(prepared, config, ranks)
    if config.strategy == "solve":
        return _solving(prepared, config, step, reward).shared(ranks)
    skips = f" and {count(len(space.skip_slots), 'possible skip')}" if space.skip_slots else ""
    stages = f" in {len(prepared.stages)} stages" if len(prepared.stages) > 1 else ""
    judged = (config.randoms + 2) * effort.test
    end = (evaluations * images + judged) / min(config.reward_images, len(task.data.val)) * reward
    distilled = _distilled(prepared)
    seconds = (train + (_PASS - 1) * distilled * task.steps_per_epoch) * step + rewards * reward + end
    text = (
        f"search: {count(len(space) - len(space.skip_slots), 'slot')}{skips}, {space.size:.3g} vectors, "
        f"budget {space.budget}; {count(config.epochs, 'epoch')}{stages} of "
        f"{count(task.steps_per_epoch, 'training step')} ({_prepared(config, distilled)}), "
        f"{count(rewards, 'reward')}, about {count(evaluations, 'evaluation')} on {count(images, 'image')} at the end"
        f"{_of_front(config)}; "
        f"about {duration(seconds)} at the speed just measured"
    )
    numbers = {
        "epochs": config.epochs,
        "training_steps": train,
        "rewards": rewards,
        "evaluations": evaluations,
        "evaluation_images": images,
    }
    return Estimate(text, seconds, numbers, prepared.notes).shared(ranks)


def _distilled(prepared: Prepared) -> int:
    """The epochs of all stages in which operators learn from the base."""
    return sum(stage.preparation.epochs for stage in prepared.stages if isinstance(stage.preparation, Distil))


def _prepared(config: SearchConfig, distilled: int) -> str:
    """What the epochs before the strategy do, and how fast the shared weights learn after operators were distilled."""
    uniform = config.pretrain_epochs - distilled
    said = [f"{uniform} of them on uniform random vectors"] if uniform or not distilled else []
    if distilled:
        said += [f"in {distilled} of them operators learn from the base", f"then a learning rate of {config.lr:g}"]
    return "; ".join(said)


def _mixing(prepared: Prepared, config: SearchConfig, strategy: MixtureStrategy) -> Estimate:
    """The estimate of a search by gradients through a mixture, with the memory that the mixture needs."""
    task, space = prepared.task, prepared.space
    net = copy_module(prepared.net)
    mixture = largest_mixture(net, space, strategy)
    optimizer = prepared.method.optimizer(net)
    with torch.random.fork_rng(devices=[]):
        activations = activation_bytes(net, mixture, task, prepared.traced.input, task.batch_size)
        step = min(timed_step(net, optimizer, task, config) for _ in range(2))
        start = time.monotonic()
        quick_reward(net, space.start, task, next(task.reward_batches(0, 1, config.reward_images)))
        reward = time.monotonic() - start
    learning, train = config.epochs - config.pretrain_epochs, config.epochs * task.steps_per_epoch
    evaluations = config.finalists + config.randoms + 1 + for_front(config)
    effort = Effort.of(config, task, prepared.traced.space)
    images = effort.calibration + effort.val
    judged = (config.randoms + 2) * effort.test
    end = (evaluations * images + judged) / min(config.reward_images, len(task.data.val)) * reward
    seconds = (strategy.passes * learning + config.pretrain_epochs) * task.steps_per_epoch * step + end
    before = f" ({_prepared(config, _distilled(prepared))})" if config.pretrain_epochs else ""
    weights = weight_bytes(net)
    computed = sum(sum(map(bool, row)) for row in mixture)
    skips = f" and {count(len(space.skip_slots), 'possible skip')}" if space.skip_slots else ""
    stages = f" in {len(prepared.stages)} stages" if len(prepared.stages) > 1 else ""
    text = (
        f"search: {count(len(space) - len(space.skip_slots), 'slot')}{skips}, {space.size:.3g} vectors, budget "
        f"{space.budget}; {count(config.epochs, 'epoch')}{before}{stages} of "
        f"{count(task.steps_per_epoch, 'step')} with "
        f"{strategy.passes} forward and backward {'pass' if strategy.passes == 1 else 'passes'} each; a pass computes "
        f"up to {computed} choices at once and keeps about {activations / _MB:.0f} MB of activations for a batch of "
        f"{task.batch_size}, beside {weights / _MB:.0f} MB of weights, gradients and momentum; about "
        f"{count(evaluations, 'evaluation')} on {count(images, 'image')} at the end{_of_front(config)}; about "
        f"{duration(seconds)} at the speed just measured"
    )
    numbers = {
        "epochs": config.epochs,
        "training_steps": train,
        "rewards": 0,
        "evaluations": evaluations,
        "evaluation_images": images,
        "choices_at_once": computed,
        "activation_mb": math.ceil(activations / _MB),
        "weight_mb": math.ceil(weights / _MB),
    }
    return Estimate(text, seconds, numbers, (*prepared.notes, *strategy.notes(prepared.traced.space)))


def _solving(prepared: Prepared, config: SearchConfig, step: float, reward: float) -> Estimate:
    """The estimate of a search that measures: its passes, and the architectures that it measures."""
    task, space = prepared.task, prepared.space
    passes, rounds = config.pretrain_epochs, config.epochs - config.pretrain_epochs
    singles = sum(len(slot.legal) - 1 for slot in space.slots)
    images = min(config.score_images, len(task.data.train))
    evaluations = config.finalists + config.randoms + 1 + for_front(config)
    effort = Effort.of(config, task, prepared.traced.space)
    last = evaluations * (effort.val + effort.calibration)
    judged = (config.randoms + 2) * effort.test
    measured, train = rounds * (singles + MEASURED), passes * task.steps_per_epoch
    one = reward / min(config.reward_images, len(task.data.val))
    seconds = _PASS * train * step + (measured * images + last + judged) * one
    text = (
        f"search: {count(len(space), 'slot')}, {space.size:.3g} vectors, budget {space.budget}; "
        f"{passes} {'pass' if passes == 1 else 'passes'} of {count(task.steps_per_epoch, 'step')} in which the "
        f"operators learn from the base, then {count(measured, 'architecture')} measured on "
        f"{count(images, 'training image')} ({singles} single replacements a round), "
        f"{count(evaluations, 'evaluation')} at the end{_of_front(config)}; "
        f"about {duration(seconds)} at the speed just measured"
    )
    numbers = {
        "epochs": config.epochs,
        "training_steps": train,
        "measured": measured,
        "evaluations": evaluations,
        "evaluation_images": effort.val + effort.calibration,
    }
    return Estimate(text, seconds, numbers, prepared.notes)


def _of_front(config: SearchConfig) -> str:
    return f", up to {for_front(config)} of them for the front over {', '.join(config.front)}" if config.front else ""


def _probe(prepared: Prepared, config: SearchConfig, ranks: Ranks) -> tuple[float, float]:
    """Seconds of one training step and of one reward, data included, the second of two; nothing of the run changes.

    Of several ranks, a step is that of one rank's share of a batch, and the time of a reward is divided by the ranks.
    """
    net = copy_module(prepared.net)
    optimizer = prepared.method.optimizer(net)
    seconds = (0.0, 0.0)
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            step = timed_step(net, optimizer, prepared.task, config, ranks)
            start = time.monotonic()
            batch = next(prepared.task.reward_batches(0, 1, config.reward_images))
            quick_reward(net, prepared.space.base, prepared.task, batch)
            seconds = (step, (time.monotonic() - start) / ranks.size)
    return seconds
