"""Stand-alone training of one network by SGD with warm restarts (SGDR, Loshchilov and Hutter, arXiv 1608.03983)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from narfx.errors import RunError, UsageError
from narfx.graph.frozen import train_mode
from narfx.runs.events import Epoch
from narfx.runs.folder import RunFolder
from narfx.runs.progress import Reporter, Silent
from narfx.support.collectives import average_buffers, average_gradients, equalise
from narfx.support.ranks import Ranks
from narfx.support.seeds import derive
from narfx.support.text import count
from narfx.tasks.task import Task
from narfx.training.method import Method, method_of, set_rate, state_of
from narfx.training.objective import Objective
from narfx.training.recipe import Recipe
from narfx.training.teacher import Teacher

__all__ = [
    "AfterEpoch",
    "check_diverged",
    "check_order",
    "fit",
    "parameter_names",
    "restore",
    "say_other_ranks",
    "train_step",
]

AfterEpoch: TypeAlias = Callable[[nn.Module, int, Sequence[float]], Mapping[str, Any]]
"""Called with the network, the number of the epoch (from 1) and the loss of each step; gives values for its event."""


def train_step(
    module: nn.Module, optimizer: torch.optim.Optimizer, objective: Objective, x: Tensor, y: Tensor, clip: float,
    ranks: Ranks | None = None,
) -> float:  # fmt: skip
    """One step of ``module`` on one batch of images ``x`` (B, C, H, W) with labels ``y`` (B,); returns the loss.

    Each rank has images of its own: gradients and loss are averaged, and all make the same step
    (:func:`~narfx.support.collectives.average_gradients`).

    Raises:
        RunError: The loss or the gradient is not finite; this step changed nothing.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = objective(module, x, y)
    loss.backward()
    steps = [p for group in optimizer.param_groups for p in group["params"]]
    value = average_gradients(ranks or Ranks(), steps, float(loss.detach()), len(x))
    if not math.isfinite(value):
        raise RunError(
            f"the loss became {value}: lower the learning rate (--lr)",
            kind="nan_loss",
        )
    active = [p for p in steps if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(active, clip)
    if not torch.isfinite(norm):
        raise RunError(
            f"the gradient became {float(norm)}: lower the learning rate (--lr)",
            kind="nan_loss",
        )
    optimizer.step()
    return value


def fit(
    network: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    seed: int = 0,
    folder: RunFolder | None = None,
    reporter: Reporter | None = None,
    label: str = "train",
    trained: bool = False,
    objective: Objective | None = None,
    ranks: Ranks | None = None,
    method: Method | None = None,
    after_epoch: AfterEpoch | None = None,
) -> dict[str, Any]:
    """Train ``network`` in place and evaluate it on the validation part and, where there is one, the test part.

    Args:
        network: A graph or any other module that fits the task.
        task: The data and the metric.
        recipe: Epochs, learning rates and the like.
        seed: Decides the order of the images, their augmentation and dropout.
        folder: Where each epoch writes an event and a checkpoint; training resumes from a checkpoint that is there.
        reporter: Shows how far the training is.
        label: What the reporter calls it.
        trained: Whether the network has learnt something: a head of the task is then made to fit it.
        objective: What is minimised, the task's own loss by default. Of its weights only the network's and the task's
            head are trained and checkpointed.
        ranks: Each rank gets its share of each batch; all start from the same weights, and keep the same ones.
        method: The optimizer and the learning rate; those of the recipe by default.
        after_epoch: Looks at the network after each epoch. It may set modes, but changes neither weights nor
            BatchNorm statistics.

    Returns:
        ``{"epochs", "loss", "metric", "val": {"accuracy", "loss", "images"}, "test": ...}``.
    """
    reporter, loss_of, ranks = reporter or Silent(), objective or task.objective, ranks or Ranks()
    task.precision.arrange(network)
    trains = nn.ModuleList([network, task.head])
    method = method or method_of(recipe)
    optimizer = method.optimizer(trains)
    state = folder.load() if folder is not None else None
    first, loss = 0, math.nan
    if state is None:
        task.start(seed, network if trained else None)
    else:
        check_order(folder, trains, state.get("parameters"))
        restore(
            folder, (network, state["network"]), (task.head, state["head"]), (optimizer, state["optimizer"])
        )  # fmt: skip
        first, loss = state["epoch"], state["loss"]
        say_other_ranks(reporter, ranks, state.get("ranks", 1))
    equalise(ranks, trains)
    started = time.monotonic()
    for epoch in range(first, recipe.epochs):
        said = f"{label}: epoch {epoch + 1}"
        losses = _epoch(network, optimizer, method, task, loss_of, recipe, epoch, seed, reporter, said, ranks)
        loss = sum(losses) / len(losses)
        average_buffers(ranks, trains)
        reporter.say(f"{label}: epoch {epoch + 1}/{recipe.epochs}, loss {loss:.4f}")
        check_diverged(network, task.head)
        more = {} if after_epoch is None else after_epoch(network, epoch + 1, losses)
        if folder is not None:
            folder.write(Epoch(epoch=epoch + 1, loss=loss, lr=optimizer.param_groups[0]["lr"], more=more))
            folder.save(
                {
                    "network": network.state_dict(),
                    "head": task.head.state_dict(),
                    "optimizer": state_of(optimizer),
                    "parameters": parameter_names(trains),
                    "epoch": epoch + 1,
                    "loss": loss,
                    "ranks": ranks.size,
                }
            )
    network.eval()
    task.precision.release(network)
    check_diverged(network)
    metrics: dict[str, Any] = {
        "epochs": recipe.epochs,
        "loss": loss,
        "metric": task.metric,
        "val": task.evaluate(network, "val", ranks),
    }
    if isinstance(objective, Teacher):
        metrics["teacher"] = objective.describe()
    if task.data.test is not None:
        metrics["test"] = task.evaluate(network, "test", ranks)
    if not all(math.isfinite(metrics[part]["loss"]) for part in ("val", "test") if part in metrics):
        raise RunError(
            "the trained network gives NaN: lower the learning rate (--lr) and start a new run", kind="nan_loss"
        )
    shown = ", ".join(f"{part} {metrics[part]['accuracy']:.4f}" for part in ("val", "test") if part in metrics)
    reporter.say(
        f"{label}: {count(recipe.epochs, 'epoch')}, loss {loss:.4f}, {task.metric} {shown} "
        f"({time.monotonic() - started:.0f} s)"
    )
    return metrics


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Method,
    task: Task,
    objective: Objective,
    recipe: Recipe,
    epoch: int,
    seed: int,
    reporter: Reporter,
    label: str,
    ranks: Ranks,
) -> list[float]:
    """One epoch; returns the loss of each step."""
    train_mode(network)
    torch.manual_seed(derive(ranks.seed(seed), "dropout", epoch))
    steps = task.steps_per_epoch
    losses: list[float] = []
    batches = task.train_batches(derive(seed, "epoch", epoch), ranks)
    for step, (x, y) in enumerate(reporter.track(batches, steps, label)):
        set_rate(optimizer, method.rate(epoch + step / steps))
        losses.append(train_step(network, optimizer, objective, x, y, recipe.clip, ranks))
    return losses


