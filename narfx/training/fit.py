"""Stand-alone training of one network by SGD with warm restarts (SGDR, Loshchilov and Hutter, arXiv 1608.03983)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize

from narfx.batchnorm import batch_statistics
from narfx.errors import RunError, UsageError
from narfx.passes.lift_functional import FunctionalConv, read_functional
from narfx.progress import Reporter, Silent
from narfx.run import RunFolder
from narfx.seeds import derive
from narfx.tasks.arithmetic import Arithmetic, Precision
from narfx.tasks.task import Task

__all__ = [
    "SCHEDULES",
    "Recipe",
    "check_batches",
    "check_diverged",
    "fit",
    "kept",
    "outputs",
    "pick_device",
    "reinitialise",
    "restore",
    "set_rate",
    "sgd",
    "sgdr",
    "train_step",
]


SCHEDULES: dict[str, dict[str, Any]] = {
    "search": {"epochs": 150, "t0": 10, "tmult": 2, "lr": 0.1, "lr_min": 1e-4},
    "train": {"epochs": 35, "t0": 5, "tmult": 2, "lr": 0.1, "lr_min": 1e-4},
}
"""SGDR as the NAR paper has it (arXiv 1905.02341): four cycles for a search, three for a training."""


class Recipe(BaseModel):
    """How a network is trained. Learning rates are for SGD with Nesterov momentum; times are epochs.

    ``schedule`` names one of :data:`SCHEDULES`, which gives the values that are not given beside it. ``precision`` and
    ``channels_last`` are those of :class:`narfx.tasks.arithmetic.Arithmetic`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=35, ge=1)
    lr: float = Field(default=0.1, gt=0)
    lr_min: float = Field(default=1e-4, ge=0)
    t0: int = Field(default=5, ge=1)
    tmult: int = Field(default=2, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    clip: float = Field(default=5.0, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    schedule: Literal["search", "train"] | None = None
    precision: Precision = "fp32"
    channels_last: bool = True

    @model_validator(mode="before")
    @classmethod
    def _scheduled(cls, values: Any) -> Any:
        named = values.get("schedule") if isinstance(values, dict) else None
        return {**SCHEDULES[named], **values} if isinstance(named, str) and named in SCHEDULES else values

    def arithmetic(self, device: torch.device) -> Arithmetic:
        """How networks compute by this recipe.

        Raises:
            UsageError: The device has no bfloat16.
        """
        return Arithmetic(self.precision, self.channels_last, device.type)


def sgdr(time: float, lr: float, lr_min: float, t0: int, tmult: int) -> float:
    """The learning rate at ``time`` epochs: a cosine from ``lr`` to ``lr_min`` over t0, t0·tmult, t0·tmult², ..."""
    start, length = 0.0, float(t0)
    while time >= start + length:
        start, length = start + length, length * tmult
    return lr_min + (lr - lr_min) * (1 + math.cos(math.pi * (time - start) / length)) / 2


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
    loss = task.loss(task.arithmetic.train(module, x), y)
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
    task.arithmetic.arrange(network)
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
    network.train()
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


def reinitialise(module: nn.Module, seed: int) -> list[str]:
    """Draw fresh weights in place: He-normal for convolutions, each other layer as its class does.

    Returns:
        The names of parameters that belong to no layer with a rule, and so were left as they are.
    """
    left: list[str] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(derive(seed, "initialise"))
        functional = _functional_weights(module)
        for name, part in module.named_modules():
            if isinstance(part, nn.modules.conv._ConvNd):
                if parametrize.is_parametrized(part, "weight"):
                    fresh = nn.init.kaiming_normal_(torch.empty_like(part.weight), nonlinearity="relu")
                    part.weight = fresh  # by the inverse of its parametrization
                elif "weight" not in part._parameters:
                    left += [f"{name}.{key}".lstrip(".") for key in part._parameters]
                    continue
                else:
                    part.reset_parameters()
                    nn.init.kaiming_normal_(part.weight, nonlinearity="relu")  # by its fan-in, which counts groups
            elif callable(reset := getattr(part, "reset_parameters", None)):
                reset()
            else:
                paths = {f"{name}.{key}".lstrip("."): value for key, value in part._parameters.items()}
                for path, parameter in paths.items():
                    if parameter is None or path.rpartition(".")[0].endswith("parametrizations.weight"):
                        continue
                    if path in functional:
                        functional[path](parameter)
                    else:
                        left.append(path)
    return left


def _functional_weights(module: nn.Module) -> dict[str, Callable[[Tensor], object]]:
    """How to draw the parameters that a graph hands to functional convolutions, by their paths."""
    if not isinstance(module, GraphModule):
        module = getattr(module, "graph_module", module)
    found: dict[str, Callable[[Tensor], object]] = {}
    for conv in read_functional(module).values() if isinstance(module, GraphModule) else ():
        if isinstance(conv, FunctionalConv):
            found[conv.weight] = partial(nn.init.kaiming_normal_, nonlinearity="relu")
            if conv.bias is not None:
                found[conv.bias] = nn.init.zeros_
    return found


def kept(left: Sequence[str]) -> list[str]:
    """What to say of the parameters that ``reinitialise`` left as they were."""
    shown = ", ".join(left[:4]) + (", ..." if len(left) > 4 else "")
    return [f"kept as the model made them, for want of a rule: {shown}"] if left else []


def pick_device(name: str) -> torch.device:
    """``auto`` is a CUDA device where there is one, else the CPU.

    Raises:
        UsageError: The device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"there is no device {name!r} here: {reason}", where="--device", kind="no_device") from error
    return device


def outputs(network: nn.Module, shape: tuple[int, int, int], device: torch.device) -> int:
    """The number of logits of a classifier, or the length of an embedding, from one forward pass in eval mode.

    Raises:
        UsageError: The network is not float32, or does not give one tensor of two axes.
    """
    kinds = {str(p.dtype) for p in network.parameters() if p.dtype != torch.float32}
    if kinds:
        raise UsageError(
            f"the model's weights are {', '.join(sorted(kinds))}; narfx trains in float32: convert the model",
            kind="dtype",
        )
    network.eval()
    with torch.inference_mode():
        output = network(torch.zeros(1, *shape, device=device))
    if not isinstance(output, torch.Tensor) or output.dim() != 2:
        raise UsageError(
            "the task needs a network with one output of shape (N, classes) or (N, embedding), not "
            + (f"{tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__),
            kind="outputs",
        )
    return int(output.shape[1])


def check_batches(network: nn.Module, shape: tuple[int, int, int], device: torch.device, *sizes: int) -> None:
    """Raise ``UsageError`` if BatchNorm cannot take statistics of a batch of one of these sizes."""
    for size in sizes:
        try:
            with torch.no_grad(), batch_statistics(network):
                network(torch.zeros(size, *shape, device=device))
        except ValueError as error:
            raise UsageError(
                f"batches of {size} are too small for this network at {'x'.join(map(str, shape))}: {error}",
                where="--batch-size",
                kind="batch_size",
            ) from error
