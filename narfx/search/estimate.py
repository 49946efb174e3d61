"""What a search will cost, said before it begins."""

from __future__ import annotations

import time

import torch

from narfx.graph.copying import copy_module
from narfx.graph.frozen import train_mode
from narfx.search.config import SearchConfig
from narfx.search.epochs import quick_reward
from narfx.search.prepared import Prepared
from narfx.support.text import count
from narfx.training.fit import sgd, train_step

__all__ = ["plan"]

_PASS = 2.0  # a pass of distillation in training steps
_MEASURED = 51  # the base, the solutions and the random vectors of a round


def plan(prepared: Prepared, config: SearchConfig) -> str:
    """Images, evaluations, and a time measured on a copy of the supernet, in one sentence."""
    task, space = prepared.task, prepared.space
    train = config.epochs * task.steps_per_epoch
    rewards = (config.epochs - config.pretrain_epochs) * config.steps * config.lot
    evaluations = config.finalists + config.randoms + 1
    images = len(task.data.val) + task.calibration_images
    step, reward = _probe(prepared, config)
    if config.strategy == "solve":
        return _solving(prepared, config, step, reward)
    skips = f" and {count(len(space.skip_slots), 'possible skip')}" if space.skip_slots else ""
    stages = f" in {len(prepared.stages)} stages" if len(prepared.stages) > 1 else ""
    end = evaluations * images / min(config.reward_images, len(task.data.val)) * reward
    return (
        f"search: {count(len(space) - len(space.skip_slots), 'slot')}{skips}, {space.size:.3g} vectors, "
        f"budget {space.budget}; {config.epochs} epochs{stages} of "
        f"{task.steps_per_epoch} training steps ({config.pretrain_epochs} of them on uniform random vectors), "
        f"{rewards} rewards, about {evaluations} evaluations on {images} images at the end; "
        f"about {(train * step + rewards * reward + end) / 60:.1f} minutes at the speed just measured"
    )


def _solving(prepared: Prepared, config: SearchConfig, step: float, reward: float) -> str:
    """The sentence for a search that measures: its passes, and the architectures that it measures."""
    task, space = prepared.task, prepared.space
    passes, rounds = config.pretrain_epochs, config.epochs - config.pretrain_epochs
    singles = sum(len(slot.legal) - 1 for slot in space.slots)
    images = min(config.score_images, len(task.data.train))
    evaluations = config.finalists + config.randoms + 1
    last = evaluations * (len(task.data.val) + task.calibration_images)
    measured = rounds * (singles + _MEASURED) * images
    one = reward / min(config.reward_images, len(task.data.val))
    seconds = passes * _PASS * task.steps_per_epoch * step + (measured + last) * one
    return (
        f"search: {count(len(space), 'slot')}, {space.size:.3g} vectors, budget {space.budget}; "
        f"{passes} {'pass' if passes == 1 else 'passes'} of {task.steps_per_epoch} steps in which the operators "
        f"learn from the base, then {rounds * (singles + _MEASURED)} architectures measured on {images} training "
        f"images ({singles} single replacements a round), {evaluations} evaluations at the end; about "
        f"{seconds / 60:.1f} minutes at the speed just measured"
    )


def _probe(prepared: Prepared, config: SearchConfig) -> tuple[float, float]:
    """Seconds of one training step and of one reward, data included, the second of two; nothing of the run changes."""
    net = copy_module(prepared.net)
    optimizer = sgd(net, config)
    seconds = (0.0, 0.0)
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            start = time.monotonic()
            train_mode(net)
            x, y = next(prepared.task.train_batches(0))
            train_step(net, optimizer, prepared.task.objective, x, y, config.clip)
            middle = time.monotonic()
            batch = next(prepared.task.reward_batches(0, 1, config.reward_images))
            quick_reward(net, prepared.space.base, prepared.task, batch)
            seconds = (middle - start, time.monotonic() - middle)
    return seconds
