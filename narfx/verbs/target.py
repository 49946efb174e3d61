"""What a user names as a network to be judged: an ``arch.json``, a bundle, a run, an ONNX file, a model reference."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from narfx.compiler.open import open_architecture
from narfx.errors import UsageError
from narfx.inputs.model_ref import default_input, load_model
from narfx.inputs.weights import apply_weights, load_state, read_weights
from narfx.space.architecture import Architecture, Preprocessing
from narfx.support.schema import validated
from narfx.support.text import first_line

__all__ = ["OnnxNetwork", "Target", "load_target"]

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Target:
    """A network to be judged, its input (C, H, W), how images become that, and in words where its weights come from."""

    network: nn.Module
    input: Shape
    preprocessing: Preprocessing | None
    weights: str


class OnnxNetwork(nn.Module):
    """An ONNX file as a module, run by onnxruntime on the CPU; ``input`` and ``metadata`` are what the file says.

    Raises:
        UsageError: onnxruntime cannot load the file, or its first input is not a float32 image batch.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnxruntime

        if not path.is_file():
            raise UsageError(f"there is no file {path}", where=str(path), kind="missing_file")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # onnxruntime has a dozen kinds
            raise _unusable(path, error) from error
        first, self._path = self._session.get_inputs()[0], path
        if first.type != "tensor(float)" or len(first.shape) != 4:
            raise UsageError(
                f"{path} takes {first.type} of shape {first.shape}, where float32 images (N, C, H, W) are given",
                where=str(path),
                kind="bad_onnx",
            )
        batch, *sizes = first.shape  # a free axis has a name or None
        self._name, self._batch = first.name, batch if isinstance(batch, int) else None
        known = all(isinstance(size, int) for size in sizes)
        self.input: Shape | None = (sizes[0], sizes[1], sizes[2]) if known else None

    def forward(self, x: Tensor) -> Tensor:
        """The first output for images (N, C, H, W), in batches of the file's own size where it has one."""
        size, rows = self._batch or len(x), []
        for chunk in x.split(size):
            filled = functional.pad(chunk, (0, 0, 0, 0, 0, 0, 0, size - len(chunk)))
            try:
                found = self._session.run(None, {self._name: filled.cpu().numpy()})[0]
            except Exception as error:
                raise _unusable(self._path, error) from error
            rows.append(torch.from_numpy(np.asarray(found))[: len(chunk)])
        return torch.cat(rows).to(x.device)


def _unusable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"onnxruntime cannot run {path}: {first_line(error)}", where=str(path), kind="bad_onnx")


def load_target(target: str, *, weights: str | None = None, input: Shape | None = None, seed: int = 0) -> Target:
    """The network that ``target`` names: an ``arch.json``, a bundle or run, an ``.onnx`` file, or a model reference.

    Raises:
        UsageError: There is no such thing, its weights do not fit, or no input shape is known.
    """
    path = Path(target)
    if path.is_dir():
        return _from_folder(path, weights, seed)
    if target.endswith(".json"):
        return _from_architecture(path, weights, seed)
    if path.suffix.lower() == ".onnx":
        if weights is not None:
            raise UsageError(
                f"{target} holds its own weights: leave out --weights", where="--weights", kind="two_weights"
            )
        return _from_onnx(path, input)
    model = load_model(target, seed=seed)
    if weights is not None:
        apply_weights(model, weights)
    shape = input or default_input(target) or (3, 224, 224)
    return Target(model, shape, None, f"none given: as {target} builds it" if weights is None else Path(weights).name)


def _from_folder(folder: Path, weights: str | None, seed: int) -> Target:
    arch, source, own = (folder / name for name in ("arch.json", "model.py", "model.safetensors"))
    if not arch.is_file():
        raise UsageError(f"{folder} is no bundle and no run: it has no arch.json", where=str(arch), kind="missing_file")
    architecture = Architecture.load(arch)
    if not (source.is_file() and own.is_file() and architecture.input is not None):
        return _from_architecture(arch, weights, seed)
    model, path = load_model(str(source.absolute())), own if weights is None else Path(weights)
    state, _ = read_weights(path)
    load_state(model, state, source=str(path))
    return Target(model, architecture.input, architecture.preprocessing, path.name)


def _from_architecture(path: Path, weights: str | None, seed: int) -> Target:
    architecture = Architecture.load(path)
    lowered = open_architecture(architecture, relative_to=path.parent, weights=weights, seed=seed)
    return Target(lowered.network, lowered.traced.input, architecture.preprocessing, lowered.weights)


def _from_onnx(path: Path, input: Shape | None) -> Target:
    network = OnnxNetwork(path)
    shape = network.input or input
    if shape is None:
        raise UsageError(
            f"{path} does not say its input shape: give it with --input", where="--input", kind="input_shape"
        )  # fmt: skip
    known = [json.loads(network.metadata.get(f"narfx.{key}", "null")) for key in ("mean", "std")]
    preprocessing = None
    if all(known):
        preprocessing = validated(
            Preprocessing, dict(zip(("mean", "std"), known, strict=True)), str(path), kind="bad_onnx"
        )
        preprocessing.check_channels(shape[0], str(path))
    return Target(network, shape, preprocessing, path.name)
