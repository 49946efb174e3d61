"""Faces: a network learns embeddings by ArcFace's loss on known identities; the metric uses other images of them.

The metric and the reward are the accuracy of closed-set identification: a held-out image belongs to the identity whose
centre in the head has the largest cosine to its embedding. :mod:`narfx.tasks.verification` verifies other people.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from narfx.data.augment import Augmentation
from narfx.data.image_data import ImageData, ordered_batches
from narfx.data.splits import spread
from narfx.errors import UsageError
from narfx.support.seeds import torch_generator
from narfx.tasks.arcface import ArcFaceHead
from narfx.tasks.precision import Precision
from narfx.tasks.task import Task

__all__ = ["FaceOptions", "Faces"]

_CENTRE_IMAGES = 10


class FaceOptions(BaseModel):
    """ArcFace's scale s and margin m (radians), and whether a network of three channels takes grey images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: float = Field(default=64.0, gt=0, allow_inf_nan=False)
    margin: float = Field(default=0.5, ge=0, lt=3.14)
    grey: Literal["refuse", "repeat"] = "refuse"


class Faces(Task):
    """Identities as classes, classified by an ArcFace head that is not part of the network.

    Args:
        data: The identities, fitted to the network.
        options: Options of the loss.
        batch_size: Images in a batch.
        augment: Defaults to ``flip``, as in ArcFace.
        label_smoothing: Label smoothing of the training loss, in [0, 1).
        device: The device of the head.
        precision: Number format and memory layout of the network; the head computes in float32.
    """

    metric = "identification_accuracy"
    head: ArcFaceHead

    def __init__(
        self,
        data: ImageData,
        options: FaceOptions | None = None,
        *,
        batch_size: int = 128,
        augment: Augmentation | None = None,
        label_smoothing: float = 0.0,
        device: torch.device | str = "cpu",
        precision: Precision | None = None,
    ) -> None:
        augment = augment or "flip"
        super().__init__(
            data, batch_size=batch_size, augment=augment, label_smoothing=label_smoothing, precision=precision
        )
        self.options, self.device = options or FaceOptions(), torch.device(device)

    def check(self, outputs: int) -> None:
        """Make a head for embeddings of ``outputs`` numbers.

        Raises:
            UsageError: There are fewer than two, or fewer than two identities.
        """
        identities = len(self.data.classes)
        if identities < 2:
            raise UsageError(
                f"{self.data.name} has only one identity: at least 2 are needed", where=self.data.name,
                kind="single_identity",
            )  # fmt: skip
        if outputs < 2:
            raise UsageError(
                "the network's embedding is a single number, which has no direction: it needs at least 2 numbers "
                "(the paper's networks have 512)",
                kind="embedding_size",
            )
        head = ArcFaceHead(identities, outputs, scale=self.options.scale, margin=self.options.margin)
        self.head = head.to(self.device)

    def start(self, seed: int, network: nn.Module | None = None) -> None:
        """Centres in random directions, or at the mean embedding of up to ten images of each identity."""
        self.head.reset(torch_generator(seed, "head"))
        if network is not None:
            self._centre(network)

    @torch.no_grad()
    def _centre(self, network: nn.Module) -> None:
        train, weight = self.data.train, self.head.weight
        order = torch.from_numpy(spread(train.labels.numpy(), _CENTRE_IMAGES * len(self.data.classes)))
        sums = torch.zeros_like(weight)
        was = network.training
        network.eval()
        for inputs, target in ordered_batches(train, order, self.batch_size, data=self.data):
            sums.index_add_(0, target, functional.normalize(self.precision.apply(network, inputs)))
        network.train(was)
        # A centre keeps the length of a random one, because its effective learning rate depends on its length.
        weight.copy_(functional.normalize(sums) * weight.norm(dim=1, keepdim=True))

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """ArcFace's loss of embeddings (B, D) for identities (B,)."""
        return functional.cross_entropy(self.head(outputs, target), target, label_smoothing=self.label_smoothing)

    def logits(self, outputs: Tensor) -> Tensor:
        """The cosines (B, identities) to the centres times the scale, without the margin."""
        return self.options.scale * self.head.cosines(outputs)

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """1 less the cosine of two embeddings of an image."""
        return 1 - functional.cosine_similarity(outputs, reference)

    def imitation(self, outputs: Tensor, reference: Tensor, temperature: float) -> Tensor:
        """The mean of 1 less the cosine to the teacher's embedding; an embedding has no temperature."""
        return self.divergence(outputs, reference).mean()
