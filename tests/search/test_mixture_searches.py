"""Searches by gradients through a mixture: on convolutions, skips and cells; stopped, resumed, and with bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from cell_networks import USER_CELLS
from command import Run, RunJson, in_process, in_process_json
from safetensors.torch import load_file, save_file
from small_search import CONFIG, broken_off, same

from narfx.errors import RunError, UsageError
from narfx.models import MODELS
from narfx.operators.dispatch import Dispatch
from narfx.report import report
from narfx.runs.checkpoints import read_checkpoint
from narfx.runs.events import Saved, StageBegan, Step, Weights, iter_events
from narfx.search import SearchConfig, estimate_search, resume, run
from narfx.search.mixture.memory import activation_bytes, largest_mixture
from narfx.search.mixture.strategy import MixtureStrategy
from narfx.search.prepared import prepare
from narfx.search.stages import stages_of
from narfx.space.genotype import read_genotype

NAMES = ("darts", "gdas", "stacnas")
OFFERED = "none,max_pool_3x3,avg_pool_3x3,skip_connect,sep_conv_3x3"
CELLS = {**CONFIG, "model": f"narfx:darts_search?cells=3&channels=2&in_channels=1&operators={OFFERED}",
         "max_train_images": 64, "budget": "macs<=0.5x", "batch_size": 32, "finalists": 1}  # fmt: skip


def config(strategy: str, base: dict[str, Any] = CONFIG, **more: Any) -> SearchConfig:
    options = {"lr": 0.02, "record": 2, **more.pop("options", {})}
    values = {key: value for key, value in base.items() if key not in ("pretrain_epochs", "steps")}
    precision = "bf16" if strategy == "gdas" else "fp32"
    return SearchConfig(**{**values, "precision": precision, "strategy": strategy, "strategy_options": options, **more})


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Run:
    return in_process(capfd)


@pytest.fixture
def call_json(capfd: pytest.CaptureFixture[str]) -> RunJson:
    return in_process_json(capfd)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A search by each strategy that nobody disturbed, one of them in bfloat16."""
    folder = tmp_path_factory.mktemp("mixtures")
    for name in NAMES:
        run(config(name), folder / name)
    return {name: folder / name for name in NAMES}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same on cells."""
    folder = tmp_path_factory.mktemp("cells")
    for name in NAMES:
        run(config(name, CELLS, epochs=2), folder / name)
    return {name: folder / name for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_search_records_what_each_slot_weighs(runs: dict[str, Path], name: str) -> None:
    steps = list(iter_events(runs[name], Step))
    assert [event.epoch for event in iter_events(runs[name], Weights)] == [1, 2, 3]
    # Every second of five steps, and the last of each epoch; a stage counts from its own beginning.
    assert Counter(step.epoch for step in steps) in ({1: 3, 2: 3, 3: 3}, {1: 3, 2: 4, 3: 3})
    for step in steps:
        assert step.vectors == [] and step.rewards == []
        for p, alphas in zip(step.more["probabilities"], step.more["alphas"], strict=True):
            assert sum(p) == pytest.approx(1, abs=1e-4) and len(p) == len(alphas)
        assert step.more["expected"]["macs"] > 0
    moved = [steps[0].more["probabilities"], steps[2].more["probabilities"]]
    assert moved[0] != moved[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_final_vector_meets_the_budget(runs: dict[str, Path], cells: dict[str, Path], name: str) -> None:
    for folder in (runs[name], cells[name]):
        found = json.loads((folder / "result.json").read_text())
        bound = float(found["budget"].split("<=")[1])
        assert found["macs"] <= bound
        assert all(finalist["macs"] <= bound for finalist in found["finalists"])
        assert json.loads((folder / "arch.json").read_text())["vector"] == found["vector"]


def test_stacnas_has_two_stages_that_share_nothing(runs: dict[str, Path]) -> None:
    (began,) = iter_events(runs["stacnas"], StageBegan)
    first, second = ([s for s in iter_events(runs["stacnas"], Step) if (s.epoch == 3) == late] for late in (0, 1))
    # base, dwsep3x3 and maxpool3x3 represent their groups, then the pools compete where they were chosen.
    assert all([k for k, p in enumerate(row) if p > 0] == [0, 1, 2] for row in first[0].more["probabilities"])
    for legal, row in zip(began.legal or (), second[0].more["probabilities"], strict=True):
        assert legal in ([0], [1], [2, 3]) and [k for k, p in enumerate(row) if p > 0] == legal
    vector = json.loads((runs["stacnas"] / "arch.json").read_text())["vector"]
    assert all(entry in legal for entry, legal in zip(vector, began.legal or (), strict=True))


def test_the_second_stage_alone_has_the_groups_of_a_search_of_another_depth(tmp_path: Path) -> None:
    first = run(config("stacnas", CELLS, epochs=1, budget="none", options={"stages": 1}), tmp_path / "first")
    deeper = CELLS["model"].replace("cells=3", "cells=5")
    one = config("stacnas", CELLS, epochs=1, model=deeper, budget="none", options={"chosen": first["vector"]})
    result = run(one, tmp_path / "second")
    assert not list(iter_events(tmp_path / "second", StageBegan))
    steps = list(iter_events(tmp_path / "second", Step))
    slots = prepare(one, stages_of(one), "cpu", None).net.space.slots
    rows = steps[-1].more["probabilities"]
    for slot, chosen, entry, row in zip(slots, first["vector"], result["vector"], rows, strict=True):
        name = slot.choices[chosen]
        group = {"max_pool_3x3", "avg_pool_3x3"} if "pool" in name else {name}
        legal = [k for k, p in enumerate(row) if p > 0]
        assert {slot.choices[k] for k in legal} == {"none", *group} and entry in legal
    whole = one.model_copy(update={"strategy_options": {"stages": 1}})
    both, alone = (estimate_search(each)["estimate"]["choices_at_once"] for each in (whole, one))
    assert alone < both


def test_a_fresh_stage_starts_from_the_weights_of_the_beginning(tmp_path: Path) -> None:
    """Steps of stage 1 are large and those of stage 2 nothing: after it the weights are those of the beginning."""
    (tmp_path / "rates.py").write_text("def falling():\n    return lambda time: 0.5 if time < 1 else 1e-12\n")
    one = config("stacnas", epochs=2, schedule=f"{tmp_path / 'rates.py'}:falling", lr=0.5, weight_decay=0.0)
    kept: list[dict[str, torch.Tensor]] = []

    def keep(event: object) -> None:
        if isinstance(event, Saved):
            kept.append(read_checkpoint(tmp_path / "run")[1]["state"]["net"])

    run(one, tmp_path / "run", subscribers=[keep])
    start, after_one, after_two = kept
    name = next(key for key in start if key.endswith("fc.weight"))
    assert float((after_one[name] - start[name]).abs().max()) > 1e-3
    assert float((after_two[name] - start[name]).abs().max()) < 1e-6


@pytest.mark.parametrize(("name", "event"), [("darts", 3), ("darts", 13), ("gdas", 9), ("stacnas", 9), ("stacnas", 13)])
def test_a_killed_search_resumes_to_the_same(tmp_path: Path, runs: dict[str, Path], name: str, event: int) -> None:
    broken_off(tmp_path / "run", event, config(name))
    same(tmp_path / "run", runs[name])


def test_the_second_order_resumes_to_the_same_and_differs_from_the_first(tmp_path: Path, runs: dict[str, Path]) -> None:
    second = config("darts", options={"order": "second"}, precision="bf16")
    run(second, tmp_path / "whole")
    broken_off(tmp_path / "run", 8, second)
    same(tmp_path / "run", tmp_path / "whole")
    one, other = (next(iter_events(folder, Step)).more["alphas"] for folder in (tmp_path / "whole", runs["darts"]))
    assert one != other and torch.tensor(one).sub(torch.tensor(other)).abs().max() < 0.1


def test_ctrl_c_loses_nothing(tmp_path: Path, runs: dict[str, Path]) -> None:
    name, out = "stacnas", tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "narfx", "search", "--config", str(runs[name] / "config.json"), "--out", str(out),
         "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if (out / "events.jsonl").exists() and (out / "events.jsonl").read_text().count("\n") >= 6:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 75 and json.loads(stdout)["error"]["kind"] == "interrupted"
    assert "Traceback" not in stderr
    resume(out)
    same(out, runs[name])


@pytest.mark.parametrize("name", NAMES)
def test_skips_are_slots_of_the_mixture(tmp_path: Path, name: str) -> None:
    result = run(config(name, epochs=2, search_skips=True, budget="none"), tmp_path / "run")
    steps = list(iter_events(tmp_path / "run", Step))
    widths = [len(row) for row in steps[-1].more["probabilities"]]
    assert 2 in widths and 4 in widths
    assert "skips" in result and result["metric"] == "accuracy"
    first, last = (step.more["alphas"] for step in (steps[0], steps[1]))
    assert any(a != b for a, b, width in zip(first, last, widths, strict=True) if width == 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_search_of_cells_ends_with_a_genotype(
    cells: dict[str, Path], name: str, tmp_path: Path, call_json: RunJson
) -> None:
    out = tmp_path / "genotype.json"
    code, result, _ = call_json("analyze", "cells", str(cells[name]), "--by", "weights", "--out", str(out))
    assert code == 0
    genotype = read_genotype(out)
    assert genotype.to_json() == result["genotype"] and len(genotype.normal) == 8
    assert "none" not in {operator for operator, _ in (*genotype.normal, *genotype.reduce)}
    # By hand: the last record in which a slot had two rivals.
    steps = list(iter_events(cells[name], Step))
    traced = prepare(config(name, CELLS, epochs=2), stages_of(config(name, CELLS, epochs=2)), "cpu", None).traced
    key = "alphas" if name == "stacnas" else "probabilities"
    strengths = {}
    for index, slot in enumerate(traced.space.slots):
        kind, _, pair = slot.name.partition(" ")
        source, node = map(int, pair.split("->"))
        step = [s for s in steps if sum(p > 0 for p in s.more["probabilities"][index]) > 1][-1]
        rivals = {
            choice: step.more[key][index][k]
            for k, choice in enumerate(slot.choices)
            if choice != "none" and step.more["probabilities"][index][k] > 0
        }
        best = max(rivals, key=lambda choice: rivals[choice])
        strengths[kind, node, source] = rivals[best], best
    for kind in ("normal", "reduce"):
        for node in range(2, 6):
            own = {s: strengths[kind, node, s] for s in range(node)}
            kept = sorted(own, key=lambda s: -own[s][0])[:2]
            assert set(genotype.edges(kind)[2 * node - 4 : 2 * node - 2]) == {(own[s][1], s) for s in kept}


def test_what_a_pass_computes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All legal choices in a mixture, one of each site in a draw."""
    seen: dict[str, set[int]] = {}
    plain = Dispatch.forward
    for name in NAMES:
        counts: set[int] = set()

        def forward(self: Dispatch, *inputs: Any, counts: set[int] = counts, **named: Any) -> Any:
            if self.training and torch.is_grad_enabled():
                counts.add(len(self.selected))
            return plain(self, *inputs, **named)

        monkeypatch.setattr(Dispatch, "forward", forward)
        run(config(name, epochs=2), tmp_path / name)
        seen[name] = counts
    assert seen["darts"] >= {4} and seen["gdas"] == {1} and seen["stacnas"] >= {3}


