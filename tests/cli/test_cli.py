"""The command line as a user meets it: exit codes, one sentence, valid JSON, nothing overwritten."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Run, in_process

from narfx.runs.events import read_events
from narfx.search import SearchConfig

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=10, channels=1):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=0)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.a(self.stem(x))))
        return self.head(self.b(x).mean((2, 3)))
"""
QUICK = ["--epochs", "2", "--pretrain-epochs", "1", "--steps", "2", "--finalists", "2"]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run narfx in this process, in a fresh folder that holds ``net.py``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)

    return in_process(capfd)


def refused(run: Run, *arguments: str, code: int, kind: str) -> str:
    """Run with --json: the exit code, one JSON object, one sentence on standard error, no traceback."""
    got, out, err = run(*arguments, "--json")
    error = json.loads(out)["error"]
    assert (got, error["code"], error["kind"]) == (code, code, kind), error
    assert error["message"] in err and "Traceback" not in err
    return str(error["message"])


def arch(tmp_path: Path, **changes: Any) -> str:
    values = {"model": "net.py", "vector": [1, 0], "input": [1, 8, 8], **changes}
    path = tmp_path / "arch.json"
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return str(path)


def test_trace_prints_a_table_and_json(run: Run) -> None:
    code, out, err = run("trace", "net.py", "--input", "1,8,8")
    assert code == 0 and "2 slots" in out and err == ""
    code, out, err = run("trace", "net.py", "--input", "1,8,8", "--json")
    report = json.loads(out)
    assert code == 0 and report["slots"] == 2 and [site["name"] for site in report["sites"]] == ["a", "b"]
    assert {"model", "input", "granularity", "params", "macs", "operators", "sites", "skipped", "cost"} <= set(report)
    assert report["cost"]["min"]["macs"] < report["cost"]["base"]["macs"] == report["macs"]
    assert report["skipped"][0]["name"] == "stem" and report["skipped"][0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        ([], 2, "usage"),
        (["trac"], 2, "usage"),
        (["trace"], 2, "usage"),
        (["trace", "net.py", "--nonsense"], 2, "usage"),
        (["trace", "gone.py"], 2, "missing_file"),
        (["trace", "net.py", "--input", "3,8"], 2, "input_shape"),
        (["trace", "net.py", "--input", "3,8,8"], 2, "input_shape"),
        (["trace", "net.py", "--input", "1,8,8", "--granularity", "cell"], 2, "bad_config"),
        (["trace", "net.py", "--input", "1,8,8", "--operators", "base,conv9x9"], 2, "unknown_operator"),
        (["trace", "net.py", "--input", "1,8,8", "--max-candidate-params", "much"], 2, "bad_config"),
        (["trace", "net.py", "--input", "1,8,8", "--device", "cuda:77"], 2, "no_device"),
        (["trace", "net.py", "--input", "1,8,8", "--operators", "base"], 3, "nothing_to_refine"),
        (["trace", "net.py", "--input", "1,8,8", "--weights", "gone.pt"], 2, "missing_file"),
        (["apply", "gone.json", "--out", "x"], 2, "missing_file"),
        (["check", "gone"], 2, "missing_folder"),
        (["search", "--out", "r"], 2, "missing_option"),
        (["search", "net.py", "--out", "r"], 2, "missing_option"),
        (["search", "--resume", "--out", "r"], 2, "no_run"),
        (["search", "net.py", "--data", "digits", "--out", "r", "--strategy", "oracle"], 2, "unknown_strategy"),
        (["search", "net.py", "--data", "digits", "--out", "r", "--strategy-option", "x=1"], 2, "strategy_option"),
        (["search", "net.py", "--data", "digits", "--out", "r", "--budget", "macs=1"], 2, "budget_syntax"),
        (["search", "net.py", "--data", "digits", "--out", "r", "--budget", "macs<=0.001x"], 4, "infeasible_budget"),
        (["search", "net.py", "--data", "digits", "--out", "r", "--randoms", "2"], 2, "bad_config"),
        (["search", "net.py", "--data", "digits", "--out", "r", "--epochs", "0"], 2, "bad_config"),
        (["search", "net.py?classes=9", "--data", "digits", "--out", "r"], 2, "too_few_outputs"),
        (["search", "net.py", "--data", "gone.npz", "--out", "r"], 2, "missing_data"),
        (["train", "net.py", "--input", "1,8,8", "--out", "r"], 2, "missing_option"),
        (["train", "--resume", "--out", "r"], 2, "no_run"),
        (["search", "--resume", "--out", "r", "--lr", "9"], 2, "resume_options"),
        (["search", "--resume", "--out", "r", "--epochs", "9"], 2, "no_run"),
        (["compare", "--resume", "--out", "r", "--epochs", "9"], 2, "resume_options"),
        (["train", "net.py", "--data", "digits", "--out", "r", "--batch-size", "0"], 2, "bad_config"),
        (["train", "net.py", "--data", "digits", "--input", "1,8,8", "--out", "n" * 300], 2, "not_writable"),
        (["train", "net.py", "--data", "digits", "--input", "1,8,8", "--out", "r", "--seed", "9" * 30], 2, "usage"),
        (["compare", "gone.json", "--data", "digits", "--out", "r"], 2, "missing_file"),
        (["compare", "net.py", "--data", "digits", "--out", "r"], 2, "not_an_architecture"),
    ],
)  # fmt: skip
def test_what_a_user_can_get_wrong(run: Run, tmp_path: Path, arguments: list[str], code: int, kind: str) -> None:
    if arguments[:1] == ["search"] and not {"--input", "--resume"} & set(arguments):
        arguments = [*arguments, "--input", "1,8,8"]
    refused(run, *arguments, code=code, kind=kind)
    assert not (tmp_path / "r").exists() and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"vector": [1]}, "vector_length", "2 slots"),
        ({"vector": [1.0, 0]}, "malformed_architecture", "vector.0"),
        ({"vector": [True, 0]}, "malformed_architecture", "vector.0"),
        ({"vector": [1, 9]}, "vector_index", "slot 1 (b)"),
        ({"operators": ["base", "dwsep5x5", "conv5x5"], "vector": [2, 0]}, "vector_illegal", "slot 0 (a)"),
        ({"operators": ["base", "magic"]}, "unknown_operator", "magic"),
        ({"fingerprint": "0" * 16, "sites": ["slot 0 gone"]}, "fingerprint", "slot 0 gone"),
        ({"vektor": [1, 0]}, "malformed_architecture", "vektor"),
        ({"model": None}, "malformed_architecture", "model"),
        ({"model": "gone.py"}, "missing_file", "gone.py"),
    ],
)  # fmt: skip
def test_wrong_architectures(run: Run, tmp_path: Path, changes: dict[str, Any], kind: str, words: str) -> None:
    message = refused(run, "apply", arch(tmp_path, **changes), "--out", "x", code=2, kind=kind)
    assert words in message and not (tmp_path / "x").exists()


