"""The survey of published networks through its process interface, on networks of a few lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import coverage
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "coverage.py"
HEAD = """
import os, time
import torch
from torch import nn
INPUT_SHAPE = (3, 12, 12)
"""
MODELS = {
    "good": """
def model():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
""",
    "nothing": """
def model():
    return nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten())
""",
    "untraceable": """
class Model(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x
""",
    "crash": """
def model():
    os._exit(3)
""",
    "slow": """
def model():
    time.sleep(600)
""",
}


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)


def rows_of(path: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["model"] for row in rows}) == len(rows)
    return {Path(row["model"]).stem: row for row in rows}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model files, the rows of a survey and its page."""
    folder = tmp_path_factory.mktemp("coverage")
    for name, text in MODELS.items():
        (folder / f"{name}.py").write_text(HEAD + text)
    names = [f"{name}.py" for name in MODELS if name != "slow"]
    done = run(folder, "--out", "rows.jsonl", "--page", "page.md", "--models", *names)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return folder


def test_a_network_with_a_site_keeps_every_promise(folder: Path) -> None:
    row = rows_of(folder / "rows.jsonl")["good"]
    assert (row["traced"], row["opaque"], row["sites"], row["slots"], row["side"]) == (True, [], 1, 1, 12)
    assert row["exact"] and row["base_equal"] and row["lowered_equal"]
    assert row["keys"] == []
    assert row["onnx"] and 0 <= row["onnx_error"] <= 1e-5
    assert row["onnx_signal"] > 0.01, "or any parity would hold"
    assert row["ratio"] > 0 and row["graph_ratio"] > 0
    assert row["stage"] == "done" and "failure" not in row


def test_nothing_to_refine_is_traced_and_compared_all_the_same(folder: Path) -> None:
    row = rows_of(folder / "rows.jsonl")["nothing"]
    assert row["nothing"].startswith("nothing to refine")
    assert row["exact"] and row["onnx"] and row["keys"] == []
    assert row["sites"] == 0 and "base_equal" not in row


def test_a_refusal_is_a_row_with_its_code_and_sentence(folder: Path) -> None:
    row = rows_of(folder / "rows.jsonl")["untraceable"]
    assert row["stage"] == "trace" and "traced" not in row
    assert row["failure"]["code"] == "untraceable"
    assert "control flow" in row["failure"]["reason"]


def test_a_crash_is_a_row_and_not_an_end(folder: Path) -> None:
    row = rows_of(folder / "rows.jsonl")["crash"]
    assert row["stage"] == "build"
    assert row["failure"] == {"code": "crash", "reason": "its process ended with code 3"}


def test_the_page_counts_what_the_rows_say(folder: Path) -> None:
    page = (folder / "page.md").read_text()
    assert "| traced | 2 of 4 |" in page
    assert "| something to refine | 1 of 2 |" in page
    assert "| ONNX tried | 2 of 2 |" in page and "| ... parity 1e-5 of those tried | 2 of 2 |" in page
    assert "not tried |" not in page and "## What was not exported" not in page
    heads = [line for line in page.splitlines() if line.startswith("| model | M params")]
    (row,) = (line for line in page.splitlines() if line.startswith("| good.py | 0.0"))
    assert heads and heads[0].count("|") == row.count("|")
    assert "| untraceable.py | trace | untraceable |" in page
    assert "| crash.py | build | crash | its process ended with code 3 |" in page


def test_models_that_have_a_row_are_not_run_again_and_the_slow_are_killed(folder: Path) -> None:
    before = (folder / "rows.jsonl").read_text()
    # As after a kill in the middle of a line: the line is lost, the next one stands by itself.
    (folder / "rows.jsonl").write_text(before + '{"model": "good.p')
    done = run(folder, "--out", "rows.jsonl", "--models", "good.py", "crash.py", "slow.py", "--seconds", 1)
    assert done.returncode == 0, done.stderr
    *kept, _, last = (folder / "rows.jsonl").read_text().splitlines()
    assert kept == before.splitlines()
    row = json.loads(last)
    assert row["model"] == "slow.py"
    assert row["failure"] == {"code": "timeout", "reason": "it took more than 1 seconds"}


def test_an_export_that_was_left_out_is_counted_and_has_its_reason(folder: Path) -> None:
    done = run(folder, "--out", "few.jsonl", "--page", "few.md", "--models", "good.py", "--no-onnx", "it is too large")
    assert done.returncode == 0, done.stderr
    assert "onnx" not in rows_of(folder / "few.jsonl")["good"]
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines() if "nothing.py" in line]
    # As it stands where an earlier survey gave no reason, and where a process died in the export.
    old = {key: value for key, value in rows[0].items() if not key.startswith("onnx")} | {"onnx_asked": False}
    failure = {"code": "timeout", "reason": "it took more than 9 seconds"}
    more = [old | {"model": "old.py"}, old | {"model": "died.py", "stage": "onnx", "failure": failure}]
    with (folder / "few.jsonl").open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in [*more, rows[0]])
    done = run(folder, "--out", "few.jsonl", "--page", "few.md", "--models", "good.py", "--limit", 0, "--no-onnx")
    assert done.returncode == 0, done.stderr
    page = (folder / "few.md").read_text()
    assert "| ONNX tried | 2 of 4 |" in page and "| ... parity 1e-5 of those tried | 1 of 2 |" in page
    assert "| it is too large | 1: good.py |" in page
    assert "(--no-onnx), no reason given | 1: old.py |" in page
    cells = {line.split(" | ")[0]: line for line in page.splitlines() if " 0.0 | 12 |" in line}
    assert {name.removeprefix("| "): "not tried" in line for name, line in cells.items()} == {
        "good.py": True, "old.py": True, "died.py": False, "nothing.py": False,
    }  # fmt: skip
    assert "**no**" in cells["| died.py"]


def test_a_folder_that_is_not_there_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        coverage.main(["--out", str(tmp_path / "absent" / "rows.jsonl"), "--models", "good.py"])
    assert ended.value.code == 2 and "there is no folder" in capsys.readouterr().err
