"""The scaling benchmark runs and says what it should; what it measures is no matter of a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "scaling.py"


def test_the_tool_reports_every_step_of_every_size() -> None:
    done = subprocess.run([sys.executable, TOOL, "--quick", "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {(row["nodes"], row["granularity"]) for row in result["rows"]} == {
        (nodes, granularity) for nodes in (31, 115) for granularity in ("conv", "block")
    }
    assert all(set(row["seconds"]) == {"symbolic_trace", "trace", "supernet", "lower"} for row in result["rows"])
    assert set(result["exponents"]) == {"conv", "block"}
