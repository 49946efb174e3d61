"""The scaling benchmark runs and says what it should; what it measures is no matter of a test."""

from __future__ import annotations

import json

import pytest
import scaling


def test_the_tool_reports_every_step_of_every_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling.main(["--quick", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {(row["nodes"], row["granularity"]) for row in result["rows"]} == {
        (nodes, granularity) for nodes in (17, 31) for granularity in ("conv", "block")
    }
    assert all(set(row["seconds"]) == {"symbolic_trace", "trace", "supernet", "lower"} for row in result["rows"])
    assert set(result["exponents"]) == {"conv", "block"}
