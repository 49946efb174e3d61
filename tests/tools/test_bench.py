"""The benchmark runs and says what it should; what it measures is no matter of a test."""

from __future__ import annotations

import contextlib
import io
import json
import math
from typing import Any

import bench
import pytest


@pytest.fixture(scope="module")
def result() -> Any:
    """What ``--quick --json`` prints on standard output, where nothing else may stand."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert bench.main(["--quick", "--rounds", "1", "--json"]) == 0
    return json.loads(out.getvalue())


def test_states_what_ratios_depend_on(result: Any) -> None:
    assert result["environment"]["threads"] >= 1
    assert result["environment"]["cpus"] >= 1
    assert result["environment"]["torch"]
    assert result["rounds"] == 1


def test_measures_each_promise_and_the_error_of_the_method(result: Any) -> None:
    bounds = {row["name"]: row["bound"] for row in result["ratios"]}
    assert bounds["forward, 1x3x32x32: supernet / plain"] == 1.03
    assert bounds["forward, 16x3x32x32: supernet / plain"] == 1.03
    assert bounds["training step, batch 16: supernet / plain"] == 1.03
    assert bounds["search step / by hand, narfx:resnet8"] == 1.05
    assert next(bound for name, bound in bounds.items() if name.startswith("latency of a vector within")) == 0.8
    assert bounds["mixture / its candidates in turn, ResNet-8, 4 operators"] == 1.1
    assert bounds["forward, 1x3x32x32: plain / its copy"] is None
    assert bounds["trace, space, supernet, lowering / symbolic_trace"] is None
    assert bounds["set_vector / forward of one image"] is None


def test_ratios_are_positive_and_within_their_quartiles(result: Any) -> None:
    for row in [*result["ratios"], *result["operators"]]:
        low, high = row["quartiles"]
        assert 0 < low <= row["ratio"] <= high < math.inf
        assert row["baseline_ms"] > 0 and row["measured_ms"] > 0


def test_says_whether_a_promise_is_kept(result: Any) -> None:
    for row in result["ratios"]:
        assert row["kept"] is (None if row["bound"] is None else row["ratio"] <= row["bound"])


def test_compares_operators_with_the_convolution_at_a_site(result: Any) -> None:
    macs = {row["operator"]: row["macs_ratio"] for row in result["operators"]}
    # 3x3, 16 to 16 channels: 9·16·16 multiply-accumulates a pixel; 9·16 + 16·16 and 16·16.
    assert macs == {"dwsep3x3": pytest.approx(400 / 2304), "maxpool3x3": pytest.approx(256 / 2304)}


def test_a_quick_run_checks_no_promise(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["--quick", "--check"])
    assert ended.value.code == 2
    assert "leave --quick out" in capsys.readouterr().err
