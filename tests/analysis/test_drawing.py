"""The files of an analysis: the same for the same run, listed in the table, never overwritten unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import Run as Cli
from command import in_process
from small_runs import enas_run, refused

from narfx.analysis import gradients, rewards
from narfx.errors import UsageError


@pytest.fixture(scope="module")
def enas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return enas_run(tmp_path_factory)


@pytest.fixture
def narfx(capfd: pytest.CaptureFixture[str]) -> Cli:
    return in_process(capfd)


@pytest.mark.parametrize("verb", [gradients, rewards])
def test_the_same_run_gives_the_same_files(enas: Path, tmp_path: Path, verb: Callable[..., dict[str, Any]]) -> None:
    one, other = (verb(enas, tmp_path / name)["files"] for name in ("one", "other"))
    assert set(one) == {"png", "svg", "json"}
    for kind, path in one.items():
        assert Path(path).read_bytes() == Path(other[kind]).read_bytes()
    assert Path(one["png"]).read_bytes().startswith(b"\x89PNG")
    svg = Path(one["svg"]).read_text()
    assert "<svg" in svg
    assert "dc:date" not in svg


def test_the_table_names_parts_and_files(enas: Path, tmp_path: Path, narfx: Cli) -> None:
    for verb in ("gradients", "rewards"):
        code, out, _ = narfx("analyze", verb, str(enas), "--out", str(tmp_path / "out"))
        assert code == 0
        assert "operators" in out
        assert "skips" in out
        assert str(tmp_path / "out" / f"{verb}.svg") in out.replace("\n", "")


def test_nothing_is_overwritten_unasked(narfx: Cli, enas: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "gradients.svg"
    mine.write_text("mine")
    refused(narfx, "gradients", str(enas), "--out", str(tmp_path / "out"), kind="output_exists")
    assert [mine.read_text(), len(list(mine.parent.iterdir()))] == ["mine", 1]
    refused(narfx, "gradients", str(enas), "--out", str(mine), kind="output_exists")
    assert narfx("analyze", "gradients", str(enas), "--out", str(tmp_path / "out"), "--overwrite")[0] == 0
    assert mine.read_text() != "mine"


def test_an_analysis_must_be_named(narfx: Cli) -> None:
    code, _, err = narfx("analyze")
    assert code == 2
    assert "gradients, rewards, hypervolume, cells, operators" in err and "confusion" in err
    with pytest.raises(UsageError):
        gradients("nowhere")
