"""The images on which a finished network is judged: one part of a source, normalised as the network expects it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from narfx.data.arrays import Source
from narfx.data.image_data import ONE_CLASS, ImageData, fitting, images_of, normalisation
from narfx.data.parts import Part, check_channels
from narfx.data.splits import make_split, spread
from narfx.errors import UsageError
from narfx.graph.checks import check_values
from narfx.graph.time_limit import model_time
from narfx.inputs.image_size import check_enlarging
from narfx.support.devices import is_out_of_memory
from narfx.support.text import first_line
from narfx.tasks.classification import Classification
from narfx.tasks.precision import Precision
from narfx.training.checks import outputs
from narfx.verbs.target import Shape, Target

__all__ = ["MEMORY", "Judged", "judge_classes", "parts_of", "try_target"]

MEMORY = 2 * 1024**3
"""How many bytes of images are kept in memory."""


@dataclass(frozen=True)
class Judged:
    """A task whose ``test`` part holds the images, the name of the ``part`` that they are of, and notes for people."""

    task: Classification
    part: str
    notes: tuple[str, ...]


def parts_of(found: Source) -> dict[str, Part]:
    """The parts that a source has, the one to judge on first."""
    named = {"test": found.test, "val": found.val, "train": found.train}
    return {name: part for name, part in named.items() if part is not None}


def judge_classes(
    target: Target, found: Source, source: str, part: str | None, *, name: str, enlarge: bool, batch_size: int,
    precision: Precision, device: torch.device, most: int | None = None,
) -> Judged:  # fmt: skip
    """The classification of images of a source by a finished network.

    Args:
        target: The network, on its device; its own preprocessing is used where it has one.
        found: The images.
        source: The name of the source.
        part: ``test``, ``val`` or ``train``; without it the first of these that there is.
        name: How messages call the network.
        enlarge: Whether images may be enlarged.
        batch_size: Images in a batch.
        precision: Number format of forward passes.
        device: Where the network runs.
        most: At most so many images, spread over the classes; the same ones every time.

    Raises:
        UsageError: There is no such part, or the images or their classes do not fit the network.
    """
    parts = parts_of(found)
    if part is not None and part not in parts:
        raise UsageError(
            f"{source} has no part {part!r}: it has {', '.join(parts)}", where="--part", kind="no_such_part"
        )
    chosen = part or next(iter(parts))
    notes = [ONE_CLASS] if len(np.unique(parts[chosen].labels)) == 1 else []
    notes += fitting([parts[chosen]], target.input)
    splits, used = {}, {chosen, *(() if target.preprocessing else ("train",))}
    if not enlarge:
        check_enlarging(images_of(source, *(parts[key] for key in used)), target.input, name)
    for key in used:
        check_channels(parts[key].channels, target.input[0], source)
        everything = np.arange(len(parts[key].labels), dtype=np.int64)
        small = len(everything) * math.prod(target.input) <= MEMORY
        splits[key] = make_split(parts[key], everything, target.input, device, small)
    if target.preprocessing is not None:
        mean, std = target.preprocessing.mean, target.preprocessing.std
    else:
        mean, std, _ = normalisation(found, splits["train"], target.input)
    judged = splits[chosen]
    if most is not None and most < len(judged):
        judged = judged.take(np.sort(spread(parts[chosen].labels, most)))
    data = ImageData(source, found.classes, mean, std, judged, judged, judged, (), False)
    task = Classification(data, batch_size=batch_size, precision=precision)
    task.check(outputs(target.network, target.input, device))
    return Judged(task, chosen, tuple(notes))


@model_time()
def try_target(target: Target, input: Shape | None, device: torch.device) -> None:
    """Move the network to its device and give it one black image.

    Raises:
        UsageError: A weight is not finite, or the network does not take the image; ``input`` is the user's, if given.
    """
    if input not in (None, target.input):
        raise UsageError(
            f"the network takes inputs of shape {target.input}, not {input}: leave out --input", where="--input",
            kind="input_shape",
        )  # fmt: skip
    check_values(target.network)
    try:
        with torch.inference_mode():
            target.network.to(device).eval()(torch.zeros(1, *target.input, device=device))
    except Exception as error:  # the user's own code
        if is_out_of_memory(error) or isinstance(error, UsageError):
            raise
        raise UsageError(
            f"the network does not take one image of shape {target.input} ({first_line(error)}): give its shape with "
            "--input",
            where="--input",
            kind="input_shape",
        ) from error
