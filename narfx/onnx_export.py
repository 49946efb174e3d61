"""ONNX files, and the proof that one computes what its network computes."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from narfx.copying import copy_module
from narfx.errors import ParityError, RunError, UsageError
from narfx.passes.verify import verify_lowered

__all__ = ["BATCH_SIZES", "TOLERANCE", "Parity", "compare_onnx", "export_onnx", "randomise_norms", "tensors", "worst"]

TOLERANCE = 1e-5
BATCH_SIZES = (1, 2, 5)
_TWO_GIB = 2**31


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


def export_onnx(
    network: fx.GraphModule,
    input_shape: tuple[int, int, int],
    path: Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    opset: int | None = None,
) -> None:
    """Write ``network`` as ONNX with a batch axis of any size, input ``input`` and outputs ``output``, ``output1``...

    ``metadata`` is written into the file, each value as JSON under ``narfx.KEY``. The file is checked by
    ``onnx.checker`` before this returns.

    Raises:
        ParityError: The network is not lowered or not in eval mode, or the file is not what was asked for.
        RunError: torch's exporter cannot export the network.
    """
    problems = verify_lowered(network)
    if problems:
        raise ParityError(f"the network is not ready to export: {problems[0]}", kind="not_lowered")
    import onnx

    example = torch.zeros(2, *input_shape)
    with torch.no_grad():
        outputs = len(tensors(network(example)))
    names = ["output", *(f"output{index}" for index in range(1, outputs))]
    program = _quiet_export(network, example, names, opset)
    for key, value in (metadata or {}).items():
        program.model.metadata_props[f"narfx.{key}"] = json.dumps(value)
    size = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    program.save(str(path), external_data=size >= _TWO_GIB)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise ParityError(f"{path.name} is not valid ONNX: {str(error).splitlines()[0]}", where=str(path)) from error
    written = {entry.domain: entry.version for entry in onnx.load(str(path), load_external_data=False).opset_import}
    if opset is not None and written.get("") != opset:
        raise UsageError(
            f"opset {opset} was asked for, but torch's exporter wrote {written.get('')}: ask for that or for another",
            where="--opset",
            kind="opset",
        )


def _quiet_export(network: fx.GraphModule, example: Tensor, names: list[str], opset: int | None) -> Any:
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)  # what goes wrong is told below, or shows in the file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=_dynamic_shapes(network),
                input_names=["input"],
                output_names=names,
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # torch wraps what happened into advice on how to report it
            cause = cause.__cause__
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise RunError(
            f"torch's ONNX exporter cannot export this network ({type(cause).__name__}: {reason})", kind="onnx_export"
        ) from error
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _dynamic_shapes(network: fx.GraphModule) -> tuple[Any, ...]:
    """A free batch axis of the one input, which ``forward(self, *inputs)`` takes in a tuple."""
    first, *others = [node for node in network.graph.nodes if node.op == "placeholder" and not node.args]
    batch = {0: "batch"}
    return ((batch,) if str(first.target).startswith("*") else batch, *({} for _ in others))


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
        ParityError: onnxruntime cannot load or run the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    generator = torch.Generator().manual_seed(seed)
    largest_abs = largest_rel = 0.0
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for batch in batch_sizes:
            x = torch.randn(batch, *input_shape, generator=generator)
            with torch.inference_mode():
                expected = [tensor.numpy() for tensor in tensors(network(x))]
            found = session.run(None, {name: x.numpy()})
            for ours, theirs in zip(expected, found, strict=True):
                error, scale = _difference(ours, np.asarray(theirs))
                largest_abs, largest_rel = max(largest_abs, error), max(largest_rel, scale)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ParityError(f"onnxruntime cannot run {path.name}: {reason}", where=str(path)) from error
    return Parity(largest_abs, largest_rel, tolerance, largest_rel <= tolerance, sum(batch_sizes), tuple(batch_sizes))


def _difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
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
