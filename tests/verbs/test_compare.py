"""Several architectures compared on data that they were not found on, as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import RunJson as Run
from command import in_process_json
from sample_faces import NET, people, write_bin

from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.inputs.weights import read_weights
from narfx.runs.events import read_events
from narfx.runs.folder import RunFolder
from narfx.search import SearchConfig
from narfx.search import run as search
from narfx.verbs.evaluate import EvaluateConfig, evaluate
from narfx.verbs.train import TrainConfig, resume_train, train

MODEL = "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10"
COLOUR = "narfx:chain12?channels=4"
QUICK = ["--epochs", "1", "--seeds", "2", "--randoms", "2", "--batch-size", "40"]


def data_set(path: Path, classes: int) -> None:
    """Grey images of ``classes`` classes, each a bright bar in a place of its own."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % classes
    images = rng.integers(0, 60, (160, 8, 8), dtype=np.uint8)
    images[np.arange(160), labels] += 180
    np.savez(path, x_train=images, y_train=labels, x_test=images[:60], y_test=labels[:60])


def arch(path: str, **values: Any) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(json.dumps({"model": MODEL, "input": [1, 8, 8], **values}))


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run narfx in this process in a folder with two architectures of one base, one of another, and two data sets."""
    monkeypatch.chdir(tmp_path)
    data_set(tmp_path / "four.npz", 4)
    arch("nar/arch.json", vector=[1, 0, 2, 0, 3, 0])
    arch("joint.json", vector=[1, 0, 2, 0, 0, 3], skips=[[0, 2], [1, 4], [4, 6]])
    arch("chain.json", model=COLOUR, vector=[1] * 6 + [0] * 6, input=[3, 8, 8])

    return in_process_json(capfd)


def test_architectures_of_two_bases_on_data_of_other_classes(run: Run, tmp_path: Path) -> None:
    code, result, err = run(
        "compare", "nar/arch.json", "J=joint.json", "chain.json", "--data", "four.npz", "--outputs", "auto",
        "--out", "cmp", *QUICK,
    )  # fmt: skip
    assert code == 0, err
    rows = {row["name"]: row for row in result["rows"]}
    found = {entry["name"]: entry for entry in result["architectures"]}
    assert [(entry["name"], entry["base"], entry["kind"]) for entry in result["architectures"]] == [
        ("nar", "base of nar", "operators"),
        ("J", "base of nar", "operators and skips"),
        ("chain", "base of chain", "operators"),
    ]
    assert "num_classes=4" in err and "grey images repeated to 3 channels" in err
    for name, entry in found.items():
        own, randoms = rows[name], [rows[f"{name} random {k}"] for k in (1, 2)]
        assert len(own["accuracies"]) == 2 and entry["verdict"] in result["verdict"]
        assert all(0.98 * own["macs"] <= row["macs"] <= own["macs"] for row in randoms)
        assert entry["random"]["mean"] == pytest.approx(sum(row["mean"] for row in randoms) / 2)
        assert entry["random"]["best"] == max(row["mean"] for row in randoms)
    assert "skips" in rows["J random 1"] and "skips" not in rows["nar random 1"]
    # Trained once: what both architectures of one model are beside.
    trained = [event["name"] for event in read_events(tmp_path / "cmp") if event["event"] == "trained"]
    assert sorted(trained) == sorted([*rows] * 2)
    state, _ = read_weights(tmp_path / "cmp" / "runs" / "J-0" / "weights.safetensors")
    assert state["fc.weight"].shape[0] == 4

    # Killed after a network was finished and before its event was written.
    (tmp_path / "cmp" / "comparison.json").unlink()
    events = tmp_path / "cmp" / "events.jsonl"
    whole = [{**event, "seconds": 0} for event in read_events(tmp_path / "cmp")]
    events.write_text("".join(events.read_text().splitlines(keepends=True)[:-1]))
    code, again, _ = run("compare", "--resume", "--out", "cmp")
    assert code == 0 and again["rows"] == result["rows"] and again["architectures"] == result["architectures"]
    assert [{**event, "seconds": 0} for event in read_events(tmp_path / "cmp")] == whole


def test_the_table_has_a_row_for_each_architecture(run: Run, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = ["compare", "nar/arch.json", "joint.json", "--data", "four.npz", "--out", "cmp", *QUICK, "--quiet"]
    assert run_app(app, given) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["network", "differs"]
    for column in ("± s.e.", "base", "random, mean", "random, best", "params", "MACs"):
        assert column in lines[0]
    assert [line.split()[0] for line in lines[1:4]] == ["base", "nar", "joint"]
    joint = next(row for row in json.loads((tmp_path / "cmp/comparison.json").read_text())["rows"] if "skips" in row)
    assert f"{joint['macs']:,}" in lines[3] and "operators and skips" in lines[3]


def test_faces_are_verified(run: Run, tmp_path: Path) -> None:
    """A classifier's architecture beside a face network's, as embeddings of 16 numbers, on pairs of strangers."""
    images, identity = people(4, 10)
    np.savez("faces.npz", images=images, identity=identity)
    write_bin(tmp_path / "pairs.bin", 20)
    Path("face.py").write_text(NET)
    arch("face.json", model="face.py:Net", vector=[1, 0], input=[3, 16, 16])
    arch("chain.json", model=COLOUR, vector=[1] * 6 + [0] * 6, input=[3, 16, 16])
    options = ["--task", "faces", "--val-fraction", "0.2", "--outputs", "16", "--verify", "pairs.bin"]
    given = ["compare", "face.json", "chain.json", "--data", "faces.npz", *options, *QUICK, "--batch-size", "16"]
    code, result, err = run(*given, "--out", "cmp")
    assert code == 0, err
    assert (result["metric"], result["part"]) == ("identification_accuracy", "val")
    for row in result["rows"]:
        verified = row["verification"]
        assert len(verified["accuracies"]) == 2 and 0 <= verified["mean"] <= 1 and verified["standard_error"] >= 0
    for entry in result["architectures"]:
        randoms = [row["verification"]["mean"] for row in result["rows"] if row["name"].startswith(f"{entry['name']} ")]
        assert entry["verification"]["random"]["best"] == max(randoms)
    kept = json.loads((tmp_path / "cmp" / "runs" / "face-0" / "metrics.json").read_text())
    assert len(kept["verification"]["folds"]) == 10
    # What was verified is what evaluate says of the weights that were kept.
    code, found, err = run(
        "evaluate", "face.json", "--weights", "cmp/runs/face-0/weights.safetensors", "--data", "pairs.bin"
    )
    assert code == 0, err
    assert found["accuracy"] == kept["verification"]["accuracy"]
    code, told, _ = run(*given, "--folds", "1", "--out", "x")
    assert (code, told["error"]["kind"]) == (2, "too_few_folds") and not Path("x").exists()


def test_kill_and_resume(run: Run, tmp_path: Path) -> None:
    """A process of its own, killed behind its second network; the whole is what it would have been."""
    given = ["nar/arch.json", "joint.json", "--data", "four.npz", "--epochs", "2", "--seeds", "1", "--randoms", "1"]
    code, whole, err = run("compare", *given, "--out", "whole")
    assert code == 0, err
    process = subprocess.Popen(
        [sys.executable, "-m", "narfx", "compare", *given, "--out", "cut", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    end = time.monotonic() + 120
    second = tmp_path / "cut" / "runs" / "nar-0" / "metrics.json"
    while not second.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert second.exists()
    kept = second.stat().st_mtime_ns
    code, result, err = run("compare", "--resume", "--out", "cut")
    assert code == 0, err
    assert result["rows"] == whole["rows"] and second.stat().st_mtime_ns == kept
    told = [[event["name"] for event in read_events(tmp_path / out)] for out in ("whole", "cut")]
    assert told[0] == told[1]
    assert not list((tmp_path / "cut").rglob("checkpoint*"))


def test_another_input_keeps_the_architecture(run: Run) -> None:
    """The fingerprint of a search holds shapes; with --input the sites are compared without them."""
    code, _, err = run(
        "search", MODEL, "--input", "1,8,8", "--data", "digits", "--init", "scratch", "--epochs", "2",
        "--pretrain-epochs", "1", "--steps", "1", "--finalists", "1", "--out", "found",
    )  # fmt: skip
    assert code == 0, err
    code, result, err = run(
        "compare", "found/arch.json", "--data", "four.npz", "--input", "1,12,12", "--out", "cmp", "--epochs", "1",
        "--seeds", "1", "--randoms", "0",
    )  # fmt: skip
    assert code == 0, err
    written = json.loads(Path("found/arch.json").read_text())
    assert result["rows"][1]["vector"] == written["vector"] and [row["name"] for row in result["rows"]] == [
        "base", "refined"
    ]  # fmt: skip
    assert result["rows"][1]["macs"] > written["metrics"]["macs"]
    assert result["architectures"][0]["input"] == [1, 12, 12]
    written["sites"][0] = written["sites"][0].replace("stride 1x1", "stride 2x2")
    Path("found/arch.json").write_text(json.dumps(written))
    code, told, _ = run("compare", "found/arch.json", "--data", "four.npz", "--input", "1,12,12", "--out", "x")
    assert (code, told["error"]["kind"]) == (2, "fingerprint") and not Path("x").exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["nar/arch.json", "joint.json", "nar/arch.json"], "architecture_name", "'nar'"),
        (["base=nar/arch.json"], "architecture_name", "another name"),
        (["nar/arch.json", "gone.json"], "missing_file", "gone.json"),
        (["nar/arch.json", "--verify", "pairs.bin"], "bad_config", "--task faces"),
        (["nar/arch.json", "--pairs", "pairs.txt"], "bad_config", "--verify"),
        (["nar/arch.json", "--task", "faces", "--outputs", "auto"], "bad_config", "embedding"),
        (["nar/arch.json", "--outputs", "many"], "bad_config", "outputs"),
        (["nar/arch.json", "--outputs", "3"], "too_few_outputs", "--outputs auto"),
        (["nar/arch.json", "--outputs", "4", "--init", "inherit"], "bad_config", "--init scratch"),
        (["nar/arch.json", "chain.json", "--init", "inherit", "--weights", "w"], "missing_file", "w"),
        (["nar/arch.json", "--schedule", "long"], "bad_config", "schedule"),
        (["nar/arch.json", "--precision", "fp8"], "bad_config", "precision"),
    ],
)
def test_what_a_user_can_get_wrong(run: Run, arguments: list[str], kind: str, words: str) -> None:
    code, result, err = run("compare", *arguments, "--data", "four.npz", "--out", "x")
    assert (code, result["error"]["kind"]) == (2, kind), result
    assert words in result["error"]["message"] and "Traceback" not in err and not Path("x").exists()


def test_a_schedule_wins_over_a_config_file_and_options_over_both(run: Run) -> None:
    arguments = ["--data", "four.npz", "--randoms", "0", "--seeds", "1"]
    code, _, err = run("compare", "nar/arch.json", *arguments, "--epochs", "1", "--t0", "3", "--out", "one")
    assert code == 0, err
    given = ["--config", "one/config.json", "--schedule", "train", "--epochs", "2", "--out", "two"]
    code, _, err = run("compare", *given)
    assert code == 0, err
    config = RunFolder.open(Path("two")).config()
    assert (config["epochs"], config["t0"], config["randoms"], config["schedule"]) == (2, 5, 0, "train")


def test_bfloat16_on_a_cpu(run: Run, tmp_path: Path) -> None:
    """Products are rounded, weights and metrics are float32, and an interrupted training ends as one never stopped."""
    common = {"target": "nar/arch.json", "data": "four.npz", "init": "scratch", "batch_size": 40, "epochs": 2}
    config = TrainConfig.model_validate({**common, "precision": "bf16", "channels_last": False})
    whole = train(config, "whole", device="cpu")
    exact = train(TrainConfig.model_validate(common), "exact", device="cpu")
    assert np.isfinite(whole["loss"]) and whole["loss"] != exact["loss"]
    assert abs(whole["loss"] - exact["loss"]) < 0.1
    assert whole["precision"] == "bf16" and "precision" not in exact
    judged = {
        name: evaluate(EvaluateConfig(target="whole/arch.json", data="four.npz", precision=name), device="cpu")["loss"]
        for name in ("fp32", "bf16")
    }
    assert judged["fp32"] == pytest.approx(whole["test"]["loss"], rel=1e-5)
    assert judged["bf16"] != pytest.approx(whole["test"]["loss"], rel=1e-5)
    weights, _ = read_weights(tmp_path / "whole" / "weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} <= {torch.float32, torch.int64}

    class Stops:
        """Says nothing, and stops behind the first epoch."""

        def say(self, text: str) -> None:
            if "epoch 1/2" in text:
                self.armed = True

        def track(self, items: Any, total: int, label: str) -> Any:
            if getattr(self, "armed", False):
                raise KeyboardInterrupt
            return items

    with pytest.raises(Exception, match="interrupted"):
        train(config, "cut", device="cpu", reporter=Stops())
    assert resume_train("cut", device="cpu")["loss"] == whole["loss"]
    again, _ = read_weights(tmp_path / "cut" / "weights.safetensors")
    assert all(torch.equal(again[key], weights[key]) for key in weights)

    found = search(
        SearchConfig.model_validate(
            {
                "model": MODEL, "input": (1, 8, 8), "data": "four.npz", "init": "scratch", "epochs": 2,
                "pretrain_epochs": 1, "steps": 1, "proposals": 2, "finalists": 1, "precision": "bf16", "batch_size": 40,
            }
        ),
        "found",
        device="cpu",
    )  # fmt: skip
    assert 0 <= found["accuracy"] <= 1 and found["precision"] == "bf16"


def test_an_evaluation_in_bfloat16(run: Run) -> None:
    """It differs from float32's by rounding alone; an ONNX file is run as it is."""
    images, labels = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8), np.arange(40) % 10
    np.savez("ten.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    losses = [
        run("evaluate", MODEL, "--input", "1,8,8", "--data", "ten.npz", "--precision", precision)[1]["loss"]
        for precision in ("fp32", "bf16")
    ]
    assert 0 < abs(losses[0] - losses[1]) < 0.05
    for target, precision, words in (("net.onnx", "bf16", "as it was exported"), (MODEL, "fp8", "fp32 or bf16")):
        code, told, _ = run("evaluate", target, "--data", "ten.npz", "--precision", precision)
        assert (code, told["error"]["kind"]) == (2, "precision") and words in told["error"]["message"]