def test_the_memory_is_said_before_the_run(tmp_path: Path, call: Run) -> None:
    large = {**CELLS, "batch_size": 320, "max_train_images": 640}
    estimates = {name: estimate_search(config(name, large))["estimate"] for name in NAMES}
    assert [estimates[name]["choices_at_once"] for name in NAMES] == [140, 28, 112]
    assert (
        estimates["darts"]["activation_mb"] > estimates["stacnas"]["activation_mb"] > estimates["gdas"]["activation_mb"]
    )
    assert estimates["darts"]["rewards"] == 0
    file = tmp_path / "config.json"
    file.write_text(config("darts", epochs=1).model_dump_json())
    code, _, error = call("search", "--config", str(file), "--out", str(tmp_path / "run"))
    said = " ".join(error.split())
    assert code == 0 and said.index("MB of activations for a batch of 64") < said.index("epoch 1/1")


def test_the_measured_memory_is_that_of_a_whole_batch() -> None:
    one = config("darts")
    prepared = prepare(one, stages_of(one), "cpu", None)
    strategy = prepared.stages[0].build(prepared.space, 0, 0)
    assert isinstance(strategy, MixtureStrategy)
    mixture = largest_mixture(prepared.net, prepared.space, strategy)
    assert all(sum(row) == pytest.approx(1) for row in mixture)
    found = activation_bytes(prepared.net, mixture, prepared.task, (1, 8, 8), 40)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    prepared.net.set_mixture([[torch.tensor(w, requires_grad=True) if w else 0.0 for w in row] for row in mixture])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = prepared.net(torch.rand(40, 1, 8, 8))
    own = {tensor.untyped_storage().data_ptr() for tensor in (*prepared.net.parameters(), *prepared.net.buffers())}
    assert outputs.grad_fn is not None
    assert found == pytest.approx(sum(size for place, size in kept.items() if place not in own), rel=1e-3)


