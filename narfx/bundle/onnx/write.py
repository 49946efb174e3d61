"""Write a lowered network as an ONNX file, and read opset, names and metadata of such a file."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import re
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from narfx.bundle.onnx.marks import OUTPUT, mark_nodes
from narfx.bundle.onnx.metadata import PREFIX
from narfx.bundle.onnx.names import check_names, rename
from narfx.bundle.onnx.names import output_names as name_outputs
from narfx.bundle.onnx.opset import OLDEST, lower_opset, lowest_opset, newest_opset, obstacles
from narfx.bundle.proof.parity import Parity, compare_onnx, worst
from narfx.errors import ParityError, RunError, UsageError
from narfx.graph.nodes import source_line, tensors
from narfx.graph.unused import unused_keys
from narfx.passes.verify import verify_lowered
from narfx.support.onnx_session import onnxruntime_module
from narfx.support.text import count, first_line

__all__ = ["OnnxFile", "Parity", "compare_onnx", "export_onnx", "read_onnx", "tensors", "worst"]

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


def read_onnx(path: Path) -> OnnxFile:
    """Check a file with ``onnx.checker`` and read opset, names and metadata.

    Raises:
        ParityError: The file is not valid ONNX, or does not have exactly one input.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf and the checker each have their own exception classes
        raise ParityError(
            f"{path} is not valid ONNX ({first_line(error)}): write it again with narfx apply", where=str(path)
        ) from error
    inputs = [value.name for value in model.graph.input]
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
    _check_ready(network)
    example = torch.zeros(2, *input_shape)
    with torch.no_grad():
        names = name_outputs(network(example), output_names)
    check_names(input_name, names, network.state_dict().keys())
    program = _quiet_export(network, example, [f"{OUTPUT}{index}" for index in range(len(names))], opset)
    mark_nodes(program, network)
    rename(program.model, input_name, names)
    _set_opset(program.model, opset)
    for key, value in (metadata or {}).items():
        program.model.metadata_props[PREFIX + key] = json.dumps(value)
    size = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    program.save(str(path), external_data=size >= _TWO_GIB)
    written = read_onnx(path)
    if opset is not None:
        _check_opset(path, program.model, opset, written.opset)
    if (written.input_name, written.output_names) != (input_name, tuple(names)):
        raise ParityError(
            f"{path.name} names {written.input_name} and {', '.join(written.output_names)}, but {input_name} and "
            f"{', '.join(names)} were asked for",
            where=str(path),
            kind="names",
        )
    return written


def _check_ready(network: fx.GraphModule) -> None:
    """Check that the network is lowered, in eval mode, and without calls that always train."""
    problems = verify_lowered(network, unused_keys(network))  # parts that no node uses are not exported
    problems += [
        f"{node} ({source_line(node) or getattr(node.target, '__name__', node.target)}) is called with training=True, "
        "so eval mode does not change what it computes: pass training=self.training"
        for node in network.graph.nodes
        if node.op == "call_function" and _trains(node)
    ]
    problems += [
        f"{node} ({source_line(node) or 'a convolution'}) takes its groups from the batch, and an ONNX convolution has "
        "a fixed number of them: apply each image's kernel by a matrix product of torch.nn.functional.unfold"
        for node in network.graph.nodes
        if node.op == "call_function" and isinstance(_groups(node), fx.Node)
    ]
    if problems:
        raise ParityError(f"the network is not ready to export: {problems[0]}", kind="not_lowered")


def _trains(node: fx.Node) -> bool:
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a C++ function may have no signature
        return node.kwargs.get("training") is True
    bound.apply_defaults()
    return bound.arguments.get("training") is True


def _groups(node: fx.Node) -> Any:
    """The groups of a functional convolution, its seventh argument."""
    if not getattr(node.target, "__name__", "").startswith("conv"):
        return 1
    return node.kwargs.get("groups", node.args[6] if len(node.args) > 6 else 1)


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
    onnxruntime = onnxruntime_module()

    if written != asked:
        raise _other_opset(
            model, asked, "" if asked <= newest_opset() else " (it is newer than onnx and onnxruntime here support)"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
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


def _quiet_export(network: fx.GraphModule, example: Tensor, names: list[str], opset: int | None) -> Any:
    # Errors are reported below or show in the file; without this, torch logs pages of its own graphs.
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        nowhere = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=_dynamic_shapes(network),
                input_names=["narfx_input"],
                output_names=names,
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # torch wraps the cause into advice on how to report it
            cause = cause.__cause__
        what, opaque, asks = "this network", _opaque_part(network, error), "DataDependent" in type(cause).__name__
        if opaque is not None:
            what = f"{opaque} ({type(network.get_submodule(opaque)).__name__}), which stayed opaque"
        raise RunError(
            f"torch's ONNX exporter cannot export {what} ({type(cause).__name__}: {first_line(cause)})"
            + ("; write it without a branch on values, for example with torch.where" if asks else ""),
            where=opaque,
            kind="onnx_export",
        ) from error
    finally:
        logging.disable(disabled)


def _opaque_part(network: fx.GraphModule, error: BaseException) -> str | None:
    """The path of the user's module in which an export failed, or ``None`` if the error does not show it."""
    called = dict.fromkeys(str(node.target) for node in network.graph.nodes if node.op == "call_module")
    parts = {name: network.get_submodule(name) for name in called}
    own = {name: part for name, part in parts.items() if not type(part).__module__.startswith(("torch.", "narfx."))}
    forwards = {getattr(type(part).forward, "__code__", None): name for name, part in own.items()}
    raised: BaseException | None = error
    while raised is not None:
        for frame, _ in traceback.walk_tb(raised.__traceback__):
            module = frame.f_locals.get("self")
            same = next((name for name, part in own.items() if part is module), forwards.get(frame.f_code))
            if same is not None:
                return same
        raised = raised.__cause__ or raised.__context__
    return None


def _dynamic_shapes(network: fx.GraphModule) -> tuple[Any, ...]:
    """A free batch axis for the one input; ``forward(self, *inputs)`` takes the input in a tuple."""
    first, *others = [node for node in network.graph.nodes if node.op == "placeholder" and not node.args]
    batch = {0: "batch"}
    return ((batch,) if str(first.target).startswith("*") else batch, *({} for _ in others))
