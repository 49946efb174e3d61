"""A folder appears whole or not at all, replaces only what narfx made, and leaves nothing of a killed process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from narfx.errors import UsageError
from narfx.runs.folder import RunFolder
from narfx.support.folders import Stage, check_output, check_replaceable, output_folder, replace_folder, sweep

KILLED = """
import os, signal, sys
from pathlib import Path
from narfx.support.folders import Stage
stage = Stage(Path(sys.argv[1]), overwrite=True)
(stage.work / "half").touch()
if sys.argv[2] == "swapping":  # killed between the two moves of a swap
    (stage.work.parent / "old").mkdir()
    Path(sys.argv[1]).rename(stage.work.parent / "old" / "out")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_output_folder_stands_only_when_all_went_well(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with pytest.raises(RuntimeError), output_folder(target) as work:
        (work / "half").write_text("x")
        raise RuntimeError
    assert list((tmp_path / "deep").iterdir()) == []
    with output_folder(target) as work:
        (work / "whole").write_text("x")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert target.stat().st_mode & 0o777 == 0o755
    with pytest.raises(UsageError, match="narfx did not make"), output_folder(target, overwrite=True) as work:
        (work / "other").write_text("x")
    (target / "report.json").write_text('{"parity": null, "versions": {}}')
    with pytest.raises(RuntimeError), output_folder(target, overwrite=True) as work:
        (work / "other").write_text("x")
        raise RuntimeError
    assert sorted(path.name for path in target.iterdir()) == ["report.json", "whole"]
    with output_folder(target, overwrite=True) as work:
        (work / "other").write_text("x")
    assert [path.name for path in target.iterdir()] == ["other"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    check_output(tmp_path / "out", overwrite=False)
    check_output(tmp_path / "new", overwrite=False)
    (tmp_path / "out" / "file").touch()
    check_output(tmp_path / "out", overwrite=True)
    with pytest.raises(UsageError, match="add --overwrite"):
        check_output(tmp_path / "out", overwrite=False)


def test_replacing_a_folder_puts_the_old_one_back_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mine").write_text("precious")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "not-there", tmp_path / "old")
    assert (tmp_path / "old" / "mine").read_text() == "precious"


def test_a_folder_behind_a_link_is_made_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("there")
    with output_folder(tmp_path / "link") as work:
        (work / "report.json").write_text('{"parity": 1, "versions": 1}')
    with output_folder(tmp_path / "link", overwrite=True) as work:
        (work / "second").touch()
    assert (tmp_path / "link").is_symlink() and [path.name for path in (tmp_path / "there").iterdir()] == ["second"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]


def test_of_two_that_make_one_folder_the_second_is_told(tmp_path: Path) -> None:
    first, second = (Stage(tmp_path / "out", overwrite=False) for _ in range(2))
    (first.work / "first").touch()
    (second.work / "second").touch()
    first.place()
    with pytest.raises(UsageError, match="exists and is not empty"):
        second.place()
    second.discard()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "first"]


@pytest.mark.parametrize("moment", ["building", "swapping"])
def test_what_a_killed_process_left_is_removed_and_what_it_moved_comes_back(tmp_path: Path, moment: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    living = Stage(tmp_path / "other", overwrite=False)
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out"), moment], check=False)
    assert len(list(tmp_path.glob(".out.narfx-*"))) == 1
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([living.work.parent.name, "out"])
    assert (tmp_path / "out" / "mine").read_text() == "precious"
    living.place()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_a_staged_run_has_its_place_from_the_first_checkpoint_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with RunFolder.create(out, {"old": True}) as folder:
        folder.event("one")
    with pytest.raises(ZeroDivisionError), RunFolder.create(out, {}, overwrite=True, staged=True) as folder:
        folder.event("two")
        with pytest.raises(UsageError, match="another process is running in"):
            RunFolder.create(out, {}, overwrite=True, staged=True)
        raise ZeroDivisionError
    assert RunFolder.open(out).config() == {"old": True} and [path.name for path in tmp_path.iterdir()] == ["run"]
    with pytest.raises(ZeroDivisionError), RunFolder.create(out, {}, overwrite=True, staged=True) as folder:
        part = folder.part("runs/a")
        assert part.staged
        part.save({"epoch": 1})
        assert not part.staged and part.path == out / "runs" / "a"
        with pytest.raises(UsageError, match="another process"), RunFolder.open(out):
            pass
        raise ZeroDivisionError
    assert RunFolder.open(out).config() == {} and [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_input_in_the_output_is_found_in_each_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, by a link to it, and as a link that lies there."""
    monkeypatch.chdir(tmp_path)
    RunFolder.create(Path("out"), {}).event("one")
    for name in ("out/net.py", "elsewhere.py"):
        Path(name).touch()
    Path("to.py").symlink_to("out/net.py")
    Path("out/from.py").symlink_to("../elsewhere.py")
    Path("o").symlink_to("out")
    for name in ("out/net.py", "./out/../out/net.py", "to.py", "out/from.py", "o/net.py", "o"):
        for out in ("out", "o", tmp_path / "out"):
            with pytest.raises(UsageError, match="would be replaced"):
                check_replaceable(Path(out), [Path(name)])
    check_replaceable(Path("out"), [Path("elsewhere.py"), Path("missing")])