@pytest.mark.parametrize("name", ["darts", "stacnas"])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, call: Run, name: str) -> None:
    (tmp_path / "rates.py").write_text("def rising():\n    return lambda time: 0.05 if time < 1 else 1e30\n")
    file, out = tmp_path / "config.json", tmp_path / "run"
    file.write_text(config(name, schedule=f"{tmp_path / 'rates.py'}:rising").model_dump_json())
    code, _, error = call("search", "--config", str(file), "--out", str(out))
    said = " ".join(error.split())
    assert code == 7 and "Traceback" not in said
    # The architecture of darts learns from the validation loss before the training loss is known.
    assert ("an architecture weight became NaN or infinite at step 7" if name == "darts" else "lower the learn") in said
    assert read_checkpoint(out)[1]["state"]["epoch"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_architecture_weights_that_are_not_finite_end_the_run(name: str) -> None:
    one = config(name)
    prepared = prepare(one, stages_of(one), "cpu", None)
    strategy = prepared.stages[0].build(prepared.space, 0, 0)
    assert isinstance(strategy, MixtureStrategy)
    state = strategy.state_dict()
    state["alphas"][2, 1] = float("nan")
    strategy.load_state_dict(state)
    with pytest.raises(RunError, match="an architecture weight became NaN or infinite at step 1"):
        strategy.train_step(prepared.net, prepared.task, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gdas", "stacnas"])
def test_more_epochs_would_be_another_search(runs: dict[str, Path], name: str) -> None:
    with pytest.raises(UsageError, match="depends on the number of epochs"):
        resume(runs[name], epochs=9)


def test_a_darts_search_is_extended_to_what_a_longer_one_is(tmp_path: Path, runs: dict[str, Path]) -> None:
    run(config("darts", epochs=2), tmp_path / "run")
    resume(tmp_path / "run", epochs=3)
    same(tmp_path / "run", runs["darts"])


def test_a_second_stage_with_nothing_to_choose_is_refused_before_the_run(tmp_path: Path) -> None:
    two = {**CELLS, "model": "narfx:darts_search?cells=3&channels=2&in_channels=1&operators=s2"}
    with pytest.raises(UsageError, match=r"stage 2 has nothing to choose: leave it out \(--strategy-option stages=1\)"):
        run(config("stacnas", two), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_groups_are_said_before_the_run(tmp_path: Path, call: Run) -> None:
    file = tmp_path / "config.json"
    file.write_text(config("stacnas", CELLS, epochs=2).model_dump_json())
    for more in ((), ("--dry-run",)):
        code, out, error = call("search", "--config", str(file), "--out", str(tmp_path / f"run{len(more)}"), *more)
        said = "groups: max_pool_3x3/avg_pool_3x3; all other operators stand alone"
        assert code == 0 and said in " ".join((out + error).split())


def test_options_that_no_strategy_can_have_and_a_temperature_that_would_rise(tmp_path: Path, call: Run) -> None:
    for name, option, said in (
        ("darts", "seed=3", "there is no 'seed'"),
        ("nar", "space=1", "there is no 'space'"),
        ("random", "name=1", "there is no 'name'"),
        ("gdas", "tau_min=20", "tau_min is 20, above tau_max (10)"),
    ):
        code, _, error = call("search", "narfx:resnet8?in_channels=1", "--data", "digits", "--strategy", name,
                              "--strategy-option", option, "--out", str(tmp_path / "run"))  # fmt: skip
        assert code == 2 and said in " ".join(error.split()), error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"groups": "conv7x7"}, "the group conv7x7 would be empty"),
        ({"groups": "base/dwsep3x3/maxpool3x3/avgpool3x3"}, "one group at each slot"),
        ({"stages": 5}, "stages is 5"),
        ({"chosen": "0,1"}, "the vector has 2 entries"),
        ({"chosen": "dwsep3x3,dwsep3x3,dwsep3x3,dwsep3x3,dwsep3x3,dwsep3x3"}, "stage 2 has nothing to choose"),
        ({"chosen": [0, 3, 1], "stages": 1}, "give one of them"),
    ],
)
def test_groups_that_cannot_be_are_one_sentence(tmp_path: Path, call: Run, options: dict[str, Any], said: str) -> None:
    file, out = tmp_path / "config.json", tmp_path / "run"
    file.write_text(config("stacnas", options=options).model_dump_json())
    code, _, error = call("search", "--config", str(file), "--out", str(out))
    assert code == 2 and said in " ".join(error.split()) and "Traceback" not in error and not out.exists()


