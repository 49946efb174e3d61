"""Verification of a network on pairs of faces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narfx.data.image_data import images_of
from narfx.data.pairs import Pairs, read_pairs
from narfx.data.parts import check_channels
from narfx.errors import UsageError
from narfx.inputs.image_size import check_enlarging
from narfx.runs.progress import Reporter
from narfx.support.text import count
from narfx.tasks.verification import Verification, similarities, verify

__all__ = ["check_pairs", "judge_pairs", "open_pairs"]

Shape = tuple[int, int, int]


def open_pairs(
    source: str, listed: str | None, folds: int | None, networks: Mapping[Shape, str], repeat_grey: bool, enlarge: bool
) -> tuple[Pairs, int]:
    """Read pairs of faces and check them for each network, as :func:`check_pairs` says.

    Args:
        source: A ``.bin``, or a folder of images.
        listed: The list of pairs of a folder; without it ``pairs.txt`` in the folder.
        folds: See :func:`check_pairs`.
        networks: The inputs (C, H, W) of the networks, at least one, and what messages call them.
        repeat_grey: See :func:`check_pairs`.
        enlarge: Whether images may be smaller than an input.

    Returns:
        The pairs, and the number of folds.

    Raises:
        UsageError: The pairs are missing or malformed, or do not fit.
    """
    pairs = read_pairs(source, listed, enlarge=enlarge)
    for shape, network in networks.items():
        wanted = check_pairs(pairs, source, folds, shape[0], repeat_grey)
        if not enlarge:
            check_enlarging(images_of(source, pairs.images), shape, network)
    return pairs, wanted


def check_pairs(pairs: Pairs, source: str, folds: int | None, channels: int, repeat_grey: bool) -> int:
    """Check that pairs fit a network, and are enough for the folds.

    Args:
        pairs: The pairs.
        source: What they were read from, for messages.
        folds: As many as the list says, else ten, where it is ``None``.
        channels: Of the network's input.
        repeat_grey: Whether a network of several channels takes grey images.

    Returns:
        The number of folds.

    Raises:
        UsageError: The pairs are grey where the network takes colour, or too few for the folds.
    """
    if folds is not None and pairs.folds is not None and folds > pairs.folds:
        raise UsageError(
            f"{pairs.name} has {count(pairs.folds, 'fold')}, fewer than the {folds} of --folds: lower --folds",
            where="--folds",
            kind="too_few_folds",
        )
    check_channels(pairs.images.channels, channels, source, repeat_grey=repeat_grey)
    wanted = next(number for number in (folds, pairs.folds, 10) if number is not None)
    verify(np.zeros(len(pairs.same)), pairs.same, wanted)  # any error of the pairs is raised before the work begins
    return wanted


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
