"""The configuration of a search: one validated record, stored in the run and enough to repeat it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, FiniteFloat, field_validator, model_validator

from narfx.compiler.open import NetworkOptions, base_start
from narfx.inputs.reference import ModelRef
from narfx.latency.metric import LatencyOptions
from narfx.runs.origin import resumed_config
from narfx.tasks.options import DataOptions
from narfx.tasks.task import CALIBRATION_IMAGES
from narfx.training.initialise import random_start
from narfx.training.recipe import Recipe

__all__ = ["GENTLE_LR", "MIXTURES", "PASSES", "QUICK", "QUICK_LOOK", "Compared", "SearchConfig", "config_of_run"]

Compared = Literal["output", "standardised"]
PASSES = 2
"""Passes of distillation where nobody says otherwise: a third one makes the operators' errors hardly smaller."""
GENTLE_LR = 0.01
"""The learning rate after distillation where nobody says otherwise: at 0.05 shared weights forget the base."""
_FOR_FRONTS = ("ddas", "nsga2")
QUICK: dict[str, Any] = {"epochs": 4, "steps": 10, "finalists": 4, "max_train_images": 2000}
"""The values of ``--quick``, with one epoch of warm-up; what is given explicitly wins over them."""
_QUICK_SOLVE = {**{key: value for key, value in QUICK.items() if key not in ("epochs", "steps")}, "score_images": 512}
MIXTURES = ("darts", "gdas", "stacnas")
"""The strategies that train all operators at once from the first step, so that they need no warm-up on vectors."""
_OLDER: dict[str, Any] = {"calibration_images": 2048, "evaluation_share": 1.0}
"""How runs evaluate that began before their configurations said so."""
QUICK_LOOK = "QUICK LOOK (--quick), NOT A RESULT: "


