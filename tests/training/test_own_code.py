"""The user's own optimizer, schedule and augmentation, and runs that are extended with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import Run, in_process

from narfx.errors import UsageError
from narfx.runs.events import read_events
from narfx.search import SearchConfig, resume, run
from narfx.verbs.train import TrainConfig, resume_train, train

OWN = """
import random

import numpy as np
import torch
from torchvision.transforms import v2


def adam(params, lr, weight_decay):
    flat = [p for p in params if p.ndim < 2]
    rest = [p for p in params if p.ndim > 1]
    return torch.optim.Adam([{"params": flat, "lr": lr / 10}, {"params": rest, "weight_decay": weight_decay}], lr)


def falling(lr, lr_min=0.0):
    return lambda time: max(lr / (1 + time), lr_min)


def linear(lr, epochs):
    return lambda time: lr * (1 - time / epochs)


def shifted():
    def noisy(image):
        return image.roll(random.randint(0, 1), 1).roll(int(np.random.randint(2)), 2)

    return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomAffine(10), noisy])


def to_float():
    return v2.ToDtype(torch.float32, scale=True)


def bare():
    return 3


class Counting(torch.optim.SGD):
    def step(self, closure=None):
        super().step()
        self.param_groups[0]["seen"] = {1, 2}


def foreign():
    return lambda params, lr: torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr)


