"""A run's folder: its events, and a line that a crash cut short."""

from __future__ import annotations

from pathlib import Path

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
