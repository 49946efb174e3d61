"""The tool behind the table and the curves of fronts in docs/strategies.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import front_tables
import numpy as np
import pytest
import torch
from front_tables import KINDS, STRATEGIES, FrontTable


def test_the_table_and_the_curves_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figure, threads = tmp_path / "fronts", torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["front_tables.py", "--quick", "--json", "--figure", str(figure)])
    front_tables.main()
    torch.set_num_threads(threads)
    result = json.loads(capsys.readouterr().out)
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
