"""The tool behind the table and the curves of fronts in docs/strategies.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from front_tables import KINDS, STRATEGIES, FrontTable

TOOL = Path(__file__).parents[2] / "tools" / "front_tables.py"


def test_the_table_and_the_curves_can_be_made(tmp_path: Path) -> None:
    figure = tmp_path / "fronts"
    done = subprocess.run(
        [sys.executable, TOOL, "--quick", "--json", "--figure", figure], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [(row["table"], row["strategy"]) for row in result["rows"]] == [
        (kind, name) for kind in KINDS for name in STRATEGIES
    ]
    for row in result["rows"]:
        means = [point["mean"] for point in row["kept"]]
        assert row["evaluations"] == 20
        assert 0 < means[0] <= 1
        assert row["table"] == "noisy" or means == sorted(means)
    assert figure.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in figure.with_suffix(".svg").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_what_it_says(kind: str) -> None:
    known = FrontTable(kind, 8, 3, seed=5)
    vectors = np.random.default_rng(0).integers(0, 3, (3000, 8))
    observed, true = known.observed(vectors), known.true(vectors)
    assert known.cost(np.zeros((1, 8), dtype=int))[0] == pytest.approx(1.0)
    assert known.space.cost(tuple(vectors[0].tolist()))["macs"] == pytest.approx(known.cost(vectors[:1])[0])
    assert (observed == true).all() == (kind != "noisy")
    smooth = FrontTable("smooth", 8, 3, seed=5).true(vectors)
    rough = (observed - smooth) / 0.05
    assert abs(rough.mean()) < 0.05
    assert rough.std() == pytest.approx(0.0 if kind == "smooth" else 0.5, abs=0.03)
    assert (known.observed(vectors[:7]) == observed[:7]).all()
