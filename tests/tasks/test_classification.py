"""The classification task: batches, loss, reward and evaluation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from narfx.errors import UsageError
from narfx.tasks import Classification, ImageData, load_data


class Nearest(nn.Module):
    """Logits from the shade of the image: class k has the shade 10 k, in every pixel."""

    def __init__(self, data: ImageData, outputs: int = 5) -> None:
        super().__init__()
        self.mean, self.std, self.outputs = data.mean[0], data.std[0], outputs
        self.modes: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.modes.append(self.training)
        shade = (x[:, 0].amax((1, 2)) * self.std + self.mean) * 255 / 10
        classes = torch.arange(self.outputs, device=x.device)
        return -((shade[:, None] - classes) ** 2)


class Constant(nn.Module):
    def __init__(self, row: list[float]) -> None:
        super().__init__()
        self.row = torch.tensor(row)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.row.expand(len(x), -1)


@pytest.fixture
def data(tmp_path: Path) -> ImageData:
    """Class k has k + 2 times 10 images of the shade 10 k; sorted by class, as a folder would be."""
    labels = np.repeat(np.arange(4), [20, 30, 40, 50])
    images = np.broadcast_to((labels * 10).astype(np.uint8)[:, None, None], (140, 8, 8))
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels)
    return load_data(str(tmp_path / "set.npz"), (1, 8, 8), val_fraction=0.2)


def test_a_network_needs_an_output_for_each_class(data: ImageData) -> None:
    task = Classification(data)
    task.check(4)
    task.check(1000)
    with pytest.raises(UsageError, match=r"3 outputs, but .* has 4 classes") as caught:
        task.check(3)
    assert caught.value.kind == "too_few_outputs"


def test_the_loss_is_the_smoothed_cross_entropy(data: ImageData) -> None:
    logits, target = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    log = logits.log_softmax(1)
    plain = -log[torch.arange(6), target].mean()
    assert torch.allclose(Classification(data).loss(logits, target), plain)
    smoothed = 0.9 * plain - 0.1 * log.mean()
    assert torch.allclose(Classification(data, label_smoothing=0.1).loss(logits, target), smoothed)


def test_an_epoch_is_shuffled_augmented_and_even(data: ImageData) -> None:
    task = Classification(data, batch_size=32)
    one, same, two = (list(task.train_batches(seed)) for seed in (1, 1, 2))
    assert [len(y) for _, y in one] == [32] * 3 == [32] * task.steps_per_epoch
    assert all(torch.equal(x, p) and torch.equal(y, q) for (x, y), (p, q) in zip(one, same, strict=True))
    assert not torch.equal(one[0][1], two[0][1])
    whole = Classification(data, batch_size=500)
    assert [len(y) for _, y in whole.train_batches(0)] == [len(data.train)] and whole.steps_per_epoch == 1


def test_the_augmentation_is_the_data_sets_own_unless_asked(data: ImageData) -> None:
    assert Classification(data).augment == "crop-flip"
    assert Classification(load_data("digits", (1, 8, 8))).augment == "crop"
    inputs = torch.cat([x for x, _ in Classification(data, augment="none").train_batches(0)])
    assert (inputs.amax((1, 2, 3)) == inputs.amin((1, 2, 3))).all()  # even images: a crop would show its black border
    augmented = torch.cat([x for x, _ in Classification(data).train_batches(0)])
    assert not (augmented.amax((1, 2, 3)) == augmented.amin((1, 2, 3))).all()


def shades(data: ImageData, inputs: torch.Tensor) -> list[int]:
    return ((inputs[:, 0, 0, 0] * data.std[0] + data.mean[0]) * 25.5).round().int().tolist()


def test_calibration_is_the_same_every_time_and_spread_over_classes(data: ImageData) -> None:
    task = Classification(data, batch_size=16, augment="none")
    first, again = list(task.calibration_batches(48)), list(task.calibration_batches(48))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert [len(x) for x in first] == [16] * 3
    seen = shades(data, torch.cat(first))
    assert [seen.count(k) for k in range(4)] == [12] * 4
    assert all(len(set(shades(data, x))) > 1 for x in first)  # batches are mixed, not sorted by class
    # More than there are: all of them, in whole batches.
    assert [len(x) for x in task.calibration_batches(2048)] == [16] * (len(data.train) // 16)
    assert [len(x) for x in Classification(data).calibration_batches(2048)] == [len(data.train)]


def test_calibration_augments_as_training_does(data: ImageData) -> None:
    """Statistics of images without borders would fit no network that was trained with them."""
    first, again = (torch.cat([*Classification(data).calibration_batches(48)]) for _ in range(2))
    assert torch.equal(first, again) and not (first.amax((1, 2, 3)) == first.amin((1, 2, 3))).all()


def test_reward_batches_pass_over_the_validation_part_again_and_again(data: ImageData) -> None:
    task = Classification(data, batch_size=8)
    drawn = list(task.reward_batches(3, 10))  # 28 images: three batches a pass
    assert [len(y) for _, y in drawn] == [8] * 10
    assert all(torch.equal(x, p) for (x, _), (p, _) in zip(drawn, task.reward_batches(3, 10), strict=True))
    assert any(not torch.equal(y, q) for (_, y), (_, q) in zip(drawn, task.reward_batches(4, 10), strict=True))
    assert [len(y) for _, y in Classification(data).reward_batches(0, 3)] == [28] * 3
    assert list(task.reward_batches(0, 0)) == []
    rest = torch.cat([y for _, y in drawn[:3]])
    counted = torch.bincount(data.val.labels, minlength=4) - torch.bincount(rest, minlength=4)
    assert (counted >= 0).all()  # without replacement within a pass


def test_reward_is_the_accuracy_of_a_batch(data: ImageData) -> None:
    task = Classification(data, batch_size=28)
    batch = next(task.reward_batches(0, 1))
    assert task.reward(Nearest(data), batch) == 1.0
    assert task.reward(Constant([0.0, 0.0, 0.0, 1.0]), batch) == pytest.approx(10 / 28)


def test_evaluation_covers_a_whole_part_and_leaves_the_model_as_it_is(data: ImageData) -> None:
    task = Classification(data, batch_size=9, label_smoothing=0.1)
    model = Nearest(data)
    for mode in (True, False):
        model.train(mode)
        model.modes.clear()
        result = task.evaluate(model)
        assert result["accuracy"] == 1.0 and result["images"] == 28
        assert model.training is mode and set(model.modes) == {mode}
    row = [0.5, -1.0, 0.0, 2.0]
    for part in ("train", "val"):
        result = task.evaluate(Constant(row), part)
        share = {"train": [16, 24, 32, 40], "val": [4, 6, 8, 10]}[part]
        log = torch.tensor(row, dtype=torch.float64).log_softmax(0)
        expected = -sum(n * float(v) for n, v in zip(share, log, strict=True)) / sum(share)
        assert result == {
            "accuracy": pytest.approx(share[3] / sum(share)),
            "loss": pytest.approx(expected, rel=1e-6),
            "images": sum(share),
        }
    assert math.isnan(task.evaluate(Constant([math.nan] * 4))["loss"])


def test_evaluation_keeps_no_graph(data: ImageData) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    task = Classification(data)
    task.evaluate(model)
    task.reward(model, next(task.reward_batches(0, 1)))
    assert all(p.grad is None for p in model.parameters())
    inputs, target = next(task.train_batches(0))  # and training goes on as usual
    task.loss(model(inputs), target).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_part_that_is_not_there(data: ImageData) -> None:
    for part in ("test", "holdout"):
        with pytest.raises(UsageError, match=f"no part '{part}'"):
            Classification(data).evaluate(Nearest(data), part)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"augment": "mixup"}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1}],
)
def test_options_out_of_range(data: ImageData, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Classification(data, **options)


def test_a_linear_network_learns_the_digits() -> None:
    data = load_data("digits", (1, 8, 8))
    task = Classification(data, batch_size=64, augment="none")
    linear = nn.Linear(64, 10)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    model = nn.Sequential(nn.Flatten(), linear)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(5):
        for inputs, target in task.train_batches(epoch):
            optimizer.zero_grad()
            task.loss(model(inputs), target).backward()
            optimizer.step()
    assert task.evaluate(model)["accuracy"] > 0.9
    assert task.evaluate(model, "test")["accuracy"] > 0.9
