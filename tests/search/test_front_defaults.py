"""What a search for a front does by default where a trained base is given: its shared weights keep the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from small_search import CONFIG
from trained_base import train_base

from narfx.runs.events import Distilled, Step, Weights, read_events
from narfx.search import SearchConfig, estimate_search, run
from narfx.space.front_file import Front

SMALL = {key: CONFIG[key] for key in ("model", "input", "data", "data_fraction", "batch_size", "augment")}
TRAINED: dict[str, Any] = {**SMALL, "weights": "base.safetensors"}


def made(**values: Any) -> tuple[str, float, int, int]:
    config = SearchConfig(**TRAINED | values)
    return config.prepare, config.lr, config.pretrain_epochs, config.epochs


@pytest.mark.parametrize(
    "values",
    [{"strategy": "ddas"}, {"strategy": "nsga2"}, *({"strategy": s, "front": "macs"} for s in ("random", "nar"))],
)
def test_a_search_for_a_front_distils_and_trains_gently(values: dict[str, Any]) -> None:
    assert made(**values) == ("distil", 0.01, 2, 30)
    assert made(**values, quick=True) == ("distil", 0.01, 2, 4)
    assert made(**values, epochs=2) == ("distil", 0.01, 1, 2)
    # What is given goes before.
    assert made(**values, prepare="uniform", lr=0.2) == ("uniform", 0.2, 3, 30)
    assert made(**values, pretrain_epochs=5) == ("distil", 0.01, 5, 30)
    # A schedule has a learning rate of its own, and an own optimizer is refused without one, as everywhere.
    assert made(**values, schedule="search")[1] == 0.1
    with pytest.raises(ValidationError, match="--optimizer needs --lr"):
        made(**values, optimizer="torch.optim:AdamW")


@pytest.mark.parametrize(
    "values",
    [
        {"strategy": "nar"}, {"strategy": "evolution"}, {"strategy": "ddas", "weights": None},
        {"strategy": "ddas", "init": "scratch"}, {"strategy": "random", "front": "macs", "search_skips": True},
    ],
)  # fmt: skip
def test_other_searches_keep_their_defaults(values: dict[str, Any]) -> None:
    assert made(**values) == ("uniform", 0.05, 3, 30)


def test_the_base_of_a_front_by_ddas_is_not_forgotten(tmp_path: Path) -> None:
    """The base itself ends the front, and the shared weights serve it better than after a uniform warm-up."""
    weights = str(train_base(tmp_path / "base"))
    common = SMALL | {"weights": weights, "strategy": "ddas", "front": "macs", "epochs": 5, "steps": 4, "t0": 5}
    common |= {"data_fraction": 0.5, "batch_size": 32}
    estimate = estimate_search(SearchConfig(**common))["message"]
    assert "in 2 of them operators learn from the base; then a learning rate of 0.01" in estimate
    run(SearchConfig(**common), tmp_path / "kept")
    run(SearchConfig(**common, prepare="uniform", lr=0.05), tmp_path / "before")
    kinds = [event["event"] for event in read_events(tmp_path / "kept")]
    assert kinds[:2] == [Distilled.kind] * 2 and {Weights.kind, Step.kind} <= set(kinds)
    front = Front.load(tmp_path / "kept" / "front.json")
    best = max(point.accuracy or 0 for point in front.points)
    assert front.base.accuracy is not None and front.base.accuracy > 0.8 and best > front.base.accuracy - 0.06
    assert shared_base(tmp_path / "kept")["loss"] < 0.8 * shared_base(tmp_path / "before")["loss"]


def shared_base(run: Path) -> dict[str, Any]:
    """The base, evaluated with the shared weights."""
    records: list[dict[str, Any]] = json.loads((run / "evaluations.json").read_text())["evaluations"]
    return next(record for record in records if not any(record["vector"]))
