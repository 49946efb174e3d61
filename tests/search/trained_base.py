"""A base that has learnt scikit-learn's digits in a second, and searches that measure it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_search import CONFIG

from narfx.search import SearchConfig
from narfx.verbs.train import TrainConfig, train

__all__ = ["solving", "train_base"]

MODEL = CONFIG["model"]


def train_base(folder: Path) -> Path:
    """Train it; returns the file of weights."""
    config = TrainConfig(
        target=MODEL, input=(1, 8, 8), data="digits", data_fraction=0.5, batch_size=32, augment="none", epochs=6, t0=6
    )  # fmt: skip
    return Path(train(config, folder)["files"]["weights"])


def solving(weights: Path | None, **changes: Any) -> SearchConfig:
    """A search by scores that takes a second."""
    values = {key: value for key, value in CONFIG.items() if key not in ("init", "epochs", "pretrain_epochs", "steps")}
    values |= {"strategy": "solve", "score_images": 128, "strategy_options": {"count": 3, "check": 6}}
    return SearchConfig(**{**values, "weights": None if weights is None else str(weights), **changes})
