"""Files are written whole or not at all, and what goes wrong is one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from narfx.errors import UsageError
from narfx.support.files import read_json, write_bytes, write_json, write_text


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
from narfx.support.files import write_bytes
from narfx.support.folders import output_folder

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


def test_a_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")  # it points to nothing yet
    for text in ("new", "newer"):
        write_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "file").read_text() == text


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "null").symlink_to("/dev/null")
    for name, what in (("pipe", "a pipe"), ("folder", "a folder"), ("null", "a device")):
        with pytest.raises(UsageError, match=f"{name} is {what}, not a regular file"):
            write_text(tmp_path / name, "text")
    assert Path("/dev/null").is_char_device()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "null", "pipe"]
