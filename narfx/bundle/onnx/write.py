"""Write a lowered network as an ONNX file, and read opset, names and metadata of such a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from narfx.bundle.onnx.marks import OUTPUT, mark_nodes, node_origins
from narfx.bundle.onnx.metadata import PREFIX
from narfx.bundle.onnx.names import check_names, rename
from narfx.bundle.onnx.names import output_names as name_outputs
from narfx.bundle.onnx.opset import OLDEST, lower_opset, lowest_opset, newest_opset, obstacles
from narfx.bundle.onnx.parts import Parts, load_parts, parts_of
from narfx.bundle.onnx.stream import write_program
from narfx.bundle.onnx.translate import check_ready, translated
from narfx.bundle.proof.parity import Parity, Reference, compare_onnx
from narfx.errors import ParityError, UsageError
from narfx.graph.nodes import tensors
from narfx.support.collector import collector_paused
from narfx.support.onnx_session import onnxruntime_module, open_session
from narfx.support.text import count, first_line

__all__ = [
    "OnnxFile",
    "Parity",
    "Translation",
    "compare_onnx",
    "export_onnx",
    "read_onnx",
    "tensors",
    "translate",
]

_TWO_GIB = 2**31


@dataclass(frozen=True)
class OnnxFile:
    """What was read from an ONNX file: its opset, the names of its input and outputs, and its metadata as text."""

    opset: int
    input_name: str
    output_names: tuple[str, ...]
    metadata: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Opset and names, as plain values."""
        return {"opset": self.opset, "input_name": self.input_name, "output_names": list(self.output_names)}


