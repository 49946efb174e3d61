"""How a network is trained: the schedule and its options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from narfx.support.path_fields import CodeReference
from narfx.tasks.precision import Precision, PrecisionName

__all__ = ["SCHEDULES", "Recipe", "sgdr", "without_schedule"]

SCHEDULES: dict[str, dict[str, Any]] = {
    "search": {"epochs": 150, "t0": 10, "tmult": 2, "lr": 0.1, "lr_min": 1e-4},
    "train": {"epochs": 35, "t0": 5, "tmult": 2, "lr": 0.1, "lr_min": 1e-4},
}
"""SGDR as in the NAR paper (arXiv 1905.02341): four cycles for a search, three for a training."""


class Recipe(BaseModel):
    """How a network is trained. Learning rates are for SGD with Nesterov momentum; times are epochs.

    ``schedule`` names one of :data:`SCHEDULES`, which sets the values that are not given explicitly, or the user's own
    factory of a learning rate over time; ``optimizer`` names the user's own optimizer (docs/training.md).
    ``precision`` and ``channels_last`` are those of :class:`narfx.tasks.precision.Precision`.
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
    optimizer: CodeReference | None = None
    schedule: CodeReference | None = None
    precision: PrecisionName = "fp32"
    channels_last: bool = True

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, schedule: str | None) -> str | None:
        if schedule is not None and schedule not in SCHEDULES and ":" not in schedule:
            raise ValueError(f"it must be {' or '.join(SCHEDULES)}, package.module:factory or file.py:factory")
        return schedule

    @field_validator("optimizer")
    @classmethod
    def _known_optimizer(cls, optimizer: str | None) -> str | None:
        if optimizer is not None and ":" not in optimizer:
            raise ValueError("it must be package.module:factory or file.py:factory, such as torch.optim:AdamW")
        return optimizer

    @model_validator(mode="before")
    @classmethod
    def _scheduled(cls, values: Any) -> Any:
        named = values.get("schedule") if isinstance(values, dict) else None
        return {**SCHEDULES[named], **values} if isinstance(named, str) and named in SCHEDULES else values

    @model_validator(mode="before")
    @classmethod
    def _needs_rate(cls, values: Any) -> Any:
        known = values if isinstance(values, dict) else {}
        if known.get("optimizer") is not None and "lr" not in known:
            raise ValueError(
                "--optimizer needs --lr: the schedule sets the learning rate of your optimizer, and the default is one "
                "for SGD"
            )
        return values

    def compute_precision(self, device: torch.device) -> Precision:
        """The precision of this recipe on a device.

        Raises:
            UsageError: The device does not compute in bfloat16.
        """
        return Precision(self.precision, self.channels_last, device.type)


def without_schedule(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration but those that a schedule sets, so that another schedule can set them."""
    return {key: value for key, value in values.items() if key not in SCHEDULES["train"]}


def sgdr(time: float, lr: float, lr_min: float, t0: int, tmult: int) -> float:
    """The learning rate at ``time`` epochs: a cosine from ``lr`` to ``lr_min`` over t0, t0·tmult, t0·tmult², ..."""
    start, length = 0.0, float(t0)
    while time >= start + length:
        start, length = start + length, length * tmult
    return lr_min + (lr - lr_min) * (1 + math.cos(math.pi * (time - start) / length)) / 2