def test_too_few_epochs_for_two_stages(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 stages of stacnas"):
        run(config("stacnas", epochs=1), tmp_path / "run")
    run(config("stacnas", epochs=1, options={"stages": 1}), tmp_path / "run")
    assert not list(iter_events(tmp_path / "run", StageBegan))


def test_the_report_draws_the_weights_of_the_choices(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    report(runs["stacnas"], out=out)
    page = out.read_text(encoding="utf-8")
    assert "Operator probabilities" in page and "What each slot prefers" in page and "Architecture loss" in page


def test_a_users_own_cells(tmp_path: Path) -> None:
    text = USER_CELLS.replace("(3, 8, 8)", "(1, 8, 8)").replace("Conv2d(3, 4,", "Conv2d(1, 4,")
    (tmp_path / "net.py").write_text(text.replace("Linear(16, 4)", "Linear(16, 10)"))
    one = config("stacnas", CELLS, epochs=2, model=str(tmp_path / "net.py"), budget="macs<=0.4x")
    result = run(one, tmp_path / "run")
    assert result["macs"] <= float(result["budget"].split("<=")[1])


def test_norms_of_their_own_and_a_trained_base(tmp_path: Path) -> None:
    """The fresh stage of a search that starts from weights starts from these."""
    weights = tmp_path / "base.safetensors"
    save_file(dict(MODELS["resnet8"].factory(width=4, in_channels=1).state_dict()), weights)
    (tmp_path / "rates.py").write_text("def falling():\n    return lambda time: 0.5 if time < 1 else 1e-12\n")
    one = config("stacnas", epochs=2, init="base", weights=str(weights), norms="separate", lr=0.5, weight_decay=0.0,
                 schedule=f"{tmp_path / 'rates.py'}:falling")  # fmt: skip
    result = run(one, tmp_path / "run")
    assert result["macs"] <= float(result["budget"].split("<=")[1])
    kept = read_checkpoint(tmp_path / "run")[1]["state"]["net"]
    given = load_file(weights)
    same_start = [key for key in given if key in {name.removeprefix("graph_module.") for name in kept}]
    assert len(same_start) > 5
    for key in same_start:
        if given[key].is_floating_point() and "running" not in key:
            torch.testing.assert_close(kept[f"graph_module.{key}"], given[key], rtol=0, atol=1e-6)
