"""A teacher beside the task's own loss: what is added, what stays as it is, and who may teach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Run, in_process
from sample_networks import images
from torch import nn

from narfx.data.image_data import load_data
from narfx.errors import UsageError
from narfx.inputs.reference import ModelRef
from narfx.tasks.classification import Classification
from narfx.tasks.faces import Faces
from narfx.training.teacher import Teacher, TeacherOptions, open_teacher
from narfx.verbs.train import TrainConfig, resume_train, train

SHAPE = (1, 8, 8)
MODEL = "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10"
DATA: dict[str, Any] = {"data": "digits", "data_fraction": 0.1, "batch_size": 32, "input": SHAPE, "augment": "none"}


@pytest.fixture
def narfx(capfd: pytest.CaptureFixture[str]) -> Run:
    return in_process(capfd)


@pytest.fixture(scope="module")
def task() -> Classification:
    return Classification(load_data("digits", SHAPE, fraction=0.1), batch_size=32)


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 10))


@torch.no_grad()
def test_the_loss_is_a_mixture_of_the_tasks_and_the_teachers(task: Classification) -> None:
    x, y = images(6, *SHAPE), torch.arange(6)
    student, master = net(0).eval(), net(1)
    own = float(task.objective(student, x, y))
    found = {
        weight: float(Teacher(master, task, TeacherOptions(teacher="base", teacher_weight=weight))(student, x, y))
        for weight in (0.0, 0.25, 1.0)
    }
    assert found[0.0] == pytest.approx(own)
    assert found[0.25] == pytest.approx(0.75 * own + 0.25 * found[1.0], rel=1e-5)
    options = TeacherOptions(teacher="base", teacher_weight=1.0)
    assert float(Teacher(student, task, options)(student, x, y)) == pytest.approx(0, abs=1e-6)
    hotter = TeacherOptions(teacher="base", teacher_weight=1.0, temperature=2.0)
    ours, theirs = student(x) / 2, master.eval()(x) / 2
    by_hand = 4 * (theirs.softmax(1) * (theirs.log_softmax(1) - ours.log_softmax(1))).sum(1).mean()
    assert float(Teacher(master, task, hotter)(student, x, y)) == pytest.approx(float(by_hand), rel=1e-4)


def test_a_teacher_does_not_learn(task: Classification) -> None:
    student, master = net(0), net(1)
    before = [parameter.clone() for parameter in master.parameters()]
    loss = Teacher(master, task, TeacherOptions(teacher="base"))(student, images(4, *SHAPE), torch.arange(4))
    loss.backward()
    assert all(parameter.grad is None for parameter in master.parameters()) and not master.training
    assert all(torch.equal(a, b) for a, b in zip(before, master.parameters(), strict=True))
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_embeddings_are_compared_by_their_cosine() -> None:
    task = Faces(load_data("digits", SHAPE, fraction=0.1))
    a, b = images(5, 8, seed=1), images(5, 8, seed=2)
    assert float(task.imitation(a, 3 * a, 4.0)) == pytest.approx(0, abs=1e-6)
    assert float(task.imitation(a, -a, 4.0)) == pytest.approx(2, abs=1e-6)
    assert task.divergence(a, b).shape == (5,)


def test_outputs_of_another_number_are_refused(task: Classification) -> None:
    with pytest.raises(UsageError, match="the teacher has 10 outputs, but the network that it teaches has 7") as caught:
        open_teacher(TeacherOptions(teacher="base"), net(0), "its own", task, SHAPE, 7, torch.device("cpu"))
    assert caught.value.kind == "teacher_outputs"


@pytest.mark.parametrize(
    "wrong",
    [
        {"teacher": "base", "teacher_model": MODEL}, {"teacher_weights": "w.pt"}, {"teacher": "me"},
        {"teacher": "base", "teacher_weight": 1.5}, {"teacher": "base", "temperature": 0.0},
    ],
)  # fmt: skip
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"teacher|temperature"):
        TeacherOptions(**wrong)


def test_a_run_names_its_teacher_and_goes_on_with_it(tmp_path: Path, narfx: Run) -> None:
    base = train(TrainConfig(target=MODEL, epochs=2, t0=2, **DATA), tmp_path / "base")["files"]["weights"]
    config = TrainConfig(target=MODEL, teacher="base", teacher_weights=base, epochs=2, t0=2, **DATA)
    whole = train(config, tmp_path / "whole")
    assert whole["teacher"] == {
        "model": "base",
        "weights": "weights.safetensors: the base's",
        "weight": 0.9,
        "temperature": 4.0,
    }
    train(config, tmp_path / "again")
    (tmp_path / "again" / "metrics.json").unlink()
    resume_train(tmp_path / "again")
    for name in ("metrics.json", "weights.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    plain = train(config.model_copy(update={"teacher": None, "teacher_weights": None}), tmp_path / "plain")
    assert "teacher" not in plain and plain["loss"] != whole["loss"]
    common = ("--data", "digits", "--data-fraction", "0.1", "--input", "1,8,8", "--epochs", "1", "--json")
    code, _, err = narfx("train", MODEL, *common, "--teacher", "base", "--out", str(tmp_path / "x"))
    assert code == 2 and "--teacher-weights" in err
    code, _, err = narfx("train", MODEL, *common, "--teacher", MODEL, "--out", str(tmp_path / "x"))
    assert code == 2 and "has random weights, and teaches nothing" in err
    code, out, _ = narfx(
        "train", MODEL, *common, "--teacher", MODEL, "--teacher-weights", base, "--temperature", "2",
        "--out", str(tmp_path / "y"),
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["teacher"] == {
        "model": ModelRef.parse(MODEL).plain, "weights": "weights.safetensors: the base's", "weight": 0.9,
        "temperature": 2.0,
    }  # fmt: skip
