"""The ``model.py`` of a bundle: how it is written, and when it is run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from narfx.bundle.codegen import CodegenError, generate
from narfx.bundle.proof.parity import Reference
from narfx.compiler.open import open_architecture
from narfx.errors import NarfxError, UsageError
from narfx.graph.blank import Blank
from narfx.graph.checks import check_values
from narfx.graph.copying import copy_module
from narfx.graph.nodes import tensors
from narfx.graph.unused import drop_unused
from narfx.inputs.model_ref import load_model
from narfx.inputs.reference import ModelRef
from narfx.inputs.trust import UNTRUSTED, digest_of, remember
from narfx.space.architecture import Architecture
from narfx.support.files import write_text

__all__ = ["SOURCE", "WEIGHTS", "load_source", "plain_copy", "write_source"]

SOURCE, WEIGHTS = "model.py", "model.safetensors"
Shape = tuple[int, int, int]


def write_source(
    network: fx.GraphModule, path: Path, architecture: Architecture | None, shape: Shape, reference: Reference
) -> str | None:
    """Write ``model.py`` after running it once; returns ``None``, or the reason why it cannot be written.

    ``reference`` holds what the network computes; its batch of one image is compared.
    """
    try:
        source = generate(network, _title(architecture, shape), shape)
        scope: dict[str, Any] = {"__name__": "narfx_generated"}
        exec(compile(source, str(path), "exec"), scope)  # run the source before it is written
        with Blank():
            rebuilt = scope["Model"]().eval()
        rebuilt.load_state_dict(network.state_dict(), assign=True)
        with torch.inference_mode():
            found = tensors(rebuilt(reference.images[1].clone()))
        if not all(map(torch.equal, found, tensors(reference.output(1)))):
            raise CodegenError("the generated source computes other values")
    except CodegenError as error:
        return f"no model.py: {error}"
    except Exception as error:
        return f"no model.py: {type(error).__name__}: {error}"
    write_text(path, source)
    return None


def load_source(folder: Path, architecture: Architecture) -> nn.Module:
    """The network that ``model.py`` in a bundle defines, without its weights.

    The file is code that somebody else may have written. It is run if it is known or trusted, and also if narfx
    writes the very same text for the architecture of the bundle, whose base then needs no code of the bundle.

    Raises:
        UsageError: The file may not run, fails, or has no model.
    """
    path = (folder / SOURCE).absolute()
    ref = ModelRef("file", str(path))
    try:
        return load_model(ref, relative_to=folder)
    except UsageError as error:
        if error.kind != UNTRUSTED:
            raise
        content = path.read_bytes()
        if not _is_own(content, folder, architecture):
            raise
    remember(digest_of(content), str(path))
    return load_model(ref, relative_to=folder)


def _is_own(content: bytes, folder: Path, architecture: Architecture) -> bool:
    """Whether narfx writes this source for the architecture, with nothing but what may run."""
    try:
        lowered = open_architecture(architecture, relative_to=folder, weights=str(folder / WEIGHTS))
        shape = lowered.traced.input
        return generate(plain_copy(lowered.network), _title(architecture, shape), shape).encode() == content
    except (NarfxError, CodegenError):
        return False


def _title(architecture: Architecture | None, shape: Shape) -> str:
    described = "x".join(map(str, shape))
    if architecture is None:
        return f"A network lowered by narfx for inputs of {described}."
    skips = "" if architecture.skips is None else f"skips {architecture.describe()['skips']}, "
    return (
        f"{Path(architecture.model).name}, refined: operator vector {list(architecture.vector)}, {skips}"
        f"input {described}."
    )


def plain_copy(network: fx.GraphModule) -> fx.GraphModule:
    """A copy, on the CPU, in float32 and eval mode, of the parts that the graph uses.

    Integer and boolean tensors (an index, a mask, a weight that forward converts to floats) keep their type.

    Raises:
        UsageError: A weight is complex, quantised or without values, or an entry of the state dict is not a tensor.
    """
    plain: fx.GraphModule = copy_module(network)
    drop_unused(plain)
    for name, value in plain.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor):
            kind = str(value) if isinstance(value, torch.dtype) else f"a {type(value).__name__}"
            why = f"is {kind}, not a tensor; torch cannot export it"
        elif value.is_quantized:
            why = f"is quantised ({value.dtype}); torch cannot export tensors that it has quantised"
        elif value.is_complex():
            why = f"is {value.dtype}, but ONNX has only real numbers: store two real tensors instead"
        else:
            continue
        cure = "" if why.endswith("instead") else ": export the float model, and quantise the ONNX file"
        raise UsageError(f"{name} {why}{cure}", where=name, kind="weights_not_float")
    check_values(plain)
    return plain.to(device="cpu", dtype=torch.float32).eval()
