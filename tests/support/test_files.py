"""Files are written whole or not at all, and what goes wrong is one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from narfx.errors import UsageError
from narfx.support.files import (
    check_output,
    output_folder,
    read_json,
    replace_folder,
    write_bytes,
    write_json,
    write_text,
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "text": "ü"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_text().endswith("}\n")
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    with pytest.raises(TypeError):
        write_bytes(path, "text")  # type: ignore[arg-type]
    assert read_json(path) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory") as caught:
        write_text(tmp_path / "none" / "a.txt", "text")
    assert caught.value.kind == "not_writable"


def test_a_full_disk_ends_the_run_and_keeps_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    code = """
import resource
from pathlib import Path
from narfx.errors import RunError
from narfx.support.files import output_folder, write_bytes

def fill(path):
    with output_folder(path) as work:
        (work / "big").write_bytes(b"new" * 1000)

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (lambda: write_bytes(Path("a"), b"new" * 1000), lambda: fill(Path("folder"))):
    try:
        write()
    except RunError as error:
        print(error.kind, error.exit_code, error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["disk_full 7 cannot write a", "disk_full 7 cannot write folder"]
    assert "free some space and run the command again" in lines[0]
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


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
    with pytest.raises(RuntimeError), output_folder(target, overwrite=True) as work:
        (work / "other").write_text("x")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["whole"]
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
