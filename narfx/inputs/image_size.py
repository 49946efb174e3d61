"""The size of a network's images where the user gives none: as the model's origin states it, or from the images.

Images are never enlarged for it. The stated size is taken where no image is smaller. Otherwise it is the images' own
size, where all have one and the network is not made for a single size. Where neither is known, the user is asked. A
network from a file (an ``arch.json``, a bundle, an ONNX file) has the size that the file states, and no other.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from narfx.errors import UsageError
from narfx.inputs.model_ref import default_input
from narfx.inputs.reference import ModelRef
from narfx.inputs.zoo import ZOOS, find_model
from narfx.support.text import times

__all__ = ["Images", "Shape", "check_enlarging", "choose_input", "enlarging", "input_of_module"]

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Images:
    """What is known of the images of a data source: their channels, and the (height, width) that were seen."""

    name: str
    channels: int
    sizes: tuple[tuple[int, int], ...]


def choose_input(
    reference: str, model: nn.Module, images: Images | None = None, *, relative_to: Path | None = None
) -> tuple[Shape, str | None]:
    """The (channels, height, width) of one sample for a model, and a sentence that says where it is from.

    Args:
        reference: The model's reference.
        model: The model that it built.
        images: The images that the model gets, if there are any; without them there is no sentence.
        relative_to: The folder at which a path in the reference starts.

    Raises:
        UsageError: The size is not known, or an image would have to be enlarged.
    """
    ref = ModelRef.parse(reference)
    stated = _stated(ref, model, relative_to)
    if images is None:
        if stated is None:
            raise _unknown(ref)
        return stated, None
    if stated is not None and not _smaller(images, stated):
        return stated, f"input {times(stated)}: {ref} states it"
    if stated is not None and _takes_one_size(ref):
        check_enlarging(images, stated, str(ref))
    channels = stated[0] if stated is not None else _first_channels(model) or images.channels
    if len(images.sizes) > 1:
        side = min(min(size) for size in images.sizes)
        states = "states none" if stated is None else f"states {times(stated)}, for which some are too small"
        raise UsageError(
            f"the images of {images.name} have several sizes ({times(min(images.sizes))} to "
            f"{times(max(images.sizes))}) and {ref} {states}: give the size to resize them to, as in --input "
            f"{_option(stated or (channels, side, side))}",
            where="--input",
            kind="several_sizes",
        )
    shape = (channels, *images.sizes[0])
    other = "" if stated is None else f", smaller than the {times(stated)} that {ref} states"
    return shape, f"input {times(shape)}: the size of the images{other}"


def check_enlarging(images: Images, shape: Shape, network: str) -> None:
    """Refuse images that would be enlarged, where the user did not ask for it with ``--input``.

    Args:
        images: What the network gets.
        shape: The network's input (C, H, W).
        network: How the message calls the network.

    Raises:
        UsageError: An image is smaller than the input, in height or in width.
    """
    if small := _smaller(images, shape):
        raise enlarging(f"{images.name} has images of {times(small[0])}", shape, f"that {network} takes")


def enlarging(images: str, shape: Shape, takes: str) -> UsageError:
    """The error for ``images`` that would have to be enlarged to an input (C, H, W)."""
    return UsageError(
        f"{images}, smaller than the {times(shape[1:])} {takes}, and images are enlarged only on request: add --input "
        f"{_option(shape)} to enlarge them, or give images of at least {times(shape[1:])}",
        where="--input",
        kind="small_images",
    )


def _smaller(images: Images, shape: Shape) -> list[tuple[int, int]]:
    """The sizes of images that are smaller than an input, in height or in width."""
    return [size for size in images.sizes if size[0] < shape[1] or size[1] < shape[2]]


def input_of_module(model: nn.Module) -> Shape | None:
    """The shape of one sample that a module states: ``input_shape``, ``input_size``, or timm's ``default_cfg``."""
    found = [getattr(model, name, None) for name in ("INPUT_SHAPE", "input_shape", "input_size")]
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        found.append(config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None))
    return next((shape for value in found if (shape := _shape(value)) is not None), None)


def _stated(ref: ModelRef, model: nn.Module, relative_to: Path | None) -> Shape | None:
    whole = default_input(ref, relative_to=relative_to) or _of_module_file(ref)
    if ref.part is not None and whole is not None and _first_channels(model) != whole[0]:
        whole = None  # a part in the middle of the model takes something else
    return whole or input_of_module(model)


def _of_module_file(ref: ModelRef) -> Shape | None:
    """``INPUT_SHAPE`` of the module that a reference names, which has been imported."""
    return _shape(getattr(sys.modules.get(ref.name), "INPUT_SHAPE", None)) if ref.kind == "module" else None


def _shape(value: Any) -> Shape | None:
    if not isinstance(value, (tuple, list)) or len(value) != 3 or not all(type(n) is int and n > 0 for n in value):
        return None
    return value[0], value[1], value[2]


def _takes_one_size(ref: ModelRef) -> bool:
    """Whether a model of a collection is made for one height and width."""
    return ref.kind in ZOOS and find_model(ref.kind, ref.name, ref.arguments).one_size


def _first_channels(model: nn.Module) -> int | None:
    """The channels that the first convolution takes."""
    return next((part.in_channels for part in model.modules() if isinstance(part, nn.Conv2d)), None) or None


def _option(shape: Shape) -> str:
    return ",".join(map(str, shape))


def _unknown(ref: ModelRef) -> UsageError:
    cure = f", or write a line INPUT_SHAPE = (channels, height, width) into {ref.name}" if ref.kind == "file" else ""
    return UsageError(
        f"the size of the images is not known, because {ref} does not state it: give it with --input "
        f"channels,height,width{cure}",
        where="--input",
        kind="unknown_input",
    )
