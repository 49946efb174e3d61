"""One process at a time in a run directory: refused at once, and free again when the process is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from narfx.errors import UsageError
from narfx.runs.folder import RunFolder
from narfx.support.ranks import Ranks

HOLD = (
    "import sys, time; from pathlib import Path; from narfx.runs.folder import RunFolder\n"
    "with RunFolder.open(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(600)\n"
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return RunFolder.create(tmp_path / "run", {}).path


def test_another_process_is_refused_and_its_death_frees_the_run(run: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError) as caught, RunFolder.open(run):
            pass
        assert str(caught.value) == f"another process is running in {run}: wait for it, or choose another folder"
        assert (caught.value.kind, caught.value.exit_code) == ("run_locked", 2)
        with pytest.raises(UsageError, match="another process"):
            RunFolder.create(run, {}, overwrite=True)
        assert (run / "config.json").is_file()
    finally:
        holder.kill()
        holder.communicate()
    with RunFolder.open(run):
        assert (run / ".lock").stat().st_size < 4096


def test_a_lock_file_that_is_left_hinders_nothing(run: Path) -> None:
    (run / ".lock").write_text("")
    for _ in range(2):
        with RunFolder.open(run) as folder:
            folder.event("mine")
    RunFolder.create(run, {"new": True}, overwrite=True)
    assert {path.name for path in run.iterdir()} == {"config.json", "origin.json"}


def test_the_same_process_is_refused_too(run: Path) -> None:
    with RunFolder.open(run), pytest.raises(UsageError, match="another process"), RunFolder.open(run):
        pass


def test_rank_0_alone_takes_the_lock_and_writes(run: Path) -> None:
    with RunFolder(run, Ranks(0, 2)) as first, RunFolder(run, Ranks(1, 2)) as second:
        seen: list[object] = []
        second.subscribe(seen.append)
        first.event("one")
        second.event("two")
        second.save({"epoch": 9})
        assert not second.has_checkpoint
        assert (run / "events.jsonl").read_text().count("\n") == 1
        assert seen == []
