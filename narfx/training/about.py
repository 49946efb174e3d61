"""``about.json`` of a run: versions, device, data and networks, all that a report shows and no other file holds."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from narfx._version import __version__
from narfx.space.network_record import NetworkRecord
from narfx.tasks.task import Task

__all__ = ["ABOUT", "About", "AboutData", "about"]

ABOUT = "about.json"
_PACKAGES = ("torch", "torchvision", "numpy", "onnx", "onnxruntime")


class AboutData(BaseModel):
    """The data of a run: the source without folders, and the number of images in each part."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    classes: int
    train: int
    val: int
    test: int | None = None
    val_from_train: bool = False
    test_from_val: bool = False


class About(BaseModel):
    """What a run was made with. ``networks`` holds one record for each base with an architecture."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    versions: dict[str, str]
    device: str
    threads: int
    data: AboutData
    networks: tuple[NetworkRecord, ...] = ()


def about(networks: Sequence[NetworkRecord], task: Task, device: torch.device) -> dict[str, Any]:
    """The values of ``about.json``; they hold no time, host or folder."""
    data = task.data
    known = About(
        versions={"narfx": __version__, "python": platform.python_version()} | _versions(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        data=AboutData(
            name=data.short_name,
            classes=len(data.classes),
            train=len(data.train),
            val=len(data.val),
            test=None if data.test is None else len(data.test),
            val_from_train=data.val_from_train,
            test_from_val=data.test_from_val,
        ),
        networks=tuple(networks),
    )
    return known.model_dump(mode="json", exclude_none=True)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
