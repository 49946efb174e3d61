"""A run's folder: its events, and a line that a crash cut short."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from narfx.errors import UsageError
from narfx.runs.folder import RunFolder, read_events


def test_events_are_valid_json_and_time_goes_on(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.event("one", value=float("nan"), nested=[1.0, {"x": float("inf")}])
    folder.save({"epoch": 1})
    folder.event("two")
    with (tmp_path / "run" / "events.jsonl").open("a") as stream:
        stream.write('{"event": "cut sh')
    again = RunFolder.open(tmp_path / "run")
    assert again.load() == {"epoch": 1}
    again.event("three")
    one, three = read_events(tmp_path / "run")
    assert (one["event"], one["value"], one["nested"]) == ("one", None, [1.0, {"x": None}])
    assert three["event"] == "three" and three["seconds"] >= one["seconds"]


@pytest.mark.parametrize("name", ["events.jsonl", ".lock"])
def test_a_pipe_in_a_run_is_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    RunFolder.create(tmp_path / "run", {})
    os.mkfifo(tmp_path / "run" / name)
    with pytest.raises(UsageError, match="is a pipe"):
        RunFolder.open(tmp_path / "run")
