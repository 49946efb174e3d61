"""Compare the outputs of an ONNX file and of its network on the same random images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from narfx.errors import ParityError
from narfx.graph.batchnorm import recalibrate
from narfx.graph.copying import copy_module
from narfx.graph.nodes import tensors
from narfx.support.onnx_session import onnxruntime_module, open_session, run_session
from narfx.support.text import count, first_line

__all__ = [
    "BATCH_SIZES",
    "TOLERANCE",
    "Parity",
    "Reference",
    "agreement",
    "compare_onnx",
    "compare_outputs",
    "difference",
    "input_batches",
    "randomise_norms",
    "signal",
]

M = TypeVar("M", bound=nn.Module)

TOLERANCE = 1e-5
_FACTORS, _SIGNAL = (2.0, 1.5, 1.25, 1.1, 1.0), 0.01
BATCH_SIZES = (1, 2, 5)
NORM_IMAGES = 16


@dataclass(frozen=True)
class Parity:
    """The difference between an ONNX file and its network, in float32.

    Attributes:
        max_abs_error: The largest absolute difference over all outputs and batches.
        max_rel_error: The largest absolute difference of an output tensor over that tensor's largest absolute value,
            the worst over outputs and batches; for integers and booleans, the share of values that differ.
        tolerance: The largest ``max_rel_error`` that passes.
        passed: Whether the file passes.
        samples: How many images were compared.
        batch_sizes: The batch sizes.
        signal: How far the outputs of two images are apart, see :func:`signal`.
    """

    max_abs_error: float
    max_rel_error: float
    tolerance: float
    passed: bool
    samples: int
    batch_sizes: tuple[int, ...]
    signal: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; an error that is not finite becomes null."""
        values = asdict(self) | {"batch_sizes": list(self.batch_sizes)}
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in values.items()}


class Reference:
    """The outputs of a network, in eval mode on the CPU, for the random images of a proof, each computed once.

    The images of all batches but the first are the first ones of the largest batch.
    """

    def __init__(
        self,
        network: nn.Module,
        input_shape: tuple[int, int, int],
        batch_sizes: Sequence[int] = BATCH_SIZES,
        seed: int = 0,
    ) -> None:
        self.network = network
        self.input_shape, self.seed = input_shape, seed
        self.images = dict(zip(batch_sizes, input_batches(input_shape, batch_sizes, seed), strict=True))
        self.largest = max(batch_sizes)
        self.images.update({batch: self.images[self.largest][:batch] for batch in batch_sizes[1:]})
        self._outputs: dict[int, Any] = {}

    def output(self, batch: int) -> Any:
        """What the network returns for this many images."""
        if batch not in self._outputs:
            with torch.inference_mode():
                self._outputs[batch] = self.network(self.images[batch].clone())  # it may change its input in place
        return self._outputs[batch]

    def any_output(self) -> Any:
        """What the network returns for some number of images."""
        return next(iter(self._outputs.values())) if self._outputs else self.output(2)

    def part(self, batch: int) -> list[Tensor] | None:
        """The first rows of the largest batch's outputs, or ``None`` if there are no rows of its images."""
        outputs = tensors(self.output(self.largest))
        return [t[:batch] for t in outputs] if all(t.ndim and len(t) == self.largest for t in outputs) else None