def read_onnx(path: Path, *, just_written: bool = False) -> OnnxFile:
    """Check a file with ``onnx.checker`` and read opset, names and metadata.

    The checker reads and copies all weights several times. In a file that was ``just_written`` it does not see the
    values of the larger ones, which the proof compares.

    Raises:
        ParityError: The file is not valid ONNX, or does not have exactly one input.
    """
    import onnx

    try:
        parts = load_parts(path, values=False) if just_written else None
        model = parts.model if parts else onnx.load(str(path), load_external_data=False)
        onnx.checker.check_model(model if parts else str(path), full_check=True)
    except Exception as error:  # protobuf and the checker each have their own exception classes
        raise ParityError(
            f"{path} is not valid ONNX ({first_line(error)}): write it again with narfx apply", where=str(path)
        ) from error
    inputs = [value.name for value in model.graph.input if parts is None or value.name not in parts.weights]
    if len(inputs) != 1:
        raise ParityError(
            f"{path} has {count(len(inputs), 'input')}, but its network has one: write it again with narfx apply",
            where=str(path),
        )
    return OnnxFile(
        opset=next((entry.version for entry in model.opset_import if not entry.domain), 0),
        input_name=inputs[0],
        output_names=tuple(value.name for value in model.graph.output),
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


@dataclass(frozen=True)
class Translation:
    """A network in ONNX, from which files are written: with its own weights, or with others.

    Attributes:
        program: torch's ``ONNXProgram``, not optimised.
        origins: The key of the network's node for each ONNX value.
        input_name: The name of the input in the files.
        output_names: The names of the outputs in the files.
        opset: The opset that was asked for.
        size: Bytes of all weights.
    """

    program: Any
    origins: Mapping[str, str]
    input_name: str
    output_names: tuple[str, ...]
    opset: int | None
    size: int

    @collector_paused()
    def write(self, path: Path, metadata: Mapping[str, Any] | None = None) -> OnnxFile:
        """Optimise a copy of the program and write it; returns opset, names and metadata, read back from the file.

        Args:
            path: The file to write.
            metadata: Written into the file, each value as JSON under ``narfx.KEY``.

        Raises:
            ParityError: The written file has other names.
            UsageError: The opset is not possible.
        """
        program = self._finished({}, metadata or {})
        if self.size >= _TWO_GIB:
            program.save(str(path), external_data=True)
        else:
            write_program(program, path)
        return self._read(path, program.model)

    @collector_paused()
    def with_weights(self, weights: Mapping[str, Tensor]) -> Parts:
        """What :meth:`write` writes if the network has other weights; nothing is written.

        torch's optimiser fuses each BatchNorm into the layer before it. ``weights`` take the place of the network's
        before that, so the result shows whether the fusion is right for any values.

        Args:
            weights: Other values for some keys of the state dict; all others stay.
        """
        return parts_of(self._finished(dict(weights), {}))

    def _finished(self, weights: dict[str, Tensor], metadata: Mapping[str, Any]) -> Any:
        program = self._optimised(weights)
        for index, value in enumerate(program.model.graph.outputs):
            value.name = f"{OUTPUT}{index}"
        mark_nodes(program.model, self.origins)
        rename(program.model, self.input_name, self.output_names)
        _set_opset(program.model, self.opset)
        for name, entry in metadata.items():
            program.model.metadata_props[PREFIX + name] = json.dumps(entry)
        return program

    def _optimised(self, weights: dict[str, Tensor]) -> Any:
        program = self._copy(weights)
        try:
            program.optimize()
        except Exception:  # torch's optimiser fails on some right files, e.g. x.chunk(2, 0) of a free batch
            return self._copy(weights)
        return program

    def _copy(self, weights: dict[str, Tensor]) -> Any:
        program = torch.onnx.ONNXProgram(self.program.model.clone(), self.program.exported_program)
        program.apply_weights(weights)
        return program

    def _read(self, path: Path, model: Any) -> OnnxFile:
        written = read_onnx(path, just_written=True)
        if self.opset is not None:
            _check_opset(path, model, self.opset, written.opset)
        if (written.input_name, written.output_names) != (self.input_name, self.output_names):
            raise ParityError(
                f"{path.name} names {written.input_name} and {', '.join(written.output_names)}, but "
                f"{self.input_name} and {', '.join(self.output_names)} were asked for",
                where=str(path),
                kind="names",
            )
        return written

    def held(self, tensor: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One tensor of the network, by those of its keys under which the program has it.

        Raises:
            ParityError: It has none of them (kind ``weights``).
        """
        found = {key: value for key, value in tensor.items() if key in self.program.model.graph.initializers}
        if not found:
            key = next(iter(tensor), "a BatchNorm's tensor")
            raise ParityError(f"torch's exporter has not kept {key} as a weight", where=key, kind="weights")
        return found


@collector_paused()
def translate(
    network: fx.GraphModule,
    input_shape: tuple[int, int, int],
    *,
    opset: int | None = None,
    input_name: str = "input",
    output_names: Sequence[str] | None = None,
    reference: Reference | None = None,
) -> Translation:
    """Run torch's exporter, once for all files; the arguments and errors are those of :func:`export_onnx`.

    ``reference`` knows what the network returns; without one, the network runs on two random images.
    """
    check_ready(network)
    reference = reference or Reference(network, input_shape)
    names = name_outputs(reference.any_output(), output_names)
    check_names(input_name, names, network.state_dict().keys())
    program = translated(network, torch.zeros(2, *input_shape), opset)
    size = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    origins = node_origins(program.exported_program, network)
    return Translation(program, origins, input_name, tuple(names), opset, size)


def export_onnx(
    network: fx.GraphModule,
    input_shape: tuple[int, int, int],
    path: Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    opset: int | None = None,
    input_name: str = "input",
    output_names: Sequence[str] | None = None,
) -> OnnxFile:
    """Write ``network`` as an ONNX file with a free batch axis.

    Args:
        network: A lowered network on the CPU, in eval mode.
        input_shape: (channels, height, width) of one sample.
        path: The file to write.
        metadata: Written into the file, each value as JSON under ``narfx.KEY``.
        opset: The opset; default: the one that torch's exporter writes. Below torch's oldest, the file is lowered from
            that one, if all its operators have the same meaning there.
        input_name: The name of the input.
        output_names: The names of the outputs; default: see :func:`narfx.bundle.onnx.names.output_names`.

    Returns:
        Opset, names and metadata, read back from the file.

    Raises:
        ParityError: The network is not lowered or not in eval mode, or the written file has other names.
        UsageError: A name or the opset is not possible, or the network returns something that is not a tensor.
        RunError: torch's exporter cannot export the network.
    """
    return translate(network, input_shape, opset=opset, input_name=input_name, output_names=output_names).write(
        path, metadata
    )


def _set_opset(model: Any, opset: int | None) -> None:
    """Lower a model to the requested opset, if torch wrote a newer one."""
    written = model.opset_imports[""]
    if opset is None or opset >= written:
        return
    why = obstacles(model, opset) if opset >= OLDEST else [f"narfx supports none below {OLDEST}"]
    if why:
        raise _other_opset(model, opset, f" ({why[0]})")
    lower_opset(model, opset)


def _check_opset(path: Path, model: Any, asked: int, written: int) -> None:
    """Check that the file has the requested opset and that onnxruntime supports it."""
    onnxruntime_module()  # a missing package is no fault of the file
    if written != asked:
        raise _other_opset(
            model, asked, "" if asked <= newest_opset() else " (it is newer than onnx and onnxruntime here support)"
        )
    try:
        open_session(str(path))
    except Exception as error:
        known = re.search(r"till opset (\d+)", str(error))
        if known is not None:  # any other fault is reported by the comparison
            raise _other_opset(model, asked, f" (onnxruntime here supports none above {known[1]})") from error


def _other_opset(model: Any, asked: int, why: str) -> UsageError:
    lowest, newest = lowest_opset(model), newest_opset()
    return UsageError(
        f"this network cannot be written at opset {asked}{why}: choose one from {lowest} to {newest}, or leave out "
        "--opset to use torch's default",
        where="--opset",
        kind="opset",
    )
