"""People for tests: an identity is a smooth pattern, an image of it a shifted, brightened, noisy copy."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["NET", "encode", "people", "write_bin", "write_folder"]

Images = NDArray[np.uint8]

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, dimension=16, channels=3):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.out = nn.Linear(8 * 16, dimension)

    def forward(self, x):
        x = torch.relu(self.norm(self.a(torch.relu(self.stem(x)))))
        return self.out(torch.nn.functional.adaptive_avg_pool2d(self.b(x), 4).flatten(1))

class Pixels(nn.Module):
    def forward(self, x):
        return x.flatten(1)

class Zeros(nn.Module):
    def forward(self, x):
        return x.flatten(1) * 0

class Nan(nn.Module):
    def forward(self, x):
        return x.flatten(1) * float("nan")
"""


def people(identities: int, each: int, *, size: int = 16, seed: int = 0) -> tuple[Images, NDArray[np.int64]]:
    """Images (N, size, size, 3) and the identity of each (N,), sorted by identity."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(identities):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        pattern = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
        for _ in range(each):
            shifted = np.roll(pattern, rng.integers(-1, 2, 2), (0, 1))
            images.append(shifted * rng.uniform(0.8, 1.1) + rng.normal(0, 8, pattern.shape))
    return np.clip(images, 0, 255).astype(np.uint8), np.repeat(np.arange(identities), each)


def encode(image: Images, kind: str = "PNG") -> bytes:
    """The file of an image."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def write_bin(path: Path, pairs: int, *, size: int = 16, seed: int = 1) -> list[bool]:
    """As many pairs of strangers to :func:`people`'s default seed, half of one person, these first in each tenth."""
    images, _ = people(2 * pairs, 2, size=size, seed=seed)
    flags = ([True] * (pairs // 20) + [False] * (pairs // 20)) * 10
    encoded = []
    for index, same in enumerate(flags):
        encoded += [encode(images[4 * index]), encode(images[4 * index + (1 if same else 2)])]
    path.write_bytes(pickle.dumps((encoded, flags), protocol=2))
    return flags


def write_folder(root: Path, identities: int, each: int, *, seed: int = 0) -> None:
    """``ROOT/person_00/person_00_0001.png`` and so on."""
    images, labels = people(identities, each, seed=seed)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = f"person_{label:02d}"
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / f"{name}_{index % each + 1:04d}.png").write_bytes(encode(image))