def say_other_ranks(reporter: Reporter, ranks: Ranks, before: int) -> None:
    """Say so where a run goes on with another number of ranks than it was saved with."""
    if before != ranks.size:
        reporter.say(
            f"this run was saved by {count(before, 'rank')} and goes on with {ranks.size}: the steps and the learning "
            "rates stay, but the images of a step are divided otherwise, so the result is not the same bytes"
        )


def check_diverged(*modules: nn.Module) -> None:
    """Raise ``RunError`` if a weight or statistic is NaN or infinite: no checkpoint may hold one."""
    for name, tensor in (entry for module in modules for entry in module.state_dict().items()):
        if not torch.isfinite(tensor).all():
            raise RunError(
                f"{name} became NaN or infinite: lower the learning rate (--lr)",
                where=name,
                kind="nan_loss",
            )


def parameter_names(module: nn.Module) -> list[str]:
    """The names of the parameters in their order, which is the order of an optimizer's state."""
    return [name for name, _ in module.named_parameters()]


def check_order(folder: RunFolder | None, module: nn.Module, saved: list[str] | None) -> None:
    """Refuse a checkpoint whose optimizer state would go to other parameters.

    Raises:
        UsageError: The names that were saved with it are missing (older versions of narfx saved none, and had another
            order), or are not the module's.
    """
    if saved != parameter_names(module):
        where = str(folder.path) if folder is not None else None
        cause = "an older version of narfx wrote it" if saved is None else "the model has changed since"
        raise UsageError(
            f"the checkpoint in {where} does not fit this network, because {cause}: start a new run",
            where=where,
            kind="checkpoint_mismatch",
        )


def restore(folder: RunFolder | None, *parts: tuple[Any, Any]) -> None:
    """Load the state of each part from the run's checkpoint.

    Raises:
        UsageError: A state does not fit: the model has changed since the checkpoint was written.
    """
    for part, state in parts:
        try:
            part.load_state_dict(state)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            where = str(folder.path) if folder is not None else None
            raise UsageError(
                f"the checkpoint in {where} does not fit this network: the model has changed since; start a new run",
                where=where,
                kind="checkpoint_mismatch",
            ) from error
