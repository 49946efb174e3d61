"""Latency as a metric of the search space, from its measurement to a search that is bound by it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
from command import Run
from small_tables import SETTING, in_folder_of_net, known, small_network

from narfx.compiler.front_end import trace
from narfx.compiler.traced import Traced
from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.inputs.model_ref import load_model
from narfx.latency.measure import networks, probes
from narfx.latency.metric import with_latency
from narfx.latency.table import LatencyFile
from narfx.latency.timing import cpu_model
from narfx.space.budget import Budget


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    return small_network(tmp_path)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return in_folder_of_net(capfd, tmp_path, monkeypatch)


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
    result = json.loads(out)
    assert result["latency"] > 0 and (tmp_path / "l.json").read_bytes() == kept
    whole = result["timed_whole"]
    assert whole["bound"] == pytest.approx(1.2) and whole["tried"] == 1 and whole["message"] in err
    assert whole["share"] > 0 and whole["base"] > 0 and whole["milliseconds"] > 0
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
    assert "a processor of long ago" in err and result["timed_whole"] is None  # nothing to compare with here