outside = foreign()
"""
MODEL = "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10"
COMMON: dict[str, Any] = {"data": "digits", "input": (1, 8, 8), "data_fraction": 0.2, "batch_size": 64}
MINE: dict[str, Any] = {"optimizer": "own.py:adam", "lr": 0.02, "schedule": "own.py:falling?lr_min=0.001"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "arch.json").write_text(json.dumps({"model": MODEL, "vector": [1, 0, 2, 0, 3, 0], "input": [1, 8, 8]}))
    return tmp_path


@pytest.fixture
def cli(here: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    return in_process(capfd)


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k != "seconds"} for event in read_events(folder)]


def same(a: Path, b: Path, *names: str) -> None:
    for name in ("weights.safetensors", "config.json", "arch.json", *names):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert timeless(a) == timeless(b)


def test_a_training_with_own_code_resumes_and_extends_bit_for_bit(here: Path) -> None:
    config = {**COMMON, **MINE, "target": "arch.json", "augment": "own.py:shifted"}
    result = train(TrainConfig(**config, epochs=3), "whole")
    used = {"optimizer": "own.py:adam", "schedule": "own.py:falling?lr_min=0.001", "augment": "own.py:shifted"}
    assert (
        used.items() <= result.items()
        and used.items() <= json.loads(Path("whole/arch.json").read_text())["metrics"].items()
    )
    assert json.loads(Path("whole/config.json").read_text())["optimizer"] == "../own.py:adam"
    train(TrainConfig(**config, epochs=2), "short")
    extended = resume_train("short", epochs=3)
    same(here / "whole", here / "short", "metrics.json")
    assert extended["val"] == result["val"]
    rates = [event["lr"] for event in read_events(here / "whole")]
    assert rates == sorted(rates, reverse=True) and rates[0] < 0.02 / 10  # the first group keeps its ratio
    plain = train(TrainConfig(**COMMON, target="arch.json", epochs=3), "plain")
    assert plain["loss"] != result["loss"] and "optimizer" not in plain


def test_a_search_with_own_code_extends_to_the_run_that_was_longer_from_the_start(here: Path) -> None:
    config = {
        **COMMON, **MINE, "model": MODEL, "init": "scratch", "steps": 2, "finalists": 2, "pretrain_epochs": 1,
        "augment": "torchvision.transforms.v2:RandomHorizontalFlip?p=0.3", "randoms": 8,
    }  # fmt: skip
    whole = run(SearchConfig(**config, epochs=3), "whole")
    run(SearchConfig(**config, epochs=2), "short")
    assert {**resume("short", epochs=3), "out": "", "files": ""} == {**whole, "out": "", "files": ""}
    same(here / "whole", here / "short", "evaluations.json", "front.json", "result.json")
    assert whole["augment"] == "torchvision.transforms.v2:RandomHorizontalFlip?p=0.3"


def test_a_finished_run_says_so_and_gives_its_result(here: Path, cli: Run) -> None:
    quick = ["--data", "digits", "--input", "1,8,8", "--data-fraction", "0.1", "--epochs", "2", "--quiet", "--json"]
    for verb, target, more in (
        ("search", MODEL, ["--steps", "1", "--finalists", "1"]),
        ("train", "arch.json", []),
        ("compare", "arch.json", ["--seeds", "1", "--randoms", "0"]),
    ):
        code, first, _ = cli(verb, target, "--out", verb, *more, *quick)
        assert code == 0
        code, again, told = cli(verb, "--resume", "--out", verb, "--json")
        assert (code, json.loads(again)) == (0, json.loads(first))
        assert f"the run in {verb} is finished" in told and ("--epochs N" in told) == (verb != "compare")
        if verb == "compare":
            assert "\n1 seed; " in cli(verb, "--resume", "--out", verb)[1]
        code, _, told = cli(verb, "--resume", "--out", verb, "--epochs", "2")
        assert code == 2 and ("give a larger number" in told or verb == "compare")


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"optimizer": "adam", "lr": 1}, "bad_config", "such as torch.optim:AdamW"),
        ({"optimizer": "own.py:adma", "lr": 1}, "missing_factory", "did you mean adam"),
        ({"optimizer": "gone.py:adam", "lr": 1}, "missing_file", "there is no file gone.py"),
        ({"optimizer": "own.py:bare", "lr": 1}, "factory_failed", "takes 0 positional arguments"),
        ({"optimizer": "torch.optim:LBFGS", "lr": 1}, "optimizer_closure", "closure"),
        ({"optimizer": "own.py:outside", "lr": 1}, "factory_result", "the parameters that it is given"),
        ({"optimizer": "own.py:Counting", "lr": 1}, "optimizer_state", "holds a set"),
        ({"optimizer": "torch.optim:AdamW?btas=1", "lr": 1}, "model_arguments", "did you mean betas?"),
        ({"schedule": "fast"}, "bad_config", "search or train"),
        ({"schedule": "own.py:bare"}, "factory_result", "a function of the time in epochs"),
        ({"augment": "own.py:bare"}, "factory_result", "a transform of an image"),
        ({"augment": "own.py:to_float"}, "augmentation_result", "it must return a uint8 tensor (1, 8, 8)"),
        ({"augment": "torchvision.transforms.v2:CenterCrop?size=3"}, "augmentation_result", "torch.uint8 (1, 3, 3)"),
        ({"augment": "cropp"}, "unknown_augmentation", "choose from none, crop"),
    ],
)
def test_own_code_that_does_not_fit_is_refused_in_one_sentence(
    here: Path, cli: Run, changes: dict[str, Any], kind: str, said: str
) -> None:
    options = [part for key, value in changes.items() for part in (f"--{key}", str(value))]
    code, out, err = cli(
        "train", "arch.json", "--data", "digits", "--epochs", "1", "--out", "r", "--json", "--data-fraction", "0.1",
        *options,
    )  # fmt: skip
    error = json.loads(out)["error"]
    assert (code, error["kind"]) == (2, kind), error
    assert said in error["message"] and "Traceback" not in err
    assert kind == "optimizer_state" or not (here / "r").exists()


def test_an_own_optimizer_needs_a_rate_and_a_schedule_of_epochs_no_extension(here: Path, cli: Run) -> None:
    code, _, err = cli("train", "arch.json", "--data", "digits", "--out", "r", "--optimizer", "torch.optim:AdamW")
    assert code == 2 and "--optimizer needs --lr" in err
    train(TrainConfig(**{**COMMON, **MINE, "schedule": "own.py:linear"}, target="arch.json", epochs=1), "run")
    with pytest.raises(UsageError, match="depends on the number of epochs"):
        resume_train("run", epochs=2)
    assert (here / "run" / "metrics.json").is_file()
