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


def test_what_a_kill_left_half_written_is_gone_when_the_run_goes_on(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {}).path
    (run / "runs" / "base-0").mkdir(parents=True)
    left = [run / ".evaluations.json.4gtfm3iy.tmp", run / "runs" / "base-0" / ".checkpoint.pt.abcdefgh.tmp"]
    for path in (*left, run / "mine.tmp"):
        path.write_text("half")
    with RunFolder.open(run):
        assert not any(path.exists() for path in left) and (run / "mine.tmp").exists()
