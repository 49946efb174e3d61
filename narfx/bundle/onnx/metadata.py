"""The metadata of an ONNX file under ``narfx.KEY``, and its comparison with the architecture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import narfx._version as version
from narfx.errors import ParityError
from narfx.inputs.reference import ModelRef, is_file_name
from narfx.space.architecture import Architecture
from narfx.support.onnx_session import onnxruntime_module

__all__ = ["PREFIX", "compare_metadata", "describe", "versions"]

PREFIX = "narfx."


def describe(architecture: Architecture | None, shape: tuple[int, int, int]) -> dict[str, Any]:
    """The metadata of a network: everything that a user of the ONNX file alone may need.

    ``model`` is the model's name without folders; ``sites`` are the records from which the fingerprint is computed.
    Without an architecture there are only ``input`` and ``versions``.
    """
    if architecture is None:
        return {"input": list(shape), "versions": versions()}
    known = architecture.preprocessing
    return {
        "model": _name(architecture.model),
        "vector": list(architecture.vector),
        "skips": architecture.describe().get("skips"),
        "operators": list(architecture.operators),
        "granularity": architecture.granularity,
        "fingerprint": architecture.fingerprint,
        "sites": list(architecture.sites),
        "input": list(shape),
        "mean": list(known.mean) if known is not None else None,
        "std": list(known.std) if known is not None else None,
        "versions": versions(),
    }


def compare_metadata(written: dict[str, str], architecture: Architecture, path: Path) -> None:
    """Compare the metadata of a file with its architecture; versions are not compared.

    Raises:
        ParityError: A value differs or is missing.
    """
    assert architecture.input is not None
    for key, value in describe(architecture, architecture.input).items():
        found = written.get(PREFIX + key, "missing")
        if key != "versions" and found != json.dumps(value):
            raise ParityError(
                f"{path} was made for another architecture: its {key} is {_short(found)}, "
                f"arch.json has {_short(json.dumps(value))}; write the bundle again with narfx apply",
                where=str(path),
                kind="metadata",
            )


def versions() -> dict[str, str]:
    """The versions of narfx, torch, onnx and onnxruntime that write a file."""
    import onnx

    onnxruntime = onnxruntime_module()

    return {
        "narfx": version.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _name(reference: str) -> str:
    if is_file_name(reference, ".json"):
        return Path(reference).name
    parsed = ModelRef.parse(reference)
    return str(replace(parsed, name=Path(parsed.name).name) if parsed.kind == "file" else parsed)


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."
