"""Files of latencies: other machines, damage, and processes that add to one file."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from command import Run
from small_tables import SETTING, in_folder_of_net, known, small_network

from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.latency.metric import LatencyOptions, open_latency
from narfx.latency.table import LatencyFile, LatencyTable, Setting


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    return small_network(tmp_path)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return in_folder_of_net(capfd, tmp_path, monkeypatch)


def test_a_file_from_another_machine_is_used_whole_or_not_at_all(traced: Traced, tmp_path: Path) -> None:
    path, table = tmp_path / "latency.json", known(traced)
    LatencyFile(tables=(table,)).save(path)
    before = path.read_bytes()
    options = LatencyOptions(latency_file=str(path))
    found, report = open_latency(traced, options)
    assert (report.measured, report.reused) == (0, 4)
    assert "a processor of long ago, onnxruntime 1.0" in report.notes[0]
    assert found.space.cost((1, 1))["latency"] == pytest.approx(2.0)
    lacking = table.model_copy(update={"operators": dict(list(table.operators.items())[1:])})
    LatencyFile(tables=(lacking,)).save(path)
    with pytest.raises(UsageError, match=r"long ago.*lacks 1 of") as caught:
        open_latency(traced, options)
    assert caught.value.kind == "latency_missing"
    path.write_bytes(before)
    with pytest.raises(UsageError, match="threads 1") as caught:
        open_latency(traced, LatencyOptions(latency_file=str(path), threads=2))
    assert caught.value.kind == "latency_setting"
    two = table.model_copy(update={"setting": SETTING.model_copy(update={"cpu": "another"})})
    LatencyFile(tables=(table, two)).save(path)
    with pytest.raises(UsageError, match="several") as caught:
        open_latency(traced, options)
    assert caught.value.kind == "latency_setting"
    assert path.read_bytes() != before
    mine = table.model_copy(update={"setting": Setting.here(1, 1, "CPUExecutionProvider")})
    LatencyFile(tables=(table, two, mine)).save(path)
    assert open_latency(traced, options)[1].notes == ()


HERE = '"setting": {"onnxruntime": "1", "cpu": "c"}'


@pytest.mark.parametrize(("text", "kind", "words"), [
    ("{", "malformed_json", "JSON"), ("[]", "malformed_latency", "it has a list instead of an object"),
    ("true", "malformed_latency", "it has true or false instead of"),
    ("null", "malformed_latency", "it has null instead of"),
    ('{"version": 2, "tables": []}', "latency_version", "of version 2"),
    ('{"version": true}', "latency_version", "of version True"),
    ('{"tables": [{"setting": {}}]}', "malformed_latency", "tables.0.setting.onnxruntime is missing"),
    ('{"tables": {}}', "malformed_latency", "tables must be a list"),
    ('{"tables": [1]}', "malformed_latency", "tables.0 must be an object of keys and values, not 1"),
    ('{"version": 1, "more": 1}', "malformed_latency", "there is no key more"),
    (f'{{"tables": [{{{HERE}, "operators": {{"a": -1}}}}]}}', "malformed_latency", "operators.a must be at least 0"),
    (f'{{"tables": [{{{HERE}, "operators": {{"a": "1"}}}}]}}', "malformed_latency", "must be a number, not '1'"),
    (f'{{"tables": [{{{HERE}, "networks": {{"a": true}}}}]}}', "malformed_latency", "must be a number, not True"),
    (f'{{"tables": [{{{HERE}}}, {{{HERE}}}]}}', "malformed_latency", "two tables have one setting (threads 1, batch"),
    ('{"tables": [{"setting": {"onnxruntime": "1", "cpu": "c", "threads": 0}}]}', "malformed_latency", "at least 1"),
    (f'{{"tables": [{{{HERE}, "operators": {{"a": NaN}}}}]}}', "malformed_json", "NaN"),
])  # fmt: skip
def test_malformed_files(run: Run, tmp_path: Path, text: str, kind: str, words: str) -> None:
    (tmp_path / "l.json").write_text(text)
    code, out, err = run("trace", "net.py", "--input", "1,8,8", "--latency-file", "l.json", "--json")
    error = json.loads(out)["error"]
    assert (code, error["kind"]) == (2, kind) and words in error["message"]
    assert "l.json" in err and "instance" not in err and (tmp_path / "l.json").read_text() == text


WRITER = """
import sys
from narfx.latency.table import LatencyFile, LatencyTable, Setting

for batch in range(1, 31):
    setting = Setting(onnxruntime="1", cpu="c", batch=batch)
    table = LatencyTable(setting=setting, operators={sys.argv[2]: 1.0, "both": float(sys.argv[3])})
    kept = LatencyFile.add(sys.argv[1], table)
    assert kept.operators[sys.argv[2]] == 1.0
    print(batch, kept.operators["both"])
"""


def test_two_processes_that_add_to_one_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, time], stdout=subprocess.PIPE, text=True)
        for name, time in (("one", "1"), ("two", "2"))
    ]
    told = [writer.communicate(timeout=120)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    tables = LatencyFile.load(path).tables
    assert sorted(table.setting.batch for table in tables) == list(range(1, 31))
    assert all(table.operators.keys() == {"one", "two", "both"} for table in tables)
    # What both have measured is the same in the file and for both of them: what was written first.
    kept = [
        text for t in sorted(tables, key=lambda t: t.setting.batch) for text in (t.setting.batch, t.operators["both"])
    ]
    assert told[0] == told[1] == [str(text) for text in kept]
    assert [entry.name for entry in tmp_path.iterdir()] == ["latency.json"]


def test_what_others_add_while_one_measures_stays(traced: Traced, tmp_path: Path) -> None:
    path, other = tmp_path / "latency.json", known(traced)
    here = Setting.here(1, 1, "CPUExecutionProvider")
    LatencyFile(tables=(LatencyTable(setting=here),)).save(path)
    adding = threading.Timer(0.5, lambda: LatencyFile.add(path, other))
    adding.start()
    _, report = open_latency(traced, LatencyOptions(latency_file=str(path)))
    adding.join()
    assert report.measured == 4
    assert {len(table.operators) for table in LatencyFile.load(path).tables} == {2}
