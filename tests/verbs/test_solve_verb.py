"""``narfx solve`` and what begins with a prepared supernet: other budgets, fronts, bad input."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from command import Run, RunJson, in_process, in_process_json
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))
from trained_base import solving, train_base

from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.search import run
from narfx.space.budget import Budget, budget_range
from narfx.verbs.compare import CompareConfig, compare
from narfx.verbs.solve import solve


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search by scores, with the folder of its base."""
    folder = tmp_path_factory.mktemp("solved")
    operators = ("base", "dwsep3x3", "avgpool3x3")
    run(solving(train_base(folder / "base"), pretrain_epochs=1, epochs=2, operators=operators), folder / "run")
    return folder / "run"


@pytest.fixture
def narfx(capfd: pytest.CaptureFixture[str]) -> Run:
    return in_process(capfd)


@pytest.fixture
def narfx_json(capfd: pytest.CaptureFixture[str]) -> RunJson:
    return in_process_json(capfd)


def test_another_budget_is_an_architecture_with_its_weights(
    searched: Path, tmp_path: Path, narfx_json: RunJson
) -> None:
    code, found, _ = narfx_json(
        "solve", str(searched), "--budget", "macs<=0.5x,params<=0.8x", "--count", "2", "--out", str(tmp_path / "half")
    )
    assert code == 0
    (point,) = found["points"]
    assert point["macs"] <= 0.5 * found["base"]["macs"] and point["params"] <= 0.8 * found["base"]["params"]
    assert found["prediction"]["vectors"] >= 2 and 0 <= point["predicted_accuracy"] <= 1 and point["evaluated"] == 2
    code, again, _ = narfx_json("evaluate", point["files"]["arch"], "--data", "digits", "--part", "test")
    assert code == 0 and again["accuracy"] > 0.2
    code, report, _ = narfx_json("apply", point["files"]["arch"], "--out", str(tmp_path / "bundle"))
    assert code == 0 and report["macs"] == point["macs"]


def test_a_range_is_a_front(searched: Path, tmp_path: Path, narfx: Run) -> None:
    out = tmp_path / "front"
    code, shown, _ = narfx("solve", str(searched), "--budget", "macs<=0.2x..0.8x", "--points", "4", "--out", str(out))
    assert code == 0 and "macs<=0.4x" in shown and "prediction: Kendall's tau" in shown
    result = json.loads((out / "solve.json").read_text())
    costs = [point["macs"] for point in result["points"]]
    assert costs == sorted(costs) and len(costs) == 4
    assert all(Path(point["files"]["arch"]).is_file() for point in result["points"])
    assert (out / "front.png").read_bytes()[:4] == b"\x89PNG" and b"<svg" in (out / "front.svg").read_bytes()
    code, shown, _ = narfx(
        "solve", str(searched), "--budget", "macs<=0.01x..0.8x", "--points", "2", "--out", str(tmp_path / "two")
    )
    assert code == 0 and "note: macs<=0.01x: no architecture meets" in shown


def test_every_network_of_a_comparison_starts_from_the_prepared_operators(searched: Path, tmp_path: Path) -> None:
    arch = json.loads((searched / "arch.json").read_text())
    config = CompareConfig(
        target=str(searched / "arch.json"), data="digits", data_fraction=0.25, batch_size=64, augment="none",
        init="prepared", teacher="base", epochs=1, lr=1e-12, lr_min=0.0, seeds=1, randoms=1,
    )  # fmt: skip
    result = compare(config, tmp_path / "compare")
    rows = {row["name"]: row for row in result["rows"]}
    # With no learning rate they are what the search left, but for the statistics of BatchNorm.
    assert rows["refined"]["mean"] > rows["random 1"]["mean"] > 0.1 and rows["refined"]["vector"] == arch["vector"]
    metrics = json.loads((tmp_path / "compare" / "runs" / "refined-0" / "metrics.json").read_text())
    assert metrics["teacher"]["model"] == "base"
    assert json.loads((tmp_path / "compare" / "config.json").read_text())["prepared"]


def damaged(searched: Path, tmp_path: Path, name: str, change: Any) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(searched, copy)
    # Paths in the configuration start at the run.
    values = json.loads((copy / name).read_text())
    change(values)
    (copy / name).write_text(json.dumps(values))
    return copy


