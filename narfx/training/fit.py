"""Stand-alone training of one network by SGD with warm restarts (SGDR, Loshchilov and Hutter, arXiv 1608.03983)."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from narfx.errors import RunError, UsageError
from narfx.graph.frozen import train_mode
from narfx.runs.folder import RunFolder
from narfx.runs.progress import Reporter, Silent
from narfx.support.seeds import derive
from narfx.tasks.task import Task
from narfx.training.recipe import Recipe, sgdr

__all__ = ["check_diverged", "fit", "restore", "set_rate", "sgd", "train_step"]


def sgd(module: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD over all parameters that learn; one without a gradient in a step is left alone by momentum and decay."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not learning:
        raise UsageError("the network has no parameter that requires a gradient", kind="frozen")
    return torch.optim.SGD(
        learning,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )


def train_step(
    module: nn.Module, optimizer: torch.optim.Optimizer, task: Task, x: Tensor, y: Tensor, clip: float
) -> float:
    """One step of ``module`` on one batch; returns the loss.

    Raises:
        RunError: The loss is not finite; nothing was changed by this step.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = task.loss(task.precision.train(module, x), y)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise RunError(
            f"the loss became {value}: lower the learning rate (--lr); the last checkpoint is kept",
            kind="nan_loss",
        )
    loss.backward()
    active = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(active, clip)
    if not torch.isfinite(norm):
        raise RunError(
            f"the gradient became {float(norm)}: lower the learning rate (--lr); the last checkpoint is kept",
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
) -> dict[str, Any]:
    """Train ``network`` in place and evaluate it on the validation part and, where there is one, the test part.

    With a ``folder`` each epoch ends with an event and a checkpoint, and training goes on from the one that is there.
    A task with a head starts it afresh, to suit the network where that is ``trained`` already.

    Returns:
        ``{"epochs", "loss", "metric", "val": {"accuracy", "loss", "images"}, "test": ...}``.
    """
    reporter = reporter or Silent()
    task.precision.arrange(network)
    optimizer = sgd(nn.ModuleList([network, task.head]), recipe)
    state = folder.load() if folder is not None else None
    first, loss = 0, math.nan
    if state is None:
        task.start(seed, network if trained else None)
    else:
        restore(
            folder, (network, state["network"]), (task.head, state["head"]), (optimizer, state["optimizer"])
        )  # fmt: skip
        first, loss = state["epoch"], state["loss"]
    started = time.monotonic()
    for epoch in range(first, recipe.epochs):
        loss = _epoch(network, optimizer, task, recipe, epoch, seed, reporter, f"{label}: epoch {epoch + 1}")
        reporter.say(f"{label}: epoch {epoch + 1}/{recipe.epochs}, loss {loss:.4f}")
        check_diverged(network, task.head)
        if folder is not None:
            folder.event("epoch", epoch=epoch + 1, loss=loss, lr=optimizer.param_groups[0]["lr"])
            folder.save(
                {
                    "network": network.state_dict(),
                    "head": task.head.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "epoch": epoch + 1,
                    "loss": loss,
                }
            )
    network.eval()
    check_diverged(network)
    metrics: dict[str, Any] = {
        "epochs": recipe.epochs,
        "loss": loss,
        "metric": task.metric,
        "val": task.evaluate(network, "val"),
    }
    if task.data.test is not None:
        metrics["test"] = task.evaluate(network, "test")
    if not all(math.isfinite(metrics[part]["loss"]) for part in ("val", "test") if part in metrics):
        raise RunError("the trained network gives NaN: lower the learning rate (--lr) and start again", kind="nan_loss")
    shown = ", ".join(f"{part} {metrics[part]['accuracy']:.4f}" for part in ("val", "test") if part in metrics)
    reporter.say(
        f"{label}: {recipe.epochs} epochs, loss {loss:.4f}, {task.metric} {shown} ({time.monotonic() - started:.0f} s)"
    )
    return metrics


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    recipe: Recipe,
    epoch: int,
    seed: int,
    reporter: Reporter,
    label: str,
) -> float:
    """One epoch; returns the mean loss."""
    train_mode(network)
    torch.manual_seed(derive(seed, "dropout", epoch))
    steps = task.steps_per_epoch
    losses = []
    for step, (x, y) in enumerate(reporter.track(task.train_batches(derive(seed, "epoch", epoch)), steps, label)):
        rate = sgdr(epoch + step / steps, recipe.lr, recipe.lr_min, recipe.t0, recipe.tmult)
        set_rate(optimizer, rate)
        losses.append(train_step(network, optimizer, task, x, y, recipe.clip))
    return sum(losses) / len(losses)


def check_diverged(*modules: nn.Module) -> None:
    """Raise ``RunError`` if a weight or statistic is NaN or infinite, so that no checkpoint ever holds one."""
    for name, tensor in (entry for module in modules for entry in module.state_dict().items()):
        if not torch.isfinite(tensor).all():
            raise RunError(
                f"{name} is no longer finite: lower the learning rate (--lr); the last checkpoint is kept",
                where=name,
                kind="nan_loss",
            )


def restore(folder: RunFolder | None, *parts: tuple[Any, Any]) -> None:
    """Give each part its state from the run's checkpoint.

    Raises:
        UsageError: A state does not fit, because the model has changed since the checkpoint was written.
    """
    for part, state in parts:
        try:
            part.load_state_dict(state)
        except (RuntimeError, ValueError, KeyError) as error:
            where = str(folder.path) if folder is not None else None
            raise UsageError(
                f"the checkpoint in {where} does not fit this network: the model has changed since; start a new run",
                where=where,
                kind="checkpoint_mismatch",
            ) from error


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
