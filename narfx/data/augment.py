"""Augmentation of uint8 images on their device: narfx's own of whole batches, or the user's, image by image.

Random numbers are drawn on the CPU from an explicit generator, so a GPU gets the same images as a CPU. The user's code
draws from the global generators, which are seeded from the explicit one for each batch: a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.nn import functional

from narfx.errors import UsageError
from narfx.inputs.own_code import is_own, load_factory
from narfx.inputs.user_code import call, user_code
from narfx.support.generators import global_generators
from narfx.support.text import article

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "OwnAugmentation",
    "augment_images",
    "check_augmentation",
    "find_augmentation",
]

AUGMENTATIONS = ("none", "crop", "flip", "crop-flip")


@dataclass(frozen=True)
class OwnAugmentation:
    """A transform of the user's, for example of ``torchvision.transforms.v2``.

    It takes one image, a uint8 tensor (C, H, W), and returns one of the same shape.
    """

    transform: Callable[[torch.Tensor], Any]
    label: str

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Transform uint8 ``(B, C, H, W)`` image by image.

        Raises:
            UsageError: The transform fails, or returns something else.
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        with global_generators(seed):
            return torch.stack([self._one(image) for image in images])

    def _one(self, image: torch.Tensor) -> torch.Tensor:
        with user_code(f"{self.label} failed", where="--augment", kind="augmentation_failed"):
            made = self.transform(image)
        if not isinstance(made, torch.Tensor) or made.shape != image.shape or made.dtype != torch.uint8:
            what = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, torch.Tensor) else article(made)
            raise UsageError(
                f"{self.label} returned {what}: it must return a uint8 tensor {tuple(image.shape)}, as it gets one "
                "(narfx normalises the images itself)",
                where="--augment",
                kind="augmentation_result",
            )
        return made


Augmentation: TypeAlias = str | OwnAugmentation
"""One of ``AUGMENTATIONS``, or the user's own."""


def find_augmentation(
    text: str | None, shape: tuple[int, int, int], *, relative_to: Path | None = None
) -> Augmentation | None:
    """What ``--augment`` names; the user's own transform is tried on a black image of this shape (C, H, W).

    Raises:
        UsageError: The factory is missing or fails, or its transform does not return such an image.
    """
    if text is None or not is_own(text):
        return text
    own = load_factory(text, "--augment", relative_to=relative_to)
    transform = call(own.factory, own.arguments, own.label)
    if not callable(transform):
        raise UsageError(
            f"{own.label} returned {article(transform)}: it must return a transform of an image",
            where="--augment",
            kind="factory_result",
        )
    found = OwnAugmentation(transform, own.label)
    found(torch.zeros(1, *shape, dtype=torch.uint8), torch.Generator().manual_seed(0))
    return found


def check_augmentation(augmentation: Augmentation) -> None:
    """Refuse an unknown name.

    Raises:
        UsageError: It is neither one of ``AUGMENTATIONS`` nor the user's own.
    """
    if not isinstance(augmentation, OwnAugmentation) and augmentation not in AUGMENTATIONS:
        raise UsageError(
            f"unknown augmentation {augmentation!r}: choose from {', '.join(AUGMENTATIONS)}, package.module:factory or "
            "file.py:factory",
            where="--augment",
            kind="unknown_augmentation",
        )


def augment_images(images: torch.Tensor, augmentation: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Augment uint8 ``(B, C, H, W)``; every sample gets its own random draws."""
    if isinstance(augmentation, OwnAugmentation):
        return augmentation(images, generator)
    name = augmentation
    if "crop" in name:
        images = _crop(images, generator)
    if "flip" in name:
        images = _flip(images, generator)
    return images


def _crop(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pad each border with black by an eighth of the side (4 of 32 pixels), and crop to the old size at random."""
    batch, _, height, width = images.shape
    down, across = height // 8, width // 8
    top = torch.randint(2 * down + 1, (batch,), generator=generator).to(images.device)
    left = torch.randint(2 * across + 1, (batch,), generator=generator).to(images.device)
    padded = functional.pad(images, (across, across, down, down))
    # All possible crops as one view without a copy; indexing copies only the chosen one of each sample.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(batch, device=images.device), :, top, left]


def _flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each sample with probability one half."""
    mirrored = torch.rand(len(images), generator=generator).lt(0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)
