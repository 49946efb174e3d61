"""The base networks of narfx, by the name after ``narfx:``.

A further base is one entry here: a factory whose arguments all have defaults (``num_classes`` and ``in_channels`` among
them where they make sense, and ``size`` where a network is made for one height and width of the image) and the shape of
one sample that the defaults are made for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from narfx.models.cells import darts, darts_search
from narfx.models.chain import chain12
from narfx.models.lresnet_ir import lresnet10e_ir, lresnet50e_ir, lresnet_ir
from narfx.models.nasbench201 import nasbench201
from narfx.models.resnet_cifar import resnet8, resnet18_cifar, resnet20, resnet20_wide, resnet_cifar, resnet_digits
from narfx.space.genotype import read_genotype

__all__ = ["MODELS", "ModelEntry"]


@dataclass(frozen=True)
class ModelEntry:
    """A base network: what builds it, and the (channels, height, width) of one sample by default.

    ``files`` has for each argument that may be the path of a data file what reads the file as a plain value, which the
    factory takes too.
    """

    factory: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    files: Mapping[str, Callable[[Path], Any]] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first line of the factory's documentation."""
        return (inspect.getdoc(self.factory) or "").partition("\n")[0]


MODELS: dict[str, ModelEntry] = {
    "resnet8": ModelEntry(resnet8, (3, 32, 32)),
    "resnet18_cifar": ModelEntry(resnet18_cifar, (3, 32, 32)),
    "resnet20": ModelEntry(resnet20, (3, 32, 32)),
    "resnet20_wide": ModelEntry(resnet20_wide, (3, 32, 32)),
    "resnet_cifar": ModelEntry(resnet_cifar, (3, 32, 32)),
    "resnet_digits": ModelEntry(resnet_digits, (1, 8, 8)),
    "darts": ModelEntry(darts, (3, 32, 32), {"genotype": lambda path: read_genotype(path).to_json()}),
    "darts_search": ModelEntry(darts_search, (3, 32, 32)),
    "nasbench201": ModelEntry(nasbench201, (3, 32, 32)),
    "chain12": ModelEntry(chain12, (3, 32, 32)),
    "lresnet10e_ir": ModelEntry(lresnet10e_ir, (3, 112, 112)),
    "lresnet50e_ir": ModelEntry(lresnet50e_ir, (3, 112, 112)),
    "lresnet_ir": ModelEntry(lresnet_ir, (3, 112, 112)),
}
