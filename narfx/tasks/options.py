"""Which data a command works on, and the task that they make."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field

from narfx.paths import find_source
from narfx.tasks.classification import Classification
from narfx.tasks.data import load_data

__all__ = ["DataOptions", "open_task"]


class DataOptions(BaseModel):
    """A data source and how much of it is used; ``augment`` is what suits the data where it is not given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = "digits"
    val_data: str | None = None
    data_fraction: float = Field(default=1.0, gt=0, le=1)
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    augment: str | None = None
    batch_size: int = Field(default=128, ge=1)


def open_task(
    options: DataOptions,
    input_shape: tuple[int, int, int],
    *,
    seed: int,
    device: torch.device,
    label_smoothing: float = 0.0,
    relative_to: Path | None = None,
) -> Classification:
    """Load the data for a network of this input shape and make a classification task of them.

    Raises:
        UsageError: The data are missing, malformed or do not fit together.
    """
    data = load_data(
        find_source(options.data, relative_to),
        input_shape,
        seed=seed,
        fraction=options.data_fraction,
        val_data=None if options.val_data is None else find_source(options.val_data, relative_to),
        val_fraction=options.val_fraction,
        device=device,
    )
    return Classification(data, batch_size=options.batch_size, augment=options.augment, label_smoothing=label_smoothing)
