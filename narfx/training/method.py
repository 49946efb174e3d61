"""How weights are stepped: the optimizer, narfx's SGD or the user's, and the learning rate over time."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from narfx.errors import UsageError
from narfx.inputs.own_code import OwnFactory, is_own, load_factory, short_name
from narfx.inputs.user_code import accepts, call, user_code
from narfx.support.text import article
from narfx.training.recipe import Recipe, sgdr

__all__ = ["Method", "check_extension", "method_facts", "method_of", "set_rate", "sgd", "state_of"]

_PEAK = "narfx_peak"  # in a group of the user's optimizer: its share of the scheduled learning rate


@dataclass(frozen=True)
class Method:
    """What makes the optimizer of a module, and the learning rate at a time in epochs.

    ``needs_epochs`` says that the learning rate depends on the number of epochs, so that a run cannot be extended.
    """

    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    rate: Callable[[float], float]
    needs_epochs: bool = False

    def check(self, module: nn.Module) -> None:
        """Make an optimizer once before anything is written, because the user's factory may refuse the module.

        Raises:
            UsageError: It does.
        """
        self.optimizer(module)


def method_of(recipe: Recipe, *, relative_to: Path | None = None) -> Method:
    """The method of a recipe; the user's own factories are imported now.

    Raises:
        UsageError: A factory is missing, fails, or gives something else than it should.
    """
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = partial(sgd, recipe=recipe)
    if recipe.optimizer is not None:
        own = load_factory(recipe.optimizer, "--optimizer", relative_to=relative_to)
        optimizer = partial(_own_optimizer, recipe=recipe, own=own)
    if not is_own(recipe.schedule):
        rate = partial(sgdr, lr=recipe.lr, lr_min=recipe.lr_min, t0=recipe.t0, tmult=recipe.tmult)
        return Method(optimizer, rate)
    schedule = load_factory(str(recipe.schedule), "--schedule", relative_to=relative_to)
    return Method(optimizer, _own_rate(schedule, recipe), accepts(schedule.factory, "epochs"))


def check_extension(recipe: Recipe, *, relative_to: Path | None = None) -> None:
    """Refuse more epochs for a run whose learning rates so far would have been others with them.

    Raises:
        UsageError: The schedule is the user's and takes ``epochs``.
    """
    if method_of(recipe, relative_to=relative_to).needs_epochs:
        raise UsageError(
            f"the schedule {recipe.schedule} depends on the number of epochs, so this run cannot be extended: start a "
            "new one from its weights (--weights)",
            where="--epochs",
            kind="schedule_needs_epochs",
        )


def method_facts(config: Any) -> dict[str, str]:
    """What a result says of its configuration beside the numbers, by option: all that is not narfx's usual way.

    That is the user's own optimizer, schedule and augmentation, without folders, and a precision other than fp32.
    """
    named = {name: getattr(config, name) for name in ("optimizer", "schedule", "augment")}
    own = {name: short_name(text) for name, text in named.items() if is_own(text)}
    return own if config.precision == "fp32" else {**own, "precision": config.precision}


def sgd(module: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD over all parameters that require a gradient; a step changes only those that have one in this step."""
    return torch.optim.SGD(
        _learning(module),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group; groups of the user's optimizer keep their ratio."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[_PEAK] if _PEAK in group else rate


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state for a checkpoint.

    Raises:
        UsageError: It holds an object that is neither a tensor nor a plain value: a checkpoint is read without
            running code.
    """
    state: dict[str, Any] = optimizer.state_dict()
    foreign = _foreign(state)
    if foreign is not None:
        raise UsageError(
            f"the state of {type(optimizer).__name__} holds {article(foreign)}: a checkpoint takes tensors, numbers, "
            "texts, lists and dicts",
            where="--optimizer",
            kind="optimizer_state",
        )
    return state


def _learning(module: nn.Module) -> list[nn.Parameter]:
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not learning:
        raise UsageError("the network has no parameter that requires a gradient: unfreeze some of it", kind="frozen")
    return learning


def _own_optimizer(module: nn.Module, recipe: Recipe, own: OwnFactory) -> torch.optim.Optimizer:
    learning = _learning(module)
    bound = partial(own.factory, learning)
    known = {name: getattr(recipe, name) for name in ("lr", "momentum", "weight_decay") if accepts(bound, name)}
    made = call(bound, {**known, **own.arguments}, own.label)
    if not isinstance(made, torch.optim.Optimizer):
        raise UsageError(
            f"{own.label} returned {article(made)}: it must return a torch.optim.Optimizer", where="--optimizer",
            kind="factory_result",
        )  # fmt: skip
    if "closure" in (step := inspect.signature(made.step).parameters) and step["closure"].default is inspect._empty:
        raise UsageError(
            f"{own.label} needs a closure that computes the loss again, but narfx makes one pass for each step: "
            "choose another optimizer",
            where="--optimizer",
            kind="optimizer_closure",
        )
    steps = {id(parameter) for group in made.param_groups for parameter in group["params"]}
    if not steps or steps - {id(parameter) for parameter in learning}:
        raise UsageError(
            f"{own.label} must step the parameters that it is given, all or some of them, and no others",
            where="--optimizer",
            kind="factory_result",
        )
    for group in made.param_groups:
        group[_PEAK] = float(group["lr"]) / recipe.lr
    return made


def _own_rate(own: OwnFactory, recipe: Recipe) -> Callable[[float], float]:
    known = {name: getattr(recipe, name) for name in ("epochs", "lr", "lr_min") if accepts(own.factory, name)}
    schedule = call(own.factory, {**known, **own.arguments}, own.label)
    if not callable(schedule):
        raise UsageError(
            f"{own.label} returned {article(schedule)}: it must return a function of the time in epochs that gives "
            "the learning rate",
            where="--schedule",
            kind="factory_result",
        )

    def rate(time: float) -> float:
        with user_code(f"{own.label} failed at {time:g} epochs", where="--schedule", kind="schedule_failed"):
            value = float(schedule(time))
        if not math.isfinite(value) or value < 0:
            raise UsageError(
                f"{own.label} gives the learning rate {value} at {time:g} epochs: it must be a number of at least 0",
                where="--schedule",
                kind="schedule_failed",
            )
        return value

    rate(0.0)
    return rate


def _foreign(value: Any) -> Any:
    """The first object in a state that is neither a tensor nor plain, else ``None``."""
    if value is None or type(value) in (bool, int, float, str, torch.Tensor, nn.Parameter):
        return None
    inner = [*value, *value.values()] if type(value) is dict else value if type(value) in (list, tuple) else None
    if inner is None:
        return value
    return next((found for entry in inner if (found := _foreign(entry)) is not None), None)
