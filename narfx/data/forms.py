"""The forms of narfx's own data sources, as messages and help texts write them; nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["FORMS", "TORCHVISION", "Known", "all_forms"]


class Known(NamedTuple):
    """A data set of torchvision: its class, its folder in the root, published statistics of the training part."""

    title: str
    folder: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str = "crop-flip"


TORCHVISION = {
    "cifar10": Known("CIFAR10", "cifar-10-batches-py", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Known("CIFAR100", "cifar-100-python", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": Known("MNIST", "MNIST/raw", (0.1307,), (0.3081,), "crop"),
    "fashion_mnist": Known("FashionMNIST", "FashionMNIST/raw", (0.2860,), (0.3530,)),
}
"""The data sets of ``torchvision:NAME:ROOT``."""

FORMS = {
    "digits": "digits",
    ".tar": "a .tar of one",
    ".npz": "an .npz file",
    "torchvision": f"torchvision:NAME:ROOT (NAME: {', '.join(TORCHVISION)})",
}
"""The form of each registered scheme and suffix."""


def all_forms(registered: Iterable[str] = tuple(FORMS.values())) -> str:
    """All forms in words: a folder of images, these, and the user's own code."""
    return f"a folder of images, {', '.join(registered)}, or your own package.module:factory or file.py:factory"