@pytest.mark.parametrize("given", ["x", "muchx", "much"])
def test_what_was_given_is_what_is_found(run: Run, given: str) -> None:
    message = refused(run, "trace", "net.py", "--max-candidate-params", given, code=2, kind="bad_config")
    assert f"--max-candidate-params must be a number, not '{given}'" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "net.py", "--data", "digits", "--epochs", "0"], "search: --epochs must be at least 1, not 0"),
        (["search", "net.py", "--data", "digits", "--strategy-option", "x"], "--strategy-option takes KEY=VALUE"),
        (
            ["search", "net.py", "--data", "digits", "--input", "1x8x8", "--budget", "flops<=1G"],
            "FLOPs are twice as many",
        ),
        (["search", "net.py", "--data", "my_images", "--input", "1,8,8"], "no folder and no data source my_images"),
        (["search", "net.py", "--data", "digit", "--input", "1,8,8"], "did you mean digits?"),
        (["search", "net.py", "--data", "cifar10", "--input", "1,8,8"], "did you mean torchvision:cifar10:ROOT"),
        (["trace", "resnet18"], "did you mean torchvision:resnet18"),
        (["trace", "narfx:resnet18"], "did you mean torchvision:resnet18"),
        (["trace", "net"], "did you mean net.py?"),
        (["evaluate", "gone", "--data", "digits"], "there is no folder gone"),
        (["train", "--resume", "--lr", "1", "--base"], "leave out --base, --lr"),
    ],
)
def test_messages_name_what_the_user_wrote_and_the_cure(run: Run, arguments: list[str], said: str) -> None:
    out = [] if arguments[0] in ("trace", "evaluate") else ["--out", "r"]
    code, _, err = run(*arguments, *out)
    assert code == 2 and said in err


