"""What a network is trained, searched and judged by: batches of a data set, a loss, and an accuracy.

A subclass defines the loss, and the logits by which an image is classified. If these have weights of their own, they
are the task's ``head``: trained and checkpointed with the network, but not part of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from narfx.data.augment import Augmentation, check_augmentation
from narfx.data.image_data import Batch, ImageData, batches, ordered_batches
from narfx.data.splits import Split, spread
from narfx.errors import UsageError
from narfx.support.collectives import gather
from narfx.support.ranks import Ranks
from narfx.support.text import count
from narfx.tasks.precision import Precision

__all__ = ["CALIBRATION_IMAGES", "Task"]

CALIBRATION_IMAGES = 512
"""Training images for the statistics of BatchNorm, where nobody says otherwise."""


class Task(ABC):
    """A data set as a task; its metric and its reward are an accuracy, named by ``metric``.

    Args:
        data: The data set, fitted to the network.
        batch_size: Images in a batch, in training and elsewhere.
        augment: ``none``, ``crop``, ``flip``, ``crop-flip`` or the user's own; defaults to that of the data set.
        label_smoothing: Label smoothing of the training loss, in [0, 1).
        precision: Number format and memory layout of forward passes.

    Raises:
        UsageError: An option is out of range.
    """

    metric: str

    def __init__(
        self, data: ImageData, *, batch_size: int = 128, augment: Augmentation | None = None,
        label_smoothing: float = 0.0, precision: Precision | None = None,
    ) -> None:  # fmt: skip
        self.precision = precision or Precision()
        self.data, self.batch_size, self.label_smoothing = data, batch_size, label_smoothing
        self.augment: Augmentation = data.augment if augment is None else augment
        self.head: nn.Module = nn.Module()
        self._calibration: dict[int, Tensor] = {}
        check_augmentation(self.augment)
        if batch_size < 1:
            raise UsageError(
                f"the batch size is {batch_size}: it must be at least 1", where="--batch-size", kind="batch_size"
            )
        if not 0 <= label_smoothing < 1:
            raise UsageError(
                f"the label smoothing is {label_smoothing}: it must be at least 0 and below 1",
                where="--label-smoothing",
                kind="label_smoothing",
            )

    @abstractmethod
    def check(self, outputs: int) -> None:
        """Check that a network with this number of outputs fits the task, and make the head for it.

        Raises:
            UsageError: It does not fit.
        """

    @abstractmethod
    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The mean training loss of a network's outputs (B, D) for labels (B,)."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of the data and of the precision, one sentence each."""
        return (*self.data.notes, *self.precision.notes)

    def objective(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean training loss of a network on images (B, C, H, W) with labels (B,), in the task's precision.

        It is the objective that training uses unless another one is given.
        """
        return self.loss(self.precision.train(network, images), labels)

    @abstractmethod
    def logits(self, outputs: Tensor) -> Tensor:
        """Logits (B, classes) of a network's outputs (B, D), by which images are classified."""

    def start(self, seed: int, network: nn.Module | None = None) -> None:  # noqa: B027 - most tasks have no head
        """Initialise the head: randomly by ``seed``, or to fit a trained ``network``."""

    @property
    def steps_per_epoch(self) -> int:
        """How many batches :meth:`train_batches` yields."""
        return max(len(self.data.train) // self.batch_size, 1)

    def train_batches(self, seed: int, ranks: Ranks | None = None) -> Iterator[Batch]:
        """One epoch, shuffled and augmented; an incomplete last batch is dropped unless it is the only one.

        Of several ranks, which all give the same seed, each gets its share of each batch.
        """
        train = self.data.train
        return batches(
            train, self.batch_size, data=self.data, seed=seed, augment=self.augment, drop_last=self._drops(train),
            ranks=ranks,
        )  # fmt: skip

    def check_ranks(self, ranks: Ranks) -> int:
        """Refuse more ranks than there are images in a batch of training; returns the smallest share of a rank.

        Raises:
            UsageError: There are.
        """
        images = min(self.batch_size, len(self.data.train))
        if images < ranks.size:
            raise UsageError(
                f"there are {ranks.size} ranks, and a training batch has {count(images, 'image')}: start at most "
                f"{count(images, 'rank')}, or raise --batch-size",
                where="--batch-size",
                kind="too_many_ranks",
            )
        return images // ranks.size

    @property
    def calibration_images(self) -> int:
        """How many images :meth:`calibration_batches` yields by default."""
        return min(CALIBRATION_IMAGES, len(self.data.train))

    def calibration_batches(self, images: int = CALIBRATION_IMAGES) -> Iterator[Tensor]:
        """Training images for BatchNorm's statistics: spread over the classes, the same at every call.

        They are augmented as in training: on CIFAR-10, statistics of images that are not cost a trained ResNet-20 four
        points of accuracy. An incomplete batch is dropped unless it is the only one, because BatchNorm weights every
        batch equally.
        """
        for inputs, _ in self.spread_batches(images):
            yield inputs

    def spread_batches(self, images: int) -> Iterator[Batch]:
        """The images of :meth:`calibration_batches` with their labels."""
        if images not in self._calibration:  # cached: it takes seconds on a million labels
            self._calibration[images] = torch.from_numpy(spread(self.data.train.labels.numpy(), images))
        order = self._calibration[images]
        yield from ordered_batches(
            self.data.train,
            order,
            self.batch_size,
            data=self.data,
            augment=self.augment,
            generator=torch.Generator().manual_seed(0),
            drop_last=len(order) >= self.batch_size,
        )

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy of each image (B,), without smoothing or margin: what :meth:`evaluate` averages."""
        return functional.cross_entropy(self.logits(outputs), target, reduction="none")

    @abstractmethod
    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """How far outputs (B, D) are from those of another network for the same images: one number an image (B,)."""

    @abstractmethod
    def imitation(self, outputs: Tensor, reference: Tensor, temperature: float) -> Tensor:
        """The mean loss by which a network learns the outputs (B, D) of a teacher; a scalar with a gradient."""

    def reward_batches(self, seed: int, n: int, images: int | None = None) -> Iterator[Batch]:
        """``n`` validation minibatches of equal size in random order; after the last image a new pass begins.

        Args:
            seed: Seed of the order.
            n: How many minibatches.
            images: Images in a minibatch, at most the validation part; defaults to the batch size.
        """
        val = self.data.val
        size = min(images or self.batch_size, len(val))
        generator = torch.Generator().manual_seed(seed)
        while n > 0:
            order = torch.randperm(len(val), generator=generator)[: n * size]
            for batch in ordered_batches(val, order, size, data=self.data, drop_last=True):
                yield batch
                n -= 1

    def _drops(self, split: Split) -> bool:
        return len(split) >= self.batch_size

    @torch.inference_mode()
    def reward(self, model: Callable[[Tensor], Tensor], batch: Batch) -> float:
        """The accuracy on one minibatch; the model's mode (training or eval) is not changed."""
        inputs, target = batch
        return float((self.logits(self.precision.apply(model, inputs)).argmax(1) == target).double().mean())

    def evaluate(
        self, model: Callable[[Tensor], Tensor], part: str = "val", ranks: Ranks | None = None
    ) -> dict[str, float]:
        """Accuracy, mean cross-entropy (without smoothing) and number of images of a whole part.

        Images, ranks and errors as for :meth:`outcomes`.
        """
        losses, right = self.outcomes(model, part, ranks)
        return {"accuracy": float(right.double().mean()), "loss": float(losses.mean()), "images": len(right)}

    def outcomes(
        self, model: Callable[[Tensor], Tensor], part: str = "val", ranks: Ranks | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy (without smoothing, float64) and whether it is classified right, of each image (N,) of a part.

        The model's mode is not changed. It computes in float32 whatever the task's precision is, as the network that is
        exported does. The images come in a fixed shuffled order, the same for every model, so that
        batch statistics, if a caller uses them, are not those of one class. Several ranks share the batches, and all
        get the outcomes of all images.

        Raises:
            UsageError: ``part`` is none of train, val and test, or the data have no test part.
        """
        ranks = ranks or Ranks()
        found = [self.outcome(model, batch) for batch in self.part_batches(part, ranks=ranks)]
        if not ranks.alone:
            sent = [[losses.tolist(), right.tolist()] for losses, right in found]
            merged = ranks.merged(gather(ranks, sent))
            found = [(torch.tensor(losses, dtype=torch.float64), torch.tensor(right)) for losses, right in merged]
        return torch.cat([losses for losses, _ in found]), torch.cat([right for _, right in found])

    def part_batches(self, part: str, images: int | None = None, ranks: Ranks | None = None) -> Iterator[Batch]:
        """The batches of a part in a fixed shuffled order, its first ``images`` images or all; ranks share them.

        Raises:
            UsageError: ``part`` is none of train, val and test, or the data have no test part.
        """
        split = {"train": self.data.train, "val": self.data.val, "test": self.data.test}.get(part)
        if split is None:
            raise UsageError(
                f"{self.data.name} has no part {part!r}: choose train, val or, where there is one, test",
                where=self.data.name,
                kind="no_such_part",
            )
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:images]
        chunks = (ranks or Ranks()).share(torch.split(order, min(self.batch_size, max(len(order), 1))))
        mine = torch.cat(chunks) if chunks else order[:0]
        return ordered_batches(split, mine, self.batch_size, data=self.data)

    @torch.inference_mode()
    def outcome(self, model: Callable[[Tensor], Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """What :meth:`outcomes` gives, of the images of one batch."""
        inputs, target = batch
        logits = self.logits(self.precision.exact.apply(model, inputs))
        losses = functional.cross_entropy(logits, target, reduction="none")
        return losses.double().cpu(), (logits.argmax(1) == target).cpu()
