"""Verification of a network on pairs of faces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narfx.data.pairs import Pairs, read_pairs
from narfx.data.parts import check_channels
from narfx.errors import UsageError
from narfx.runs.progress import Reporter
from narfx.support.text import count
from narfx.tasks.verification import Verification, similarities, verify

__all__ = ["judge_pairs", "open_pairs"]

Shape = tuple[int, int, int]


def open_pairs(
    source: str, listed: str | None, folds: int | None, channels: int, repeat_grey: bool
) -> tuple[Pairs, int]:
    """Read and check pairs of faces.

    Args:
        source: A ``.bin``, or a folder of images.
        listed: The list of pairs of a folder; without it ``pairs.txt`` in the folder.
        folds: As many as the list says, else ten, where it is ``None``.
        channels: Of the network's input.
        repeat_grey: Whether a network of several channels takes grey images.

    Returns:
        The pairs, and the number of folds.

    Raises:
        UsageError: The pairs are missing or malformed, grey where the network takes colour, or too few for the folds.
    """
    pairs = read_pairs(source, listed)
    if folds is not None and pairs.folds is not None and folds > pairs.folds:
        raise UsageError(
            f"{pairs.name} has {count(pairs.folds, 'fold')}, fewer than the {folds} of --folds: lower --folds",
            where="--folds",
            kind="too_few_folds",
        )
    check_channels(pairs.images.channels, channels, source, repeat_grey=repeat_grey)
    wanted = next(number for number in (folds, pairs.folds, 10) if number is not None)
    verify(np.zeros(len(pairs.same)), pairs.same, wanted)  # any error of the pairs is raised before the work begins
    return pairs, wanted


def judge_pairs(
    network: Callable[[Tensor], Any], pairs: Pairs, folds: int, shape: Shape, *, mean: tuple[float, ...],
    std: tuple[float, ...], batch_size: int, device: torch.device, reporter: Reporter,
) -> Verification:  # fmt: skip
    """Verify a network that takes images of ``shape`` (C, H, W), normalised with this mean and standard deviation.

    Raises:
        UsageError: An image cannot be decoded, or embeddings are not finite or have no direction.
    """
    cosines = similarities(
        network, pairs, shape, mean=mean, std=std, batch_size=batch_size, device=device, reporter=reporter
    )
    return verify(cosines, pairs.same, folds)