def test_an_input_is_taken_as_tables_print_it(run: Run) -> None:
    code, out, _ = run("trace", "net.py", "--input", "1x8x8")
    assert code == 0 and "input 1x8x8" in out


def test_few_epochs_keep_one_for_the_strategy(run: Run) -> None:
    named: dict[str, Any] = {"model": "net.py", "data": "digits"}
    pretraining = [SearchConfig(**named, epochs=epochs).pretrain_epochs for epochs in (1, 2, 3, 4, 30)]
    assert pretraining == [0, 1, 2, 3, 3]
    arguments = ["search", "net.py", "--input", "1,8,8", "--data", "digits", "--out", "r", "--epochs", "2"]
    message = refused(run, *arguments, "--pretrain-epochs", "2", code=2, kind="pretrain_epochs")
    assert "--pretrain-epochs 2 of --epochs 2" in message


def test_one_of_a_thing_is_in_the_singular(run: Run, tmp_path: Path) -> None:
    one = NET.replace("self.b = nn.Conv2d(8, 8, 3, padding=0)", "self.b = nn.Conv2d(8, 8, 1)")
    (tmp_path / "net.py").write_text(
        one.replace("self.head =", "self.idle = nn.Parameter(torch.zeros(1))\n        self.head =")
    )
    code, out, _ = run("trace", "net.py", "--input", "1,8,8")
    assert code == 0 and "\n1 slot at conv granularity" in out
    assert "1 key of the model is not used by the traced graph: idle; it stays" in out
    message = refused(run, "apply", arch(tmp_path, vector=[0, 0]), "--out", "x", code=2, kind="vector_length")
    assert "2 entries" in message and message.endswith("1 slot")


def test_malformed_json(run: Run, tmp_path: Path) -> None:
    (tmp_path / "arch.json").write_text('{"model": ')
    refused(run, "apply", "arch.json", "--out", "x", code=2, kind="malformed_json")


def test_an_output_folder_that_is_not_empty_is_kept(run: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("precious")
    for arguments in (
        ["apply", arch(tmp_path), "--out", "full"],
        ["search", "net.py", "--input", "1,8,8", "--data", "digits", "--out", "full"],
        ["train", "net.py", "--input", "1,8,8", "--data", "digits", "--out", "full"],
    ):
        refused(run, *arguments, code=2, kind="output_exists")
    assert (tmp_path / "full" / "mine").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_place(run: Run, tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut").chmod(stat.S_IRUSR | stat.S_IXUSR)
    refused(run, "apply", arch(tmp_path), "--out", "shut/x", code=2, kind="not_writable")


def test_a_full_disk(run: Run, tmp_path: Path) -> None:
    """No file may grow over 16 KiB, so the first checkpoint does not fit; the same run goes on once there is room."""
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)); "
        "from narfx.cli.app import app; from narfx.cli.console import run_app; sys.exit(run_app(app))"
    )
    arguments = ["search", "net.py", "--input", "1,8,8", "--data", "digits", "--out", "r", *QUICK, "--json"]
    done = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True, text=True, check=False)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["kind"]) == (7, "disk_full"), done.stderr
    assert "Traceback" not in done.stderr and sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        ".lock",
        "about.json",
        "config.json",
        "origin.json",
    ]
    code, _, err = run("search", "--resume", "--out", "r")
    assert code == 0 and (tmp_path / "r" / "arch.json").is_file(), err


