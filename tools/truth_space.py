"""What ``ground_truth.py`` measures: its options, its data, its base, and the vectors of its space."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from narfx.compiler.open import NetworkOptions, open_base
from narfx.compiler.traced import Traced
from narfx.search.stages import Found
from narfx.space.records import Vector
from narfx.space.space import SearchSpace
from narfx.tasks.options import DataOptions, open_task
from narfx.tasks.task import Task

FREE = (0, 2, 3, 5)
TRUTHS = ("scratch", "base")
BUDGET = "macs<=0.7x"
VALIDATION = 0.25


@dataclass(frozen=True)
class Options:
    """The measurement: the data, the network and how long everything is trained."""

    data: str
    out: str
    model: str
    input: tuple[int, int, int]
    images: float
    scratch_epochs: int
    base_epochs: int
    search_epochs: int
    seeds: int
    device: str


@cache
def opened(options: Options, weights: str | None) -> Traced:
    return open_base(NetworkOptions(model=options.model, input=options.input, weights=weights))


@cache
def task_of(options: Options) -> Task:
    data = DataOptions(data=options.data, data_fraction=options.images, val_fraction=VALIDATION)
    return open_task(data, options.input, seed=0, device=torch.device(options.device), label_smoothing=0.0)


def base_weights(options: Options) -> str:
    return str(Path(options.out) / "base.safetensors")


def space_of(options: Options) -> SearchSpace:
    """The space in which only the free slots have a choice."""
    return narrowed(opened(options, None).space, Found())


def narrowed(space: SearchSpace, found: Found) -> SearchSpace:
    """The stage's space of every search here."""
    return space.restrict({index: [0] for index in range(len(space)) if index not in FREE})


def vectors(options: Options) -> list[Vector]:
    return [tuple(vector) for vector in itertools.product(*(slot.legal for slot in space_of(options).slots))]