class SearchConfig(NetworkOptions, LatencyOptions, DataOptions, Recipe):
    """A search. Learning rates are for SGD with Nesterov momentum and warm restarts (SGDR); times are epochs.

    ``epochs`` counts all epochs of shared weights, including the ``pretrain_epochs`` on uniform random vectors. Without
    ``pretrain_epochs`` there are 3 of these, or fewer in a search of less than four epochs, so that at least one is
    left for the strategy; :data:`MIXTURES` have none by default. Each epoch after the warm-up is followed by ``steps``
    steps of the strategy, each on a batch of ``proposals`` vectors and one validation minibatch of ``reward_images``
    images. Latency is a cost where it is asked for or bounded by the budget. What architectures have in common is
    computed once; for that ``reuse_memory`` MB may be kept from one to the next, and results do not depend on it.
    The evaluations at the end take at most ``evaluation_share`` of all forward passes, by fewer images where the
    search is short (:class:`~narfx.search.effort.Effort`); ``calibration_images`` are for BatchNorm's statistics.
    ``quick`` is a first look: it changes the defaults to those of :data:`QUICK`.

    Without a ``strategy`` it is ``solve`` where ``weights`` are given and no skips are searched, else ``nar``. For
    ``solve`` an epoch after the preparation is a round of scores on ``score_images`` training images. ``prepare`` says
    what the preparation does: ``uniform`` trains on random vectors, ``distil`` teaches each operator the base's
    features (:class:`~narfx.search.preparation.distil.Distil`, with ``distil_lr`` and ``distil_compare``).

    ``front`` names the costs over which the search ends with a front, as a list or joined by commas; at most
    ``front_points`` of the vectors that it tried are evaluated for it. Then the default budget is none.

    A front needs shared weights that still know the base, or its dear points are poor. So with ``weights`` and without
    searched skips, a search with a ``front``, and any by ``ddas`` or ``nsga2``, has the defaults ``prepare`` =
    ``distil``, :data:`PASSES` of ``pretrain_epochs``, and ``lr`` = :data:`GENTLE_LR`.
    """

    strategy: str = "nar"
    strategy_options: dict[str, Any] = Field(default_factory=dict)
    init: Literal["base", "scratch"] = "base"
    budget: str = "macs<=0.8x"
    norms: Literal["shared", "separate"] = "shared"
    prepare: Literal["uniform", "distil"] = "uniform"
    distil_lr: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    distil_compare: Compared = "standardised"
    score_images: int = Field(default=2048, ge=2)
    epochs: int = Field(default=30, ge=1)
    pretrain_epochs: int = Field(default=3, ge=0)
    steps: int = Field(default=50, ge=1)
    proposals: int = Field(default=5, ge=1)
    reward_images: int = Field(default=256, ge=1)
    reuse_memory: int = Field(default=1024, ge=0)
    front: tuple[str, ...] = ()
    front_points: int = Field(default=20, ge=2)
    finalists: int = Field(default=10, ge=1)
    randoms: int = Field(default=8, ge=8)
    calibration_images: int = Field(default=CALIBRATION_IMAGES, ge=2)
    evaluation_share: float = Field(default=0.1, gt=0, le=1, allow_inf_nan=False)
    lr: FiniteFloat = Field(default=0.05, gt=0)
    t0: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0)
    quick: bool = False

    @property
    def base_is_trained(self) -> bool:
        """Whether the base starts with weights that may have learnt something, so that its accuracy means anything."""
        return self.init == "base" and (self.weights is not None or ModelRef.parse(self.model).may_be_trained)

    @property
    def starting_weights(self) -> str:
        """What the search starts from, in words."""
        return random_start(self.seed) if self.init == "scratch" else base_start(self.model, self.weights)

    @field_validator("front", mode="before")
    @classmethod
    def _several(cls, front: Any) -> Any:
        names = [name.strip().lower() for name in front.split(",")] if isinstance(front, str) else front
        if isinstance(names, (list, tuple)) and len(set(map(str, names))) < len(names):
            raise ValueError(f"it names each cost once, not {', '.join(map(str, names))}")
        return names

    def wanted(self, budget: str = "none") -> bool:
        """Whether latency is asked for, bounded, or one of the costs of the front."""
        return super().wanted(budget) or "latency" in self.front

    @model_validator(mode="before")
    @classmethod
    def _short(cls, values: Any) -> Any:
        if isinstance(values, dict) and "lot" in values and "proposals" not in values:  # its older name
            values = {"proposals": values["lot"], **{key: value for key, value in values.items() if key != "lot"}}
        if isinstance(values, dict) and values.get("front"):
            values = {"budget": "none", **values}
        quick = isinstance(values, dict) and values.get("quick") is True
        if isinstance(values, dict) and "strategy" not in values and _trained(values):
            values = {**values, "strategy": "solve"}
        if isinstance(values, dict) and values.get("strategy") == "solve":
            return _solving({**_QUICK_SOLVE, **values} if quick else values)
        values = {**QUICK, **values} if quick else values
        if isinstance(values, dict) and _keeps_base(values):
            # A schedule sets the rate itself, and an optimizer of the user's needs one of its own.
            rated = values.get("schedule") is not None or values.get("optimizer") is not None
            values = {"prepare": "distil", **({} if rated else {"lr": GENTLE_LR}), **values}
        if isinstance(values, dict) and values.get("prepare") == "distil" and "pretrain_epochs" not in values:
            values = {**values, "pretrain_epochs": _passes(values.get("epochs"))}
        if isinstance(values, dict) and "pretrain_epochs" not in values and isinstance(values.get("epochs"), int):
            known = 1 if quick else cls.model_fields["pretrain_epochs"].default
            known = 0 if values.get("strategy") in MIXTURES else known
            return {**values, "pretrain_epochs": max(0, min(known, values["epochs"] - 1))}
        return values


def config_of_run(run: Path) -> SearchConfig:
    """The configuration of the run in a folder; an older run evaluates on, as it began, with all images.

    Raises:
        UsageError: The configuration is not the one that the run began with.
    """
    config = resumed_config(run, SearchConfig)
    return config.model_copy(
        update={name: value for name, value in _OLDER.items() if name not in config.model_fields_set}
    )


def _trained(values: dict[str, Any]) -> bool:
    """Whether a search starts from weights that its user names, so that operators can learn from the base."""
    return bool(values.get("weights")) and values.get("init", "base") == "base" and not values.get("search_skips")


def _keeps_base(values: dict[str, Any]) -> bool:
    """Whether a search on shared weights should end with a front beside a trained base."""
    return _trained(values) and (bool(values.get("front")) or values.get("strategy") in _FOR_FRONTS)


def _passes(epochs: Any) -> int:
    return max(min(PASSES, epochs - 1), 0) if isinstance(epochs, int) else PASSES


def _solving(values: dict[str, Any]) -> dict[str, Any]:
    """The defaults of a search that measures and solves: distilled operators, then one round."""
    values = {"prepare": "distil", **values}
    if values.get("pretrain_epochs") is None:
        values["pretrain_epochs"] = _passes(values.get("epochs"))
    passes = values["pretrain_epochs"]
    return {"epochs": passes + 1, **values} if isinstance(passes, int) else values