def test_a_loss_that_is_not_a_number(run: Run, tmp_path: Path) -> None:
    arguments = ["train", "net.py", "--input", "1,8,8", "--data", "digits", "--epochs", "4", "--out", "r"]
    message = refused(run, *arguments, "--lr", "1e30", code=7, kind="nan_loss")
    assert "learning rate" in message and not (tmp_path / "r" / "metrics.json").exists()


def test_classes_that_differ_between_parts(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x_train=images, y_train=np.arange(40) % 4, x_test=images, y_test=np.arange(40) % 5)
    refused(
        run, "search", "net.py", "--input", "1,8,8", "--data", "d.npz", "--out", "r", code=2, kind="classes_differ"
    )  # fmt: skip


def test_json_mode_keeps_standard_output_clean(tmp_path: Path) -> None:
    """A model file that prints, as a process: standard output holds one JSON object all the same."""
    (tmp_path / "net.py").write_text("print('hello')\n" + NET)
    done = subprocess.run(
        [sys.executable, "-m", "narfx", "trace", "net.py", "--input", "1,8,8", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and json.loads(done.stdout)["slots"] == 2 and "hello" in done.stderr


def test_search_apply_check_train_compare(run: Run, tmp_path: Path) -> None:
    """The whole way on the embedded digits, small."""
    given = ["net.py", "--input", "1,8,8", "--data", "digits", "--init", "scratch", "--seed", "3"]
    code, out, err = run("search", *given, *QUICK, "--out", "run", "--json")
    result = json.loads(out)
    assert code == 0, err
    assert result["macs"] <= 0.8 * result["base"]["macs"] and "at the speed just measured" in err
    for name in ("config.json", "events.jsonl", "arch.json", "weights.safetensors", "front.json"):
        assert (tmp_path / "run" / name).is_file()
    for name in ("arch.json", "front.json"):
        assert str(tmp_path) not in (tmp_path / "run" / name).read_text()
    step = next(event for event in read_events(tmp_path / "run") if event["event"] == "step")
    assert {"reward", "baseline", "entropy", "grad_norm", "probabilities", "seconds"} <= set(step)

    code, out, err = run("apply", "run/arch.json", "--out", "bundle", "--json")
    report = json.loads(out)
    assert code == 0, err
    assert report["parity"]["passed"] and report["weights"].startswith("weights.safetensors: the lowered")
    assert run("check", "bundle")[0] == 0
    code, out, err = run("trace", "bundle/model.py", "--json")
    assert code in (0, 3), err

    code, out, err = run("train", "run/arch.json", "--data", "digits", "--epochs", "1", "--out", "trained", "--json")
    assert code == 0, err
    trained = json.loads(out)
    assert trained["vector"] == result["vector"] and (tmp_path / "trained" / "weights.safetensors").is_file()
    own = json.loads((tmp_path / "trained" / "arch.json").read_text())
    assert own["vector"] == result["vector"] and own["weights"] == "weights.safetensors" and own["preprocessing"]
    code, out, err = run(
        "compare", "run/arch.json", "--data", "digits", "--epochs", "1", "--seeds", "2", "--randoms", "1",
        "--out", "table", "--json",
    )  # fmt: skip
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [row["name"] for row in rows[:2]] == ["base", "refined"] and len(rows[0]["accuracies"]) == 2
    assert all(0.98 * rows[1]["macs"] <= row["macs"] <= rows[1]["macs"] for row in rows[2:])
    code, out, _ = run("search", "--config", "run/config.json", "--out", "again", "--json")
    assert code == 0 and json.loads(out)["vector"] == result["vector"]
