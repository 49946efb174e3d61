"""What a training minimises: the task's own loss, or an objective that also sees the images, as distillation does."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from narfx.errors import RunError
from narfx.tasks import Classification, Task, load_data
from narfx.tasks.precision import Precision, PrecisionName
from narfx.training.fit import fit
from narfx.training.objective import Objective
from narfx.training.recipe import Recipe

RECIPE = Recipe(epochs=4, t0=4, lr=0.05)


def network(seed: int, width: int = 8) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1),
            nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 4),
        )  # fmt: skip


def open_task(tmp_path: Path, name: PrecisionName = "fp32", channels_last: bool = True) -> Task:
    """Four classes of bars, for which the labels say nothing: they are drawn at random."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 80, (240, 8, 8), dtype=np.uint8)
    images[np.arange(240), np.arange(240) % 4 * 2] += 170
    np.savez(tmp_path / "set.npz", x_train=images, y_train=rng.permutation(np.arange(240) % 4))
    data = load_data(str(tmp_path / "set.npz"), (1, 8, 8), val_fraction=0.2)
    return Classification(data, batch_size=32, augment="crop-flip", precision=Precision(name, channels_last))


class Distillation:
    """The cross-entropy to a teacher's logits on the images of the batch (Hinton et al., arXiv 1503.02531)."""

    def __init__(self, teacher: nn.Module, task: Task) -> None:
        self.teacher, self.task = teacher.eval(), task
        self.seen: list[Tensor] = []

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, /) -> Tensor:
        self.seen.append(images.clone())
        with torch.no_grad():
            wanted = self.task.precision.apply(self.teacher, images).softmax(1)
        return functional.cross_entropy(self.task.precision.train(network, images), wanted)


def trained(task: Task, objective: Objective | None, seed: int = 3) -> dict[str, Tensor]:
    module = network(1)
    fit(module, task, RECIPE, seed=seed, objective=objective)
    return module.state_dict()


def test_the_tasks_loss_is_the_default(tmp_path: Path) -> None:
    """To the bit; and the objective is asked once for each step, in training mode."""
    task = open_task(tmp_path)
    modes: list[bool] = []

    def counted(network: nn.Module, images: Tensor, labels: Tensor, /) -> Tensor:
        modes.append(network.training)
        return task.loss(task.precision.train(network, images), labels)

    results = [trained(task, objective) for objective in (None, task.objective, counted)]
    for other in results[1:]:
        assert all(torch.equal(results[0][key], other[key]) for key in other)
    assert modes == [True] * RECIPE.epochs * task.steps_per_epoch


@pytest.mark.parametrize(("name", "channels_last"), [("fp32", True), ("fp32", False), ("bf16", True)])
def test_a_teacher_trains_a_network(tmp_path: Path, name: PrecisionName, channels_last: bool) -> None:
    """From labels that say nothing the student learns what the teacher says, on the very images that it sees."""
    task = open_task(tmp_path, name, channels_last)
    teacher = network(2, 16)
    fixed = copy.deepcopy(teacher.state_dict())
    objective = Distillation(teacher, task)
    student, seen = network(1), list[Tensor]()
    student.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()) if module.training else None)
    fit(student, task, RECIPE, seed=3, objective=objective)
    assert len(seen) == len(objective.seen) == RECIPE.epochs * task.steps_per_epoch
    assert all(map(torch.equal, seen, objective.seen))
    assert not torch.equal(seen[0].sort(0)[0], seen[task.steps_per_epoch].sort(0)[0])  # augmented anew in each epoch
    assert all(torch.equal(fixed[key], value) for key, value in teacher.state_dict().items())
    (images, _) = next(task.train_batches(99))
    with torch.no_grad():
        gap = [functional.mse_loss(net.eval()(images), teacher(images)).item() for net in (student, network(1))]
    assert gap[0] < gap[1] / 2


def test_an_objective_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    task = open_task(tmp_path)
    with pytest.raises(RunError, match="learning rate"):
        trained(task, lambda network, images, labels: task.objective(network, images, labels) * float("nan"))
