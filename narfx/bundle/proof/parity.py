"""The proof that an ONNX file computes what its network computes: both run on the same random images."""

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

__all__ = [
    "BATCH_SIZES",
    "TOLERANCE",
    "Parity",
    "agreement",
    "compare_onnx",
    "difference",
    "input_batches",
    "randomise_norms",
    "signal",
    "worst",
]

M = TypeVar("M", bound=nn.Module)

TOLERANCE = 1e-5
_FACTORS, _SIGNAL = (2.0, 1.5, 1.25, 1.1, 1.0), 0.01
BATCH_SIZES = (1, 2, 5)
NORM_IMAGES = 16


@dataclass(frozen=True)
class Parity:
    """How far an ONNX file is from its network.

    ``max_rel_error`` is the largest absolute difference of an output tensor over that tensor's largest absolute
    value, the worst over outputs and batches, in float32; of integers and truth values it is the share that differs.
    ``signal`` is how far the outputs of two images are apart: see :func:`signal`.
    """

    max_abs_error: float
    max_rel_error: float
    tolerance: float
    passed: bool
    samples: int
    batch_sizes: tuple[int, ...]
    signal: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; an error that is not finite is given as null."""
        values = asdict(self) | {"batch_sizes": list(self.batch_sizes)}
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in values.items()}


def worst(*parities: Parity) -> Parity:
    """Several comparisons as one."""
    return Parity(
        max(p.max_abs_error for p in parities),
        max(p.max_rel_error for p in parities),
        max(p.tolerance for p in parities),
        all(p.passed for p in parities),
        sum(p.samples for p in parities),
        parities[0].batch_sizes,
        min(p.signal for p in parities),
    )


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

    Raises:
        ParityError: onnxruntime cannot load or run the file, or it has another number of outputs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    largest_abs = largest_rel = apart = 0.0
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for x in input_batches(input_shape, batch_sizes, seed):
            with torch.inference_mode():
                output = tensors(network(x.clone()))  # an operation in place may change its input
            apart = max(apart, signal(output))
            expected = [tensor.numpy() for tensor in output]
            found = session.run(None, {name: x.numpy()})
            if len(found) != len(expected):
                raise ValueError(f"it has {len(found)} outputs, its network {len(expected)}")
            for ours, theirs in zip(expected, found, strict=True):
                error, scale = difference(ours, np.asarray(theirs))
                largest_abs, largest_rel = max(largest_abs, error), max(largest_rel, scale)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].replace(str(path), path.name)
        raise ParityError(f"onnxruntime cannot run {path.name}: {reason}", where=str(path)) from error
    return Parity(
        largest_abs, largest_rel, tolerance, largest_rel <= tolerance, sum(batch_sizes), tuple(batch_sizes), apart
    )


def input_batches(
    input_shape: tuple[int, int, int], batch_sizes: Sequence[int] = BATCH_SIZES, seed: int = 0
) -> Iterator[Tensor]:
    """Random images, those that a comparison of this seed is made on."""
    generator = torch.Generator().manual_seed(seed)
    for batch in batch_sizes:
        yield torch.randn(batch, *input_shape, generator=generator)


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The largest absolute difference, and the same over the largest absolute value; infinite where not comparable.

    Of integers and truth values the second is the share that differs: a rounding error may turn one of a million.
    """
    exact = "f" not in (ours.dtype.kind, theirs.dtype.kind)
    if exact and ours.shape == theirs.shape and ours.dtype == theirs.dtype:
        wrong = ours != theirs
        apart = np.abs(ours[wrong].astype(np.float64) - theirs[wrong].astype(np.float64))
        return float(apart.max(initial=0.0)), float(wrong.mean()) if wrong.size else 0.0
    if exact or ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf"), float("inf")
    error = float(np.abs(ours.astype(np.float64) - theirs).max(initial=0.0))
    size = float(np.abs(ours).max(initial=0.0))
    return error, error / size if size else (0.0 if error == 0 else float("inf"))


def agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The error of a value inside a network over its largest finite one: what is not finite must be so on both sides.

    A mask of minus infinity, or the logarithm of a negative number, is right where both have it.
    """
    if ours.shape != theirs.shape:
        return float("inf")
    finite = np.isfinite(ours)
    if finite.all():
        return difference(ours, theirs)[1]
    alike = np.array_equal(ours[~finite], theirs[~finite], equal_nan=True)
    return difference(ours[finite], theirs[finite])[1] if alike else float("inf")


def randomise_norms(network: M, images: Tensor, seed: int = 0) -> M:
    """A copy in eval mode with random BatchNorm affines and statistics, whose output depends on the image.

    Fresh statistics (0 and 1) would hide a wrong fusion, and purely random ones make deep networks give one output for
    every image, of which a parity says nothing. So the statistics are those of ``images`` (N, C, H, W), N at least 2,
    with the variance times a factor: with the own one each norm lets differences grow, rounding errors among them,
    and with a larger one they die out. The largest is taken with which two images differ in a hundredth of the output.
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
    """How far the outputs of the first two images differ, over the largest value; 0 where one is not finite.

    A parity says nothing where this is no larger than its tolerance. Integers and truth values do not count.
    """
    outputs = [t for t in outputs if t.is_floating_point()]
    apart = max((float((t[0] - t[1]).abs().max()) for t in outputs if len(t) > 1 and t.numel()), default=0.0)
    largest = max((float(t.abs().max()) for t in outputs if t.numel()), default=0.0)
    return apart / largest if 0 < largest < float("inf") and apart == apart else 0.0
