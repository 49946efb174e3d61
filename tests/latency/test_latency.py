"""Latency as a cost: what is timed, the file, the metric, budgets, the check and what users get wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from command import Run, in_process
from torch import Tensor, nn

from narfx.compiler.front_end import trace
from narfx.compiler.traced import Traced
from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.inputs.model_ref import load_model
from narfx.latency.check import check_latency
from narfx.latency.measure import networks, probes
from narfx.latency.metric import LatencyOptions, open_latency, with_latency
from narfx.latency.probe import probe
from narfx.latency.table import LatencyFile, LatencyTable, Setting
from narfx.latency.timing import cpu_model, open_call, time_calls
from narfx.operators import Operator, operator_names, refusal, register_operator, unregister_operator
from narfx.space.budget import Budget
from narfx.space.records import DeclaredSite, Site

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.a(self.stem(x))))
        return self.head(self.b(x).mean((2, 3)))
"""
SETTING = Setting(onnxruntime="1.0", cpu="a processor of long ago")


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    (tmp_path / "net.py").write_text(NET)
    return trace(load_model(str(tmp_path / "net.py")), input=(1, 8, 8), operators=("base", "dwsep3x3"))


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)

    return in_process(capfd)


def known(
    traced: Traced, base: float = 2.0, light: float = 0.5, whole: float = 5.0, uniform: float = 2.0
) -> LatencyTable:
    """A table of made-up times: of each base operator, each other one, the base network and the uniform ones."""
    found = probes(traced.space)
    return LatencyTable(
        setting=SETTING,
        operators={each.key: base if each.operator == "base" else light for each in found.values()},
        networks={key: whole if name == "base" else uniform for name, (key, _) in networks(traced, found).items()},
    )


def site(**changes: Any) -> Site:
    values: dict[str, Any] = {
        "target": "c", "occurrence": 0, "kind": "conv3x3", "in_channels": 8, "out_channels": 16, "kernel": (3, 3),
        "stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "bias": False, "padding_mode": "zeros",
        "input_shape": (8, 6, 6), "output_shape": (16, 3, 3),
    }  # fmt: skip
    return Site(**(values | changes))


@pytest.mark.parametrize("changes", [
    {}, {"groups": 4}, {"padding_mode": "reflect"}, {"padding_mode": "replicate"}, {"padding_mode": "circular"},
    {"stride": (1, 1), "dilation": (2, 2), "padding": (2, 2), "output_shape": (16, 6, 6)},
])  # fmt: skip
def test_a_probe_computes_its_operator_in_its_context(changes: dict[str, Any]) -> None:
    from narfx.latency.probe import _built

    here = site(**changes, bias=True)
    for name in operator_names():
        if refusal(here, name):
            continue
        made = probe(here, name)
        call = open_call(made.model(), made.input_shape, batch=3)
        found = call.session.run(None, call.feed)[0]
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            groups = here.groups
            context = nn.Sequential(
                nn.Conv2d(8, 8, 3, padding=1, groups=groups), nn.ReLU(),
                nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.Conv2d(8, 8, 1, groups=groups), nn.ReLU(),
            )  # fmt: skip
            expected = (
                _built(here, name)(context(torch.from_numpy(call.feed["input"]))).relu().mean((2, 3), keepdim=True)
            )
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


