"""What a user names as a network to evaluate: an ``arch.json``, a bundle, a run, an ONNX file, a model reference."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from narfx.bundle.source import load_source
from narfx.compiler.open import open_architecture
from narfx.errors import UsageError
from narfx.inputs.image_size import Images, choose_input
from narfx.inputs.model_ref import load_model
from narfx.inputs.reference import ModelRef, is_collection, is_file_name
from narfx.inputs.weights import apply_weights
from narfx.space.architecture import Architecture, Preprocessing
from narfx.space.published import PUBLISHED
from narfx.support.onnx_session import onnxruntime_module, run_session
from narfx.support.schema import validated
from narfx.support.text import first_line, times

__all__ = ["OnnxNetwork", "Target", "load_target", "open_onnx"]

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Target:
    """A network to evaluate, its input (C, H, W), the preprocessing of images, and where its weights come from.

    ``origin`` says where the input comes from, if it was chosen.
    """

    network: nn.Module
    input: Shape
    preprocessing: Preprocessing | None
    weights: str
    origin: str | None = None


class OnnxNetwork(nn.Module):
    """An ONNX file as a module, run by onnxruntime on the CPU; made by :func:`open_onnx`.

    ``input`` (C, H, W) is ``None`` where the file leaves an axis free, ``channels`` where it leaves that one free;
    ``metadata`` are the file's own entries.
    """

    def __init__(self, session: Any, path: Path) -> None:
        super().__init__()
        first = session.get_inputs()[0]
        batch, *sizes = first.shape  # a free axis has a name or None
        self._session, self._path, self._name = session, path, first.name
        self._batch: int | None = batch if isinstance(batch, int) else None
        known = all(isinstance(size, int) for size in sizes)
        self.input: Shape | None = (sizes[0], sizes[1], sizes[2]) if known else None
        self.channels: int | None = sizes[0] if isinstance(sizes[0], int) else None
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)

    def forward(self, x: Tensor) -> Tensor:
        """The first output for images (N, C, H, W), in batches of the file's own size where it has one."""
        size, rows = self._batch or len(x), []
        for chunk in x.split(size):
            filled = functional.pad(chunk, (0, 0, 0, 0, 0, 0, 0, size - len(chunk)))
            try:
                found = run_session(self._session, None, {self._name: filled.cpu().numpy()})[0]
            except Exception as error:
                raise _unusable(self._path, error) from error
            rows.append(torch.from_numpy(np.asarray(found))[: len(chunk)])
        return torch.cat(rows).to(x.device)


def open_onnx(path: Path) -> OnnxNetwork:
    """Load an ONNX file that takes images.

    Raises:
        UsageError: There is no such file, onnxruntime cannot load it, or its first input is no float32 image batch.
    """
    onnxruntime = onnxruntime_module()
    if not path.is_file():
        raise UsageError(f"there is no file {path}: check the path", where=str(path), kind="missing_file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        _ = session.get_modelmeta().custom_metadata_map  # a damaged one is no text
    except Exception as error:  # onnxruntime has a class for each of its codes
        raise _unusable(path, error) from error
    first = session.get_inputs()[0]
    if first.type != "tensor(float)" or len(first.shape) != 4:
        raise UsageError(
            f"{path} takes {first.type} of shape {first.shape}; narfx gives float32 images of shape (N, C, "
            "H, W): export it with such an input",
            where=str(path),
            kind="bad_onnx",
        )
    return OnnxNetwork(session, path)


def _unusable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"onnxruntime cannot run {path}: {first_line(error)}", where=str(path), kind="bad_onnx")


def load_target(
    target: str,
    *,
    weights: str | None = None,
    input: Shape | None = None,
    images: Images | None = None,
    seed: int = 0,
) -> Target:
    """The network that ``target`` names: an ``arch.json``, a bundle or run, an ``.onnx`` file, or a model reference.

    ``images`` are those that it gets; they decide its input where neither ``input`` nor the target does.

    Raises:
        UsageError: There is no such thing, its weights do not fit, or no input shape is known.
    """
    if is_collection(target):
        return _from_model(target, weights, input, images, seed)
    path = Path(target)
    if path.is_dir():
        return _from_folder(path, weights, input, images, seed)
    if is_file_name(target, ".json"):
        return _from_architecture(path, weights, input, images, seed)
    if path.suffix.lower() == ".onnx":
        if weights is not None:
            raise UsageError(
                f"{target} holds its own weights: leave out --weights", where="--weights", kind="two_weights"
            )
        return _from_onnx(path, input, images)
    if target in PUBLISHED:
        raise UsageError(
            f"{target} is a genotype: name its network, narfx:darts?genotype={target}", where=target,
            kind="model_reference",
        )  # fmt: skip
    if ":" not in target and not path.exists() and not path.suffix:
        raise UsageError(
            f"there is no folder {target}: give a bundle, a run, an arch.json, an .onnx file or a MODEL",
            where=target,
            kind="missing_folder",
        )
    return _from_model(target, weights, input, images, seed)


def _from_model(target: str, weights: str | None, input: Shape | None, images: Images | None, seed: int) -> Target:
    model = load_model(target, seed=seed)
    # A run that goes on has the contents of a genotype file in its reference, so that both say the same.
    plain = ModelRef.parse(target).with_files_read(None).plain
    named = f"none given: as {plain} builds it" if weights is None else _load(model, Path(weights))
    shape, origin = (input, None) if input is not None else choose_input(target, model, images)
    return Target(model, shape, None, named, origin)


def _from_folder(folder: Path, weights: str | None, input: Shape | None, images: Images | None, seed: int) -> Target:
    arch, source, own = (folder / name for name in ("arch.json", "model.py", "model.safetensors"))
    if not arch.is_file():
        raise UsageError(
            f"{folder} is neither a bundle nor a run: it has no arch.json", where=str(arch), kind="missing_file"
        )
    architecture = Architecture.load(arch)
    if not (source.is_file() and own.is_file() and architecture.input is not None):
        return _from_architecture(arch, weights, input, images, seed)
    model, path = load_source(folder, architecture), own if weights is None else Path(weights)
    return Target(model, architecture.input, architecture.preprocessing, _load(model, path))


def _load(model: nn.Module, path: Path) -> str:
    """Load a weights file; return its name and a note on what was done to its keys."""
    done = apply_weights(model, path)
    return f"{path.name} ({done})" if done else path.name


def _from_architecture(
    path: Path, weights: str | None, input: Shape | None, images: Images | None, seed: int
) -> Target:
    architecture = Architecture.load(path)
    if architecture.input is None:
        architecture = architecture.model_copy(update={"input": input})
    lowered = open_architecture(architecture, relative_to=path.parent, weights=weights, seed=seed, images=images)
    traced = lowered.traced
    origin = next((note for note in traced.notes if note.startswith(f"input {times(traced.input)}:")), None)
    return Target(lowered.network, traced.input, architecture.preprocessing, lowered.weights, origin)


def _from_onnx(path: Path, input: Shape | None, images: Images | None) -> Target:
    network = open_onnx(path)
    shape, origin = network.input or input, None
    if shape is None and images is not None and len(images.sizes) == 1:
        shape = (network.channels or images.channels, *images.sizes[0])
        origin = f"input {times(shape)}: the size of the images"
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
    return Target(network, shape, preprocessing, path.name, origin)
