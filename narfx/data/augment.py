"""Augmentation of whole batches of uint8 images, on their device.

Random numbers are drawn on the CPU from an explicit generator, so a GPU gets the same images as a CPU.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from narfx.errors import UsageError

__all__ = ["AUGMENTATIONS", "augment_images", "check_augmentation"]

AUGMENTATIONS = ("none", "crop", "flip", "crop-flip")


def check_augmentation(name: str) -> None:
    """Refuse an unknown name.

    Raises:
        UsageError: ``name`` is not one of ``AUGMENTATIONS``.
    """
    if name not in AUGMENTATIONS:
        raise UsageError(
            f"unknown augmentation {name!r}: choose from {', '.join(AUGMENTATIONS)}", where="--augment",
            kind="unknown_augmentation",
        )  # fmt: skip


def augment_images(images: torch.Tensor, name: str, generator: torch.Generator) -> torch.Tensor:
    """Augment uint8 ``(B, C, H, W)``; every sample gets its own random draws."""
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