class _Scaled(nn.Module):
    """A module that only torch's exporter can write."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(site.in_channels, site.out_channels, 1, stride=site.stride, bias=site.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.pointwise(x)) * 2


@pytest.fixture
def scaled() -> Iterator[str]:
    register_operator(Operator("scaled1x1", _Scaled))
    yield "scaled1x1"
    unregister_operator("scaled1x1")


def test_an_operator_of_the_users_own_goes_through_the_exporter(scaled: str) -> None:
    made = probe(site(), scaled)
    call = open_call(made.model(), made.input_shape, batch=2)
    assert call.session.run(None, call.feed)[0].shape == (2, 16, 1, 1)


def test_sites_of_one_geometry_share_a_latency_with_or_without_a_bias() -> None:
    first = probe(site(), "base")
    assert probe(site(target="other", occurrence=2, bias=True), "base").key == first.key
    others = [site(stride=(1, 1)), site(groups=2), site(input_shape=(8, 5, 5)), site(padding_mode="reflect")]
    assert len({first.key, probe(site(), "dwsep3x3").key, *(probe(each, "base").key for each in others)}) == 6


def test_the_random_state_of_the_caller_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    probe(site(), "dwsep3x3").model()
    assert torch.equal(before, torch.random.get_rng_state())


def test_rounds_without_the_warm_up() -> None:
    call = open_call(probe(site(), "base").model(), (8, 6, 6))
    taken = time_calls({"a": call, "b": call}, cpu_time=True, rounds=20)
    assert {name: len(each) for name, each in taken.items()} == {"a": 18, "b": 18}
    assert all((each > 0).all() for each in taken.values())
    assert len(time_calls({"a": call}, cpu_time=False, rounds=50, seconds=0.0)["a"]) == 9


def test_the_metric_reproduces_the_networks_that_were_timed_whole(traced: Traced) -> None:
    with_metric = with_latency(traced, known(traced))
    space = with_metric.space
    assert space.metrics == ("params", "macs", "latency")
    assert space.cost((0, 0))["latency"] == pytest.approx(5.0)
    assert space.cost((1, 1))["latency"] == pytest.approx(2.0)
    assert space.cost((0, 1))["latency"] == pytest.approx(3.5)
    assert space.fixed["latency"] == pytest.approx(1.0)
    assert space.fingerprint() == traced.space.fingerprint()
    assert "latency" not in traced.space.metrics


@pytest.mark.parametrize(("uniform", "predicted"), [(1.5, 1.5), (1.0, 1.0), (0.2, 1.0), (4.0, 4.0)])
def test_no_operator_costs_less_than_nothing(traced: Traced, uniform: float, predicted: float) -> None:
    table = known(traced)
    first, *others = networks(traced, probes(traced.space)).values()
    times = {first[0]: 5.0, **{key: uniform for key, _ in others}}
    space = with_latency(traced, table.model_copy(update={"networks": times})).space
    assert space.cost((1, 1))["latency"] == pytest.approx(predicted)
    assert min(slot.costs["latency"][1] for slot in space.slots) >= 0


def test_operators_are_known_by_name_where_slots_have_lists_of_their_own(traced: Traced) -> None:
    """The second slot has the first one's operators in another order, and none of them is mixed up."""
    first, second = traced.space.slots
    names = (first.choices[0], "avgpool3x3", first.choices[1])
    costs = {metric: (row[0], 0.0, row[1]) for metric, row in second.costs.items()}
    slots = (first, replace(second, choices=names, legal=(0, 2), costs=costs))
    changed = replace(traced, space=replace(traced.space, slots=slots))
    found = networks(changed, probes(changed.space))
    assert {name: vector for name, (_, vector) in found.items()} == {"base": (0, 0), first.choices[1]: (1, 2)}
    assert [key for key, _ in found.values()] == [key for key, _ in networks(traced, probes(traced.space)).values()]
    space = with_latency(changed, known(changed)).space
    plain = with_latency(traced, known(traced)).space
    assert space.slots[0].costs["latency"] == plain.slots[0].costs["latency"]
    assert [space.slots[1].costs["latency"][k] for k in (0, 2)] == [*plain.slots[1].costs["latency"]]


def test_only_convolutions_are_timed(traced: Traced) -> None:
    edge = DeclaredSite("cell.0", 0, "edge", ("none", "conv"), ((8, 8, 8),), (8, 8, 8))
    slots = (replace(traced.space.slots[0], sites=(edge,)), *traced.space.slots[1:])
    with pytest.raises(UsageError, match=r"cell\.0 is of kind edge") as caught:
        probes(replace(traced.space, slots=slots))
    assert caught.value.kind == "latency_site"


def test_base_operators_that_take_longer_than_their_network_leave_nothing_fixed(traced: Traced) -> None:
    changed = with_latency(traced, known(traced, whole=3.0))
    assert changed.space.fixed["latency"] == 0
    assert "3 ms" in changed.notes[-1]


def test_a_table_that_lacks_an_entry_is_refused(traced: Traced) -> None:
    table = known(traced)
    with pytest.raises(UsageError, match="--latency") as caught:
        with_latency(traced, table.model_copy(update={"networks": {}}))
    assert caught.value.kind == "latency_missing"


def test_budgets_on_latency(traced: Traced) -> None:
    space = with_latency(traced, known(traced)).space
    base = space.cost(space.base)
    assert Budget.parse("latency<=0.7x", base).bounds == {"latency": pytest.approx(3.5)}
    assert Budget.parse("latency<=5ms,macs<=1k", base).bounds == {"latency": 5.0, "macs": 1000.0}
    assert Budget.parse("latency<=900us", base).bounds == {"latency": pytest.approx(0.9)}
    assert Budget.parse(str(Budget({"latency": 2.5})), base) == Budget({"latency": 2.5})
    within = space.within(Budget.parse("latency<=3.6ms", base))
    assert [within.feasible(v) for v in ((0, 0), (0, 1), (1, 1))] == [False, True, True]
    with pytest.raises(InfeasibleBudgetError, match="2 ms"):
        space.within(Budget({"latency": 1.5}))


