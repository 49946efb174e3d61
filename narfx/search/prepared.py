"""What a search needs before its first step: the trace, the data, the space, the supernet, all of it checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from narfx.compiler.open import open_base
from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.graph.checks import check_values
from narfx.latency.metric import LatencyReport, open_latency, share_latency
from narfx.search.config import SearchConfig
from narfx.search.preparation import Distil
from narfx.search.stages import Stage, check_stages
from narfx.space.budget import Budget, unknown_metric
from narfx.space.space import SearchSpace
from narfx.support.devices import pick_device
from narfx.support.ranks import Ranks
from narfx.tasks.options import open_images, open_task
from narfx.tasks.task import Task
from narfx.training.checks import check_batches, outputs
from narfx.training.initialise import reinitialise
from narfx.training.method import Method, method_of

__all__ = ["Prepared", "prepare"]

_TRIAL_IMAGES = 1000


@dataclass(frozen=True)
class Prepared:
    """A search that can begin. ``space`` is the trace's within the budget, ``net`` the supernet on the device."""

    traced: Traced
    task: Task
    latency: LatencyReport | None
    space: SearchSpace
    stages: tuple[Stage, ...]
    net: Supernet
    method: Method
    notes: tuple[str, ...]


def prepare(
    config: SearchConfig,
    stages: Sequence[Stage],
    device: str,
    relative_to: Path | None,
    *,
    resumed: bool = False,
    keep_latency: bool = True,
    ranks: Ranks | None = None,
) -> Prepared:
    """Load, trace and check all that a search needs; it takes up to minutes on a large model.

    A ``resumed`` search measures no latency; without ``keep_latency`` none is written to a file. Of several ranks,
    which all call this at once, rank 0 measures.

    Raises:
        UsageError: The model, the data, a strategy or an option is wrong.
        NothingToRefineError: The model has no site with a choice.
        InfeasibleBudgetError: No vector meets the budget.
    """
    _check_epochs(config)
    ranks = ranks or Ranks()
    method = method_of(config, relative_to=relative_to)
    place = pick_device(device)
    opened = open_images(config, relative_to, config.input)
    traced = open_base(config, relative_to=relative_to, seed=config.seed, images=opened.images)
    task = open_task(
        config,
        traced.input,
        opened=opened,
        seed=config.seed,
        device=place,
        label_smoothing=config.label_smoothing,
        relative_to=relative_to,
        precision=config.compute_precision(place),
    )
    task.data = task.data.with_test(config.seed)
    share = task.check_ranks(ranks)
    latency = None
    if config.wanted(config.budget):
        Budget.parse(config.budget, {**traced.space.cost(traced.space.base), "latency": 0.0})
        traced, latency = share_latency(
            ranks,
            traced,
            lambda: open_latency(traced, config, relative_to=relative_to, measured=resumed, keep=keep_latency),
        )
    space = traced.space.within(Budget.parse(config.budget, traced.space.cost(traced.space.base)))
    _check_front(config, space)
    check_stages(stages, space, config.seed, config.front, ranks)
    notes = [*traced.notes, *task.notes, *(latency.notes if latency else ())]
    net, more = _supernet(config, traced, task, place, share)
    method.check(net)
    if not resumed and (config.strategy == "solve" or any(isinstance(each.preparation, Distil) for each in stages)):
        more += _check_trained(config, net, task)
    return Prepared(traced, task, latency, space, tuple(stages), net, method, (*notes, *more))


def _check_epochs(config: SearchConfig) -> None:
    if config.pretrain_epochs >= config.epochs:
        raise UsageError(
            f"--pretrain-epochs {config.pretrain_epochs} of --epochs {config.epochs} leave no epoch for the "
            "strategy: raise --epochs, or lower --pretrain-epochs",
            where="--pretrain-epochs",
            kind="pretrain_epochs",
        )


def _check_front(config: SearchConfig, space: SearchSpace) -> None:
    unknown = next((name for name in config.front if name not in space.metrics), None)
    if unknown is not None:
        raise unknown_metric(unknown, space.metrics, where="--front", said="--front names")


def _supernet(
    config: SearchConfig, traced: Traced, task: Task, device: torch.device, batch: int
) -> tuple[Supernet, list[str]]:
    """The supernet on its device, with the weights that the search starts from, and notes about these.

    ``batch`` is the number of images in a rank's share of a training batch.
    """
    notes = []
    if config.init == "scratch":
        left = reinitialise(traced.graph_module, config.seed)
        if left:
            notes.append(f"not re-initialised (no rule for these parameters): {', '.join(left[:4])}")
    elif task.data.val_from_train and config.weights is not None:
        notes.append(
            "warning: validation images are taken from the training part, and the weights given may have been trained "
            "on them; name others with --val-data"
        )
    net = Supernet(traced, separate_norms=config.norms == "separate")
    if config.init == "scratch":
        reinitialise(net, config.seed)
    check_values(net.graph_module)
    net.to(device)
    task.check(outputs(net, traced.input, device))
    check_batches(net, traced.input, device, batch, min(config.reward_images, len(task.data.val)))
    return net, notes


def _check_trained(config: SearchConfig, net: Supernet, task: Task) -> list[str]:
    """Refuse to learn from a base that nobody trained; a warning where its weights are no better than chance.

    Raises:
        UsageError: The shared weights start from scratch, or no weights were given and the base knows nothing.
    """
    if config.init == "scratch":
        raise UsageError(
            "operators learn from a trained base, and --init scratch has none: give the base's --weights, or choose "
            "--strategy nar",
            where="--init",
            kind="needs_weights",
        )
    net.set_vector(net.space.base)
    net.eval()
    task.start(config.seed, net)
    batch = next(task.reward_batches(config.seed, 1, _TRIAL_IMAGES))
    accuracy, chance, images = task.reward(net, batch), 1 / len(task.data.classes), len(batch[1])
    if accuracy > chance + 3 * (chance * (1 - chance) / images) ** 0.5:
        return []
    known = f"the base classifies {accuracy:.1%} of {images} validation images, and chance would be {chance:.1%}"
    if config.weights is None:
        raise UsageError(
            f"operators learn from a trained base: {known}; name its weights with --weights, or train it first "
            "(narfx train)",
            where="--weights",
            kind="needs_weights",
        )
    return [f"warning: {known}; are {config.weights} the right weights?"]
