"""A run's folder: its events, and a line that a crash cut short."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from narfx.errors import UsageError
from narfx.runs.events import read_events
from narfx.runs.folder import RunFolder


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


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing"])
def test_what_is_no_checkpoint_is_refused_before_anything_changes(tmp_path: Path, kind: str) -> None:
    folder, path = RunFolder.create(tmp_path / "run", {}), tmp_path / "run" / "checkpoint.pt"
    folder.event("one")
    make: dict[str, Callable[[], object]] = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "link to nothing": lambda: path.symlink_to("none"),
    }
    make[kind]()
    for refused in (lambda: RunFolder.open(tmp_path / "run"), folder.load):
        with pytest.raises(UsageError, match="is not a regular file") as caught:
            refused()
        assert caught.value.kind == "bad_checkpoint"
    assert len(list(read_events(tmp_path / "run"))) == 1


def test_a_file_that_was_being_written_is_removed_with_the_next_lock(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    (tmp_path / "run" / ".checkpoint.pt.narfx-abc").touch()
    with folder:
        assert sorted(path.name for path in folder.path.iterdir()) == [".lock", "config.json", "origin.json"]


@pytest.mark.parametrize("name", ["events.jsonl", ".lock"])
def test_a_pipe_in_a_run_is_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    RunFolder.create(tmp_path / "run", {})
    os.mkfifo(tmp_path / "run" / name)
    with pytest.raises(UsageError, match="is a pipe"):
        RunFolder.open(tmp_path / "run")