@pytest.mark.parametrize("text", ["latency<=5", "latency<=5q", "latency<=5m", "latency<=5k", "macs<=5ms", "macs<=5q"])
def test_units_that_a_metric_does_not_have(traced: Traced, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Budget.parse(text, {"macs": 1.0, "latency": 1.0})
    assert caught.value.kind == "budget_syntax"


def test_a_budget_on_latency_that_was_not_measured_says_what_to_do(traced: Traced) -> None:
    for refused in (
        lambda: Budget.parse("latency<=0.7x", traced.space.cost((0, 0))),
        lambda: traced.space.within(Budget({"latency": 1.0})),
    ):
        with pytest.raises(UsageError, match="--latency") as caught:
            refused()
        assert caught.value.kind == "unknown_metric"


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


@pytest.mark.parametrize(("arguments", "kind"), [
    (["--latency", "--threads", "0"], "bad_option"), (["--latency", "--batch", "0"], "bad_option"),
    (["--latency", "--provider", "NoSuchProvider"], "provider"), (["--threads", "2"], "latency_options"),
    (["--latency-check", "1"], "latency_check"), (["--latency-file", "no/such/l.json"], "missing_folder"),
])  # fmt: skip
def test_options_that_are_wrong(run: Run, arguments: list[str], kind: str) -> None:
    code, out, _ = run("trace", "net.py", "--input", "1,8,8", "--json", *arguments)
    assert (code, json.loads(out)["error"]["kind"]) == (2, kind)


SMALL = ["--input", "1,8,8", "--operators", "base,maxpool3x3"]


def test_from_a_trace_to_a_search_that_resumes(run: Run, tmp_path: Path) -> None:
    """One table: measured once by the trace, used by the check, by a search, and by its resumption."""
    code, out, err = run("trace", "net.py", *SMALL, "--latency-file", "l.json", "--latency-check", "2", "--json")
    assert code == 0, err
    report = json.loads(out)
    timed, check = report["latency"], report["latency"]["check"]
    assert (timed["threads"], timed["batch"], timed["provider"]) == (1, 1, "CPUExecutionProvider")
    assert (timed["onnxruntime"], timed["cpu"]) == (onnxruntime.__version__, cpu_model())
    assert (timed["measured"], timed["reused"]) == (4, 0)
    assert len(check["vectors"]) == 3 and check["mean_absolute_percentage_error"] >= 0
    assert all(row["predicted"] > 0 and row["measured"] > 0 for row in check["vectors"])
    assert report["cost"]["base"]["latency"] == pytest.approx(check["vectors"][0]["predicted"])
    kept = (tmp_path / "l.json").read_bytes()
    code, out, _ = run("trace", "net.py", *SMALL, "--latency-file", "l.json")
    assert code == 0 and "0 measured now, 4 known" in out

    search = ["search", "net.py", *SMALL, "--data", "digits", "--budget", "latency<=1.2x,macs<=1x", "--latency-file",
              "l.json", "--epochs", "2", "--pretrain-epochs", "1", "--steps", "1", "--finalists", "1"]  # fmt: skip
    code, out, err = run(*search, "--out", "r", "--json")
    assert code == 0, err
    assert json.loads(out)["latency"] > 0 and (tmp_path / "l.json").read_bytes() == kept
    assert "latency" in json.loads((tmp_path / "r" / "front.json").read_text())["points"][0]["costs"]
    (tmp_path / "l.json").unlink()
    front = (tmp_path / "r" / "front.json").read_bytes()
    (tmp_path / "r" / "result.json").unlink()  # of a finished run the result is read, and nothing else
    code, _, err = run("search", "--resume", "--out", "r")
    assert code == 0, err
    assert (tmp_path / "r" / "front.json").read_bytes() == front
    (tmp_path / "r" / "result.json").unlink()
    (tmp_path / "r" / "latency.json").write_text('{"version": 1}')
    code, out, _ = run("search", "--resume", "--out", "r", "--json")
    assert (code, json.loads(out)["error"]["kind"]) == (2, "latency_missing")


def test_the_check_needs_the_metric(traced: Traced) -> None:
    with pytest.raises(UsageError, match="--latency") as caught:
        check_latency(traced, SETTING)
    assert caught.value.kind == "latency_missing"


def test_a_search_bound_by_latency_alone_compares_at_equal_latency(run: Run, tmp_path: Path) -> None:
    found = trace(load_model("net.py"), input=(1, 8, 8))
    mine = known(found).model_copy(update={"setting": SETTING})
    LatencyFile(tables=(mine,)).save(tmp_path / "l.json")
    code, out, err = run(
        "search", "net.py", "--input", "1,8,8", "--data", "digits", "--budget", "latency<=0.7x", "--latency-file",
        "l.json", "--epochs", "2", "--pretrain-epochs", "1", "--steps", "1", "--finalists", "1", "--out", "r", "--json",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out)
    assert "equal MACs and predicted latency" in result["verdict"] and result["latency"] <= 3.5
    for record in result["randoms"]:
        assert 0.98 * result["latency"] - 1e-9 <= record["latency"] <= result["latency"] + 1e-9
    assert "a processor of long ago" in err


def test_the_network_key_follows_the_graph_not_the_weights(traced: Traced) -> None:
    found = probes(traced.space)
    key = networks(traced, found)["base"][0]
    with torch.no_grad():
        next(traced.graph_module.parameters()).add_(1)
    assert networks(traced, found)["base"][0] == key
    assert networks(replace(traced, input=(1, 9, 9)), found)["base"][0] != key
