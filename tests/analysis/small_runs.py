"""Runs of searches on a table of rewards, and how a refusal of an analysis is read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from command import Run as Cli

from narfx.runs.folder import RunFolder
from narfx.search import Result, make_strategy
from narfx.space.space import SearchSpace

SPACE = SearchSpace.uniform(4, 3, skips=True)


def search(path: Path, strategy: str, steps: int, space: SearchSpace = SPACE, **options: Any) -> Path:
    """The run directory of a search on a table: its configuration and its events."""
    with RunFolder.create(path, {"strategy": strategy}) as folder:
        made = make_strategy(strategy, space, **options)
        folder.event("weights", epoch=1, loss=1.0)
        for _ in range(steps):
            proposals = made.ask(5)
            earned = [0.5 + 0.1 * math.sin(sum(i * k for i, k in enumerate(p.vector))) for p in proposals]
            metrics = made.tell(proposals, [Result(reward) for reward in earned])
            folder.event("step", epoch=1, vectors=[list(p.vector) for p in proposals], rewards=earned, **metrics)
    return path


def enas_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return search(tmp_path_factory.mktemp("runs") / "enas", "enas", 12)


def refused(narfx: Cli, *arguments: str, kind: str) -> str:
    code, out, err = narfx("analyze", *arguments, "--json")
    error = json.loads(out)["error"]
    assert (code, error["code"], error["kind"]) == (2, 2, kind)
    assert "Traceback" not in err
    assert err.count("\n") == 1
    return str(error["message"])
