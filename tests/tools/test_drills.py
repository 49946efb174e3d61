"""The drills find nothing in small; BENCHMARKS.md has them at their full size."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import damage
import pytest

TOOLS = Path(__file__).parents[2] / "tools"


def run(tool: str, *arguments: str) -> Any:
    done = subprocess.run([sys.executable, TOOLS / tool, *arguments, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_commands_that_are_killed_end_as_if_they_were_not(tmp_path: Path) -> None:
    found = run("kill_drill.py", "--kills", "4", "--out", str(tmp_path))
    assert not found["faults"] and [row["sound"] for row in found["rows"]] == [1, 1, 1, 1]
    assert run("kill_drill.py", "--kills", "4", "--out", str(tmp_path)) == found  # all of it is on record


@pytest.mark.slow
def test_a_damaged_file_is_refused_or_said_or_read_as_it_was(tmp_path: Path) -> None:
    found = run("mutations.py", "--mutations", "250", "--out", str(tmp_path))
    assert len(found["rows"]) == 50 and found["mutations"] >= 240 and not found["faults"]


@pytest.mark.slow
def test_kinds_are_chosen_by_pattern(tmp_path: Path) -> None:
    found = run("mutations.py", "--mutations", "24", "--kinds", "front:*,genotype.json", "--out", str(tmp_path))
    assert len(found["rows"]) == 5 and not found["faults"]


def test_every_mutation_changes_what_is_there() -> None:
    for content, as_json in ((b'{"a": [1, {"b": null}]}\n', True), (b"abc", False), (b"", False)):
        changed = [damage.mutated(content, random.Random(n), as_json=as_json) for n in range(50)]
        assert (len(set(changed)) > 10) == bool(content)
