"""Prove an ONNX file against a file of weights alone: no Python of a bundle runs.

torch's exporter keeps the names of weights, and fuses a BatchNorm into the layer before it. So each floating-point
tensor that a node of the file uses is a weight, or a layer's weight scaled by a norm, or a constant of the graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from narfx.bundle.proof.parity import input_batches
from narfx.errors import ParityError
from narfx.support.onnx_session import onnxruntime_module, open_session, run_session
from narfx.support.text import first_line

__all__ = ["Stored", "compare_stored", "output_shapes"]

Values = np.ndarray[Any, np.dtype[Any]]

_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_TOLERANCE, _LARGEST_EPS = 1e-5, 0.1


@dataclass
class Stored:
    """Which weights an ONNX file holds.

    Attributes:
        equal: Keys whose values stand in the file.
        fused: Keys of layers and norms whose product stands in the file.
        constants: Other floating-point tensors of the file, with their numbers of values.
    """

    equal: set[str] = field(default_factory=set)
    fused: set[str] = field(default_factory=set)
    constants: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"equal": len(self.equal), "fused": len(self.fused), "constants": self.constants}


def compare_stored(path: Path, weights: Mapping[str, Tensor]) -> Stored:
    """Find every floating-point weight in an ONNX file by its name and values.

    Raises:
        ParityError: A weight has other values in the file, or is not found there.
    """
    try:
        return _compare(path, weights)
    except ParityError:
        raise
    except Exception as error:  # a hostile file may hold any shape, and protobuf has exceptions of its own
        reason = first_line(error)
        raise ParityError(
            f"{path} cannot be compared with the weights: {reason}", where=str(path), kind="weights"
        ) from error


def output_shapes(path: Path, shape: tuple[int, int, int], *, seed: int = 0) -> dict[str, list[int]]:
    """Run an ONNX file on random images (C, H, W) at several batch sizes; the shape of one sample's outputs by name.

    Raises:
        ParityError: onnxruntime cannot run it, or an output does not keep the batch.
    """
    onnxruntime_module()  # a missing package is no fault of the file
    shapes: dict[str, list[int]] = {}
    try:
        session = open_session(str(path))
        feed, names = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
        for images in input_batches(shape, seed=seed):
            for name, values in zip(names, run_session(session, None, {feed: images.numpy()}), strict=True):
                size, *sizes = np.shape(values) or (0,)
                if size != len(images) or shapes.setdefault(name, sizes) != sizes:
                    raise ValueError(f"{name} has shape {np.shape(values)} for {len(images)} images")
    except Exception as error:
        reason = first_line(error).replace(str(path), path.name)
        raise ParityError(f"onnxruntime cannot run {path.name}: {reason}", where=str(path)) from error
    return shapes


def _compare(path: Path, weights: Mapping[str, Tensor]) -> Stored:
    import onnx

    graph = onnx.load(str(path)).graph
    used = {name for node in _nodes(graph) for name in node.input}
    held = {name: values for name, values in _tensors(graph) if name in used and values.dtype.kind == "f"}
    state = {key: value.float().numpy() for key, value in weights.items() if value.is_floating_point()}
    keys = {_digest(values): key for key, values in state.items()}
    found, fused = Stored(), set[str]()
    for node in _nodes(graph):
        if node.op_type in _LAYERS:
            fused |= _fused(node, held, state, found)
    for name in sorted(held.keys() - fused):
        values = held[name]
        same = name if name in state else keys.get(_digest(values)) or keys.get(_digest(values.T))
        if same is None:
            found.constants[name] = int(values.size)
        elif name in state and not np.array_equal(values, state[name], equal_nan=True):
            raise ParityError(
                f"{path} has other values of {name} than the weights: write the bundle again with narfx apply",
                where=name,
                kind="weights",
            )
        else:
            found.equal.add(same)
    known = {_digest(state[key]) for key in found.equal | found.fused}  # a tensor with two names is stored once
    missing = [key for key, values in state.items() if _digest(values) not in known]
    if missing:
        raise ParityError(
            f"{path} does not contain {missing[0]} as the weights have it: leave out --no-code to run both and compare",
            where=missing[0],
            kind="weights",
        )
    return found


def _fused(node: Any, held: Mapping[str, Values], state: Mapping[str, Values], found: Stored) -> set[str]:
    """The tensors of a layer that are its weights scaled by one of the norms; none if no norm explains them."""
    weight, bias = node.input[1], node.input[2] if len(node.input) > 2 else ""
    if weight not in held or weight not in state or held[weight].shape != state[weight].shape:
        return set()
    own_bias = weight.removesuffix("weight") + "bias"
    if np.array_equal(held[weight], state[weight]) and bias in ("", own_bias):
        return set()
    now, before = _rows(node, held[weight]), _rows(node, state[weight])
    zero = np.zeros(len(now))
    length = (before**2).sum(axis=1)
    factor = np.divide((now * before).sum(axis=1), length, out=zero.copy(), where=length > 0)
    if not _close(now, factor[:, None] * before):
        return set()
    fresh = [norm for norm in _norms(state, len(now)) if f"{norm}.running_var" not in found.fused]
    for norm in [*fresh, *_norms(state, len(now))]:
        mean, variance = (state[f"{norm}.{name}"].astype(np.float64) for name in ("running_mean", "running_var"))
        gamma = state.get(f"{norm}.weight", zero + 1).astype(np.float64)
        alive = (length > 0) & (factor != 0)
        eps = np.median((gamma[alive] / factor[alive]) ** 2 - variance[alive]) if alive.any() else 0.0
        with np.errstate(divide="ignore"):
            scale = gamma / np.sqrt(variance + np.clip(eps, 0, _LARGEST_EPS))
        shifted = state.get(f"{norm}.bias", zero) + (state.get(own_bias, zero) - mean) * scale
        if _close(factor, np.where(length > 0, scale, 0)) and _close(held.get(bias, zero), shifted):
            parts = (f"{norm}.{name}" for name in ("weight", "bias", "running_mean", "running_var"))
            found.fused |= {key for key in (weight, own_bias, *parts) if key in state}
            return {weight, bias}
    return set()


def _rows(node: Any, values: Values) -> Values:
    """The values of a layer's weight, one row for each output channel."""
    settings = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Conv" or settings.get("transB"):
        return values.reshape(len(values), -1).astype(np.float64)
    groups = settings.get("group", 1)
    parts = values.reshape(groups, len(values) // groups, values.shape[1], -1).swapaxes(1, 2)
    return parts.reshape(groups * values.shape[1], -1).astype(np.float64)


def _norms(state: Mapping[str, Values], channels: int) -> list[str]:
    """The norms of so many channels."""
    names = (key.removesuffix(".running_var") for key in state if key.endswith(".running_var"))
    return [name for name in names if len(state[f"{name}.running_var"]) == channels and f"{name}.running_mean" in state]


def _close(found: Values, expected: Values) -> bool:
    largest = np.abs(expected).max(initial=0.0)
    return found.shape == expected.shape and bool(np.abs(found - expected).max(initial=0.0) <= _TOLERANCE * largest)


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes of a graph, also those in branches and loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _nodes(inner)


def _tensors(graph: Any) -> Iterator[tuple[str, Values]]:
    """The names and values of all tensors that a graph holds."""
    from onnx import numpy_helper

    for tensor in graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                yield node.output[0], numpy_helper.to_array(attribute.t)
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _tensors(inner)


def _digest(values: Values) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
