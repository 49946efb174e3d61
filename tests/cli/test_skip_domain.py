"""The skip domain as a user meets it: arch.json, the command line, searches and comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import RunJson as Run
from command import in_process_json
from hypothesis import given
from hypothesis import strategies as st

import narfx
from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.compiler.open import open_architecture
from narfx.errors import UsageError
from narfx.graph.cost import measure
from narfx.runs.events import read_events

MODEL = "narfx:resnet_cifar?depth=8&width=4&in_channels=1"
QUICK = ["--data", "d.npz", "--epochs", "2", "--pretrain-epochs", "1", "--steps", "2", "--finalists", "2"]
QUICK += ["--batch-size", "50", "--val-fraction", "0.3", "--reward-images", "30", "--augment", "none"]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run narfx with --json in this process, in a fresh folder that holds data."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (120, 8, 8), dtype=np.uint8), np.arange(120) % 10
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)

    return in_process_json(capfd)


def arch(**changes: Any) -> str:
    values = {"model": MODEL, "vector": [1, 0, 2, 0, 0, 3], "input": [1, 8, 8], **changes}
    Path("arch.json").write_text(json.dumps(values))
    return "arch.json"


def test_a_trace_shows_nodes_and_possible_skips(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    plain = run("trace", MODEL, "--input", "1,8,8")[1]
    code, report, _ = run("trace", MODEL, "--input", "1,8,8", "--search-skips")
    skips = report["skips"]
    assert code == 0 and report["slots"] == plain["slots"] == 6
    assert len(skips["nodes"]) == 7 and skips["count"] == len(skips["possible"]) == 15
    assert skips["base"] == [[0, 2], [2, 4], [4, 6]] and skips["impossible"] == []
    assert report["cost"]["base"] == plain["cost"]["base"] and report["cost"]["max"]["macs"] > plain["macs"]
    assert report["fingerprint"] != plain["fingerprint"] and "skips" not in plain
    paper = run("trace", MODEL, "--input", "1,8,8", "--search-skips", "--no-skips-from-input")[1]
    assert paper["skips"]["count"] == 10 and paper["skips"]["base"] == [[2, 4], [4, 6]]
    assert [entry["code"] for entry in paper["skipped"]] == ["first", "kernel", "kernel", "base_skip"]
    assert run_app(app, ["trace", MODEL, "--input", "1,8,8", "--search-skips"]) == 0
    assert "6 nodes on the main path, 15 possible skips (3 of the base)" in capfd.readouterr().out


@given(
    entries=st.lists(st.integers(0, 2), min_size=5, max_size=5), bits=st.lists(st.booleans(), min_size=6, max_size=6)
)
def test_a_vector_is_its_operators_and_its_skips(entries: list[int], bits: list[bool]) -> None:
    space = narfx.SearchSpace.uniform(5, 3, skips=True)
    vector = (*entries, *map(int, bits))
    operators, skips = space.split(space.validate(vector))
    assert skips is not None and len(skips) == sum(bits) and space.join(operators, skips) == vector
    assert space.read(json.loads(json.dumps(space.describe(vector)))) == vector
    assert space.join(operators, None) == (*entries, *(0,) * 6)
    for wrong, kind in (((*entries, *bits[1:], 2), "vector_index"), (entries, "vector_length")):
        with pytest.raises(UsageError) as caught:
            space.validate([int(entry) for entry in wrong])
        assert caught.value.kind == kind and "skip" in str(caught.value)


def test_a_hand_written_architecture_is_applied_and_checked(run: Run) -> None:
    code, report, err = run("apply", arch(skips=[[0, 2], [1, 4], [2, 6], [4, 6]]), "--out", "out")
    assert code == 0, err
    assert report["skips"] == [[0, 2], [1, 4], [2, 6], [4, 6]] and report["parity"]["passed"]
    assert "3 skips other than the base's" in report["weights"]
    written = json.loads(Path("out/arch.json").read_text())
    assert written["skips"] == report["skips"] and written["vector"] == [1, 0, 2, 0, 0, 3]
    assert list(written)[:4] == ["version", "model", "vector", "skips"]
    source = Path("out/model.py").read_text()
    assert report["source"] is None and "import narfx" not in source and "'skips.1_4.conv'" in source
    assert run("check", "out")[0] == 0
    without = {key: value for key, value in written.items() if key != "skips"}
    for other in ({**written, "skips": [[0, 2]]}, without):
        Path("out/arch.json").write_text(json.dumps(other))
        code, report, _ = run("check", "out")
        assert (code, report["error"]["kind"]) == (5, "metadata") and "skips" in report["error"]["message"]


def test_without_skips_an_architecture_has_those_of_the_base(run: Run) -> None:
    own = narfx.Architecture.load(arch())
    assert own.skips is None and not own.search_skips
    assert narfx.Architecture.load(arch(skips=[])).search_skips
    given: list[dict[str, Any]] = [{}, {"skips": [[4, 6], [0, 2], [2, 4]]}, {"search_skips": True}, {"skips": []}]
    plain, same, opened, none = (
        open_architecture(narfx.Architecture.load(arch(**changes)), seed=3).network for changes in given
    )
    x = torch.ones(2, 1, 8, 8)
    assert plain.code == same.code == opened.code != none.code
    assert torch.equal(plain(x), same(x)) and torch.equal(plain(x), opened(x)) and not torch.equal(plain(x), none(x))
    assert plain.state_dict().keys() == same.state_dict().keys() == opened.state_dict().keys() > set(none.state_dict())


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"skips": [[0, 9]]}, "unknown_skip", "[0, 9] is no possible skip of this network: its nodes are 0 to 6"),
        ({"skips": [[3, 4]]}, "unknown_skip", "t <= j - 2"),
        ({"skips": [[4, 2]]}, "unknown_skip", "t <= j - 2"),
        ({"skips": [[0, 2], [0, 2]]}, "repeated_skip", "[0, 2] is given twice"),
        ({"skips": [[0, 2]], "skips_from_input": False}, "unknown_skip", "[0, 2]"),
        ({"skips": [[0]]}, "malformed_architecture", "skips.0"),
        ({"skips": [[0, 2.0]]}, "malformed_architecture", "skips.0"),
        ({"skips": [[False, True]]}, "malformed_architecture", "skips.0"),
        ({"skips": "base"}, "malformed_architecture", "skips"),
        ({"skips": [], "search_skips": False}, "malformed_architecture", "leave one of the two out"),
        ({"skips": [], "vector": [0] * 21}, "vector_length", "21 entries, but the model has 6 slots"),
        ({"skips": [], "model": "torchvision:densenet121", "input": [3, 32, 32]}, "no_main_path", "DenseNet"),
    ],
)
def test_what_a_user_can_get_wrong(run: Run, changes: dict[str, Any], kind: str, words: str) -> None:
    code, report, err = run("apply", arch(**changes), "--out", "out")
    assert (code, report["error"]["kind"]) == (2, kind), report
    assert words in report["error"]["message"] and report["error"]["message"] in err
    assert not Path("out").exists()


@pytest.mark.parametrize("strategy", ["random", "evolution", "nar", "enas", "alternating"])
def test_a_search_covers_skips(run: Run, strategy: str) -> None:
    budget = "none" if strategy == "random" else "macs<=1.2x"
    code, result, err = run(
        "search", MODEL, "--input", "1,8,8", "--search-skips", "--strategy", strategy, "--out", "run", *QUICK,
        "--budget", budget,
    )  # fmt: skip
    assert code == 0, err
    assert "6 slots and 15 possible skips" in err
    written = json.loads(Path("run/arch.json").read_text())
    assert len(result["vector"]) == 6 and (written["vector"], written["skips"]) == (result["vector"], result["skips"])
    for record in json.loads(Path("run/front.json").read_text())["front"]:
        assert len(record["vector"]) == 6 and all(t <= j - 2 for t, j in record["skips"])
    steps = [event for event in read_events(Path("run")) if event["event"] == "step"]
    assert {len(vector) for event in steps for vector in event["vectors"]} == {21}  # operators and skips in one
    tried = {tuple(vector[6:]) for event in steps for vector in event["vectors"]}
    assert len(tried) == 1 if strategy == "alternating" else len(tried) > 1  # it begins with the operators alone
    lowered = open_architecture(narfx.Architecture.load("run/arch.json"), relative_to=Path("run"))
    assert "the lowered network's" in lowered.weights or lowered.weights.endswith("the base's")
    assert measure(lowered.network, (1, 8, 8)) == {metric: result[metric] for metric in ("params", "macs")}


def test_a_comparison_draws_operators_and_skips(run: Run) -> None:
    target = arch(skips=[[0, 2], [1, 4], [4, 6]])
    code, result, err = run("compare", target, "--data", "d.npz", "--out", "cmp", "--epochs", "1", "--seeds", "1")
    assert code == 0, err
    base, refined, *randoms = result["rows"]
    assert base["skips"] == [[0, 2], [2, 4], [4, 6]] and base["vector"] == [0] * 6
    assert refined["skips"] == [[0, 2], [1, 4], [4, 6]] and refined["vector"] == [1, 0, 2, 0, 0, 3]
    assert len(randoms) == 8 and len({json.dumps(row["skips"]) for row in randoms}) > 1
    assert all(0.98 * refined["macs"] <= row["macs"] <= refined["macs"] for row in randoms)


def test_an_architecture_with_skips_is_trained(run: Run) -> None:
    target = arch(skips=[[1, 4]])
    code, result, err = run("train", target, "--data", "d.npz", "--out", "run", "--epochs", "1")
    assert code == 0, err
    assert result["skips"] == [[1, 4]]
    assert json.loads(Path("run/arch.json").read_text())["skips"] == [[1, 4]]
    result = run("train", target, "--base", "--data", "d.npz", "--out", "base", "--epochs", "1")[1]
    assert result["skips"] == [[0, 2], [2, 4], [4, 6]] and result["vector"] == [0] * 6