def other_space(values: Any) -> None:
    values["fingerprint"] = "0" * 16
    values["slots"][1]["choices"][1] = "conv5x5"


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda v: v.update(images=-3), "malformed_scores", "images"),
        (lambda v: v["slots"][0].update(scores=["low", 1, 2, 3]), "malformed_scores", "slots.0.scores.0"),
        (lambda v: v.update(slots=[], around=[]), "fingerprint", "first difference: no slot with nothing there"),
        (other_space, "fingerprint", "first difference: stages.0.0.conv2 with base, conv5x5"),
    ],
)
def test_scores_that_make_no_sense_are_refused(
    searched: Path, tmp_path: Path, change: Any, kind: str, said: str
) -> None:
    copy = damaged(searched, tmp_path, "scores.json", change)
    shutil.copytree(searched.parent / "base", tmp_path / "base", dirs_exist_ok=True)
    with pytest.raises(UsageError, match=said) as caught:
        solve(copy, tmp_path / "out", budget="macs<=0.5x")
    assert caught.value.kind == kind and not (tmp_path / "out").exists()


def test_what_cannot_be_solved_is_said_and_nothing_is_written(searched: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments, error, said in (
        ({"budget": "macs<=0.01x"}, InfeasibleBudgetError, "the cheapest has"),
        ({"budget": "macs<=0.01x..0.02x"}, InfeasibleBudgetError, "meets any of"),
        ({"budget": "speed<=2"}, UsageError, "bounds 'speed'"),
        ({"budget": "macs<=0.1x..0.2x,params<=1x..2x"}, UsageError, "for one metric only"),
        ({"budget": "macs<=0.1x..0.2x", "points": 1}, UsageError, "at least 2 points"),
        ({"budget": "macs<=500K..2M"}, UsageError, "have two units"),
        ({"budget": "macs<=0.5x", "count": 0}, UsageError, "--count is at least 1"),
    ):
        with pytest.raises(error, match=said):
            solve(searched, out, **arguments)
        assert not out.exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no run"):
        solve(tmp_path / "empty", out, budget="macs<=0.5x")
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(searched / "config.json", other)
    with pytest.raises(UsageError, match=r"has no result.json") as caught:
        solve(other, out, budget="macs<=0.5x")
    assert caught.value.kind == "no_scores"


def test_fewer_solutions_than_asked_for_are_all_there_are(searched: Path, tmp_path: Path) -> None:
    result = solve(searched, tmp_path / "out", budget="macs<=0.175x", count=50)
    (note,) = result["notes"]
    assert note.startswith("macs<=0.175x: only ") and note.endswith(" of 50 exist")
    assert 1 <= result["points"][0]["evaluated"] < 50


@given(st.floats(0.05, 0.5), st.floats(0.55, 1.0), st.integers(2, 12))
def test_a_range_of_budgets(low: float, high: float, points: int) -> None:
    texts = budget_range(f"params<=3M,macs<={low:.3f}x..{high:.3f}x", points)
    bounds = [Budget.parse(text, {"macs": 1000.0, "params": 1.0}).bounds["macs"] for text in texts]
    assert len(bounds) == points and bounds == sorted(bounds)
    assert [bounds[0], bounds[-1]] == pytest.approx([1000 * float(f"{end:.3f}") for end in (low, high)])
    assert all("params<=3M" in text for text in texts)
    assert budget_range("macs<=0.5x", 3) == ("macs<=0.5x",)


def test_what_the_run_reads_is_not_replaced(searched: Path) -> None:
    base = searched.parent / "base"
    with pytest.raises(UsageError, match="which would be replaced"):
        solve(searched, base, budget="macs<=0.5x", overwrite=True)
    assert (base / "weights.safetensors").is_file()


def test_a_run_that_reads_something_else_now_is_refused(searched: Path, tmp_path: Path) -> None:
    shutil.copytree(searched.parent, tmp_path / "all")
    path = tmp_path / "all" / "run" / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(UsageError, match="seed 1, but the run began with 0"):
        solve(tmp_path / "all" / "run", tmp_path / "out", budget="macs<=0.5x")
