"""The proof that an ONNX file computes what its network computes: both run on the same random images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from narfx.copying import copy_module
from narfx.errors import ParityError

__all__ = [
    "BATCH_SIZES",
    "TOLERANCE",
    "Parity",
    "compare_onnx",
    "difference",
    "input_batches",
    "randomise_norms",
    "tensors",
    "worst",
]

TOLERANCE = 1e-5
BATCH_SIZES = (1, 2, 5)


@dataclass(frozen=True)
class Parity:
    """How far an ONNX file is from its network.

    ``max_rel_error`` is the largest absolute difference of an output tensor over that tensor's largest absolute
    value, the worst over outputs and batches, in float32.
    """

    max_abs_error: float
    max_rel_error: float
    tolerance: float
    passed: bool
    samples: int
    batch_sizes: tuple[int, ...]

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
    largest_abs = largest_rel = 0.0
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for x in input_batches(input_shape, batch_sizes, seed):
            with torch.inference_mode():
                expected = [tensor.numpy() for tensor in tensors(network(x))]
            found = session.run(None, {name: x.numpy()})
            if len(found) != len(expected):
                raise ValueError(f"it has {len(found)} outputs, its network {len(expected)}")
            for ours, theirs in zip(expected, found, strict=True):
                error, scale = difference(ours, np.asarray(theirs))
                largest_abs, largest_rel = max(largest_abs, error), max(largest_rel, scale)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ParityError(f"onnxruntime cannot run {path.name}: {reason}", where=str(path)) from error
    return Parity(largest_abs, largest_rel, tolerance, largest_rel <= tolerance, sum(batch_sizes), tuple(batch_sizes))


def input_batches(
    input_shape: tuple[int, int, int], batch_sizes: Sequence[int] = BATCH_SIZES, seed: int = 0
) -> Iterator[Tensor]:
    """The random images that a comparison of this seed is made on."""
    generator = torch.Generator().manual_seed(seed)
    for batch in batch_sizes:
        yield torch.randn(batch, *input_shape, generator=generator)


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The largest absolute difference, and the same over the largest absolute value; infinite where not comparable."""
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf"), float("inf")
    error = float(np.abs(ours.astype(np.float64) - theirs).max(initial=0.0))
    size = float(np.abs(ours).max(initial=0.0))
    return error, error / size if size else (0.0 if error == 0 else float("inf"))


def tensors(output: Any) -> list[Tensor]:
    """The tensors in what a network returns (a tensor, or tuples, lists and dictionaries of them), in one order."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def randomise_norms(network: fx.GraphModule, seed: int = 0) -> fx.GraphModule:
    """A copy with random BatchNorm statistics and affines; fresh ones would hide a wrong fusion."""
    changed = copy_module(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in changed.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                if norm.running_mean is not None and norm.running_var is not None:
                    norm.running_mean.normal_(0, 0.5, generator=generator)
                    norm.running_var.uniform_(0.5, 2.0, generator=generator)
                if norm.affine:
                    norm.weight.uniform_(0.5, 1.5, generator=generator)
                    norm.bias.normal_(0, 0.5, generator=generator)
    return changed
