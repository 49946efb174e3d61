"""How a network is trained: the schedules, and the learning rate that they give."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from narfx.search import SearchConfig
from narfx.training.recipe import sgdr
from narfx.verbs.compare import CompareConfig

MODEL = "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10"


def test_schedules() -> None:
    """The paper's, of which what is given beside them wins."""
    assert CompareConfig(target="a.json", schedule="train").model_dump().items() >= {
        "epochs": 35, "t0": 5, "tmult": 2, "lr": 0.1, "lr_min": 1e-4
    }.items()  # fmt: skip
    config = SearchConfig.model_validate({"model": MODEL, "schedule": "search", "lr": 0.02})
    assert (config.epochs, config.t0, config.tmult, config.lr, config.lr_min) == (150, 10, 2, 0.02, 1e-4)
    assert SearchConfig.model_validate(config.model_dump()) == config
    assert (SearchConfig(model=MODEL).epochs, SearchConfig(model=MODEL).lr) == (30, 0.05)


def test_sgdr_restarts() -> None:
    """The NAR paper's schedule: T0 = 10, Tmult = 2 restarts at 10, 30 and 70 epochs."""
    rates = [sgdr(t, 0.1, 1e-4, 10, 2) for t in range(150)]
    assert [t for t in range(1, 150) if rates[t] > rates[t - 1]] == [10, 30, 70]
    assert rates[0] == rates[10] == rates[30] == rates[70] == 0.1
    assert abs(sgdr(9.9999, 0.1, 1e-4, 10, 2) - 1e-4) < 1e-6


def test_the_number_of_proposals_has_its_older_name_too() -> None:
    assert SearchConfig.model_validate({"model": MODEL, "data": "digits", "lot": 3}).proposals == 3
    with pytest.raises(ValidationError, match="lot"):
        SearchConfig.model_validate({"model": MODEL, "data": "digits", "lot": 3, "proposals": 4})
