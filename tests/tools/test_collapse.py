"""The tool that shows a collapse: its random genotypes, what it counts, and that a second call trains nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import collapse
import numpy as np
import pytest
from sklearn.datasets import load_digits

from narfx.space.records import Slot
from narfx.space.space import SearchSpace


def test_random_genotypes_have_two_different_edges_a_node() -> None:
    seen = set()
    for seed in range(40):
        genotype = collapse.random_genotype("s3", seed)
        for kind in ("normal", "reduce"):
            edges = genotype.edges(kind)
            assert len(edges) == 8 and {name for name, _ in edges} <= {"skip_connect", "sep_conv_3x3"}
            assert all(edges[2 * k][1] != edges[2 * k + 1][1] for k in range(4))
        seen.add(genotype.text())
        assert collapse.skips(genotype) == sum(name == "skip_connect" for name, _ in genotype.normal)
    assert len(seen) == 40


def test_the_share_of_a_skip_is_that_of_the_normal_cell_without_none() -> None:
    names = ("none", "sep_conv_3x3", "skip_connect")
    slots = [Slot(f"{kind} 0->2", (), (0, 1, 2), {}, {}, choices=names) for kind in ("normal", "reduce", "normal")]
    found = collapse.mean_probabilities(SearchSpace((), tuple(slots)), [[0.5, 0.1, 0.4], [0, 1, 0], [0.1, 0.7, 0.2]])
    assert found == pytest.approx({"none": 0.3, "sep_conv_3x3": 0.4, "skip_connect": 0.3})
    assert collapse.share(found) == pytest.approx(0.3 / 0.7)


def test_the_whole_is_kept_and_a_second_call_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_digits()
    images = (digits.images[:, :, :, None] * 15).astype(np.uint8)
    np.savez(tmp_path / "d.npz", x_train=images[:200], y_train=digits.target[:200], x_test=images[200:300],
             y_test=digits.target[200:300])  # fmt: skip
    words = ["--data", str(tmp_path / "d.npz"), "--out", str(tmp_path / "out"), "--images", "128", "--cells", "3",
             "--channels", "2", "--epochs", "2", "--train-epochs", "1", "--batch", "32", "--randoms", "1", "--seeds",
             "1", "--spaces", "s2", "--model", "in_channels=1"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["collapse.py", *words])
    collapse.main()
    first = capsys.readouterr().out
    rows = [line for line in first.splitlines() if line.startswith("| s2")]
    assert [row.split("|")[2].strip() for row in rows] == ["darts", "stacnas", "1 random"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("checkpoint.pt")}
    collapse.main()
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("| s2")] == rows
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("checkpoint.pt")}