def compare_onnx(
    network: nn.Module,
    path: Path,
    input_shape: tuple[int, int, int],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Parity:
    """Run the network and the ONNX file (onnxruntime, CPU) on the same random images at several batch sizes.

    Args:
        network: The network, in eval mode on the CPU.
        path: The ONNX file.
        input_shape: (channels, height, width) of one sample.
        batch_sizes: One comparison for each.
        tolerance: The largest ``max_rel_error`` that passes.
        seed: Seed of the images.

    Raises:
        ParityError: onnxruntime cannot load or run the file, or the file has another number of outputs.
    """
    return compare_outputs(Reference(network, input_shape, batch_sizes, seed), path, tolerance=tolerance)


def compare_outputs(reference: Reference, path: Path, *, tolerance: float = TOLERANCE) -> Parity:
    """As :func:`compare_onnx`, where some of the network's outputs may be known already.

    A batch whose images are a part of a larger batch is compared with that part of the network's outputs. Only if the
    file's differ does the network run on that batch alone: then it mixes its images, or the file is wrong.
    """
    onnxruntime_module()  # a missing package is no fault of the file
    largest_abs = largest_rel = apart = 0.0
    try:
        session = open_session(str(path))
        name = session.get_inputs()[0].name
        for index, (batch, x) in enumerate(reference.images.items()):
            found = [np.asarray(value) for value in run_session(session, None, {name: x.numpy()})]
            output = reference.part(batch) if index and batch < reference.largest else None
            error, scale = _largest(output, found) if output is not None else (0.0, 0.0)
            if output is None or scale > tolerance:
                output = tensors(reference.output(batch))
                error, scale = _largest(output, found)
            apart = max(apart, signal(output))
            largest_abs, largest_rel = max(largest_abs, error), max(largest_rel, scale)
    except Exception as error:
        reason = first_line(error).replace(str(path), path.name)
        raise ParityError(f"onnxruntime cannot run {path.name}: {reason}", where=str(path)) from error
    sizes = tuple(reference.images)
    return Parity(largest_abs, largest_rel, tolerance, largest_rel <= tolerance, sum(sizes), sizes, apart)


def _largest(expected: Sequence[Tensor], found: Sequence[np.ndarray]) -> tuple[float, float]:
    """The largest (absolute, relative) error of an output."""
    if len(found) != len(expected):
        raise ValueError(f"it has {count(len(found), 'output')}, but its network has {len(expected)}")
    errors = [difference(ours.numpy(), theirs) for ours, theirs in zip(expected, found, strict=True)]
    return max((error for error, _ in errors), default=0.0), max((scale for _, scale in errors), default=0.0)


def input_batches(
    input_shape: tuple[int, int, int], batch_sizes: Sequence[int] = BATCH_SIZES, seed: int = 0
) -> Iterator[Tensor]:
    """The random images (N, C, H, W) that a comparison with this seed uses."""
    generator = torch.Generator().manual_seed(seed)
    for batch in batch_sizes:
        yield torch.randn(batch, *input_shape, generator=generator)


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """(absolute, relative) error: the largest absolute difference, and the same over the largest absolute value.

    Both are infinite if the tensors cannot be compared. For integers and booleans the second is the share of values
    that differ, because a rounding error may flip one of a million.
    """
    exact = "f" not in (ours.dtype.kind, theirs.dtype.kind)
    if exact and ours.shape == theirs.shape and ours.dtype == theirs.dtype:
        wrong = ours != theirs
        apart = np.abs(ours[wrong].astype(np.float64) - theirs[wrong].astype(np.float64))
        return float(apart.max(initial=0.0)), float(wrong.mean()) if wrong.size else 0.0
    if exact or ours.shape != theirs.shape:
        return float("inf"), float("inf")
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinities give NaN or infinity
        apart = np.subtract(ours, theirs, dtype=np.result_type(ours, theirs, np.float32))
        error = float(np.abs(apart, out=apart).max(initial=0.0))
    if not np.isfinite(error):
        return float("inf"), float("inf")
    size = max(float(ours.max(initial=0.0)), -float(ours.min(initial=0.0)))
    return error, error / size if size else (0.0 if error == 0 else float("inf"))


def agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The relative error of a value inside a network; NaN and infinities must be at the same places on both sides.

    A mask of minus infinity, or the logarithm of a negative number, is correct if both sides have it.
    """
    error = difference(ours, theirs)[1]
    if np.isfinite(error) or ours.shape != theirs.shape:
        return error
    finite = np.isfinite(ours)
    alike = np.array_equal(ours[~finite], theirs[~finite], equal_nan=True)
    return difference(ours[finite], theirs[finite])[1] if alike else float("inf")


def randomise_norms(network: M, images: Tensor, seed: int = 0) -> M:
    """A copy in eval mode with random BatchNorm affines and statistics, whose output depends on the image.

    Fresh statistics (mean 0, variance 1) would hide a wrong fusion. Purely random ones make deep networks give the same
    output for every image, and then parity proves nothing. So the statistics are those of ``images`` (N, C, H, W), N at
    least 2, with the variance times a factor. With factor 1 each norm amplifies differences, rounding errors included;
    with a large factor differences vanish. The largest factor is used with which the outputs of two images differ by
    more than a hundredth of the largest output.
    """
    changed = copy_module(network).eval()
    generator = torch.Generator().manual_seed(seed)
    norms = [norm for norm in changed.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5, generator=generator)
                norm.bias.normal_(0, 0.5, generator=generator)
        recalibrate(changed, [images.clone()], frozen=True)
        measured = [(norm.running_var, norm.running_var.clone()) for norm in norms if norm.running_var is not None]
        for factor in _FACTORS if measured else ():
            for variance, own in measured:
                variance.copy_(own * factor)
            if signal(tensors(changed(images[:2].clone()))) > _SIGNAL:
                break
    return changed


def signal(outputs: Sequence[Tensor]) -> float:
    """The largest difference between the outputs of the first two images over the largest value; 0 if not finite.

    Parity proves nothing if this is not larger than the tolerance. Integer and boolean outputs are not counted.
    """
    outputs = [t for t in outputs if t.is_floating_point()]
    apart = max((float((t[0] - t[1]).abs().max()) for t in outputs if len(t) > 1 and t.numel()), default=0.0)
    largest = max((float(t.abs().max()) for t in outputs if t.numel()), default=0.0)
    return apart / largest if 0 < largest < float("inf") and apart == apart else 0.0
