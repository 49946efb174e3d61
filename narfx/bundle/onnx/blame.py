"""What to say where torch's exporter fails: the part or the node, the model's line, and what to write instead."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from types import FrameType

from torch import fx

from narfx.errors import RunError
from narfx.graph.nodes import source_line
from narfx.graph.source import is_model_code
from narfx.support.text import first_line

__all__ = ["cannot_export"]


def cannot_export(network: fx.GraphModule, error: Exception) -> RunError:
    """The error (kind ``onnx_export``) for a network on which torch's exporter raised ``error``."""
    frames = list(_frames(error))
    cause: BaseException = error
    while cause.__cause__ is not None:  # torch wraps the cause into advice on how to report it
        cause = cause.__cause__
    opaque, node = _opaque_part(network, [frame for frame, _ in frames]), _failing(frame for frame, _ in frames)
    line = source_line(node) if node is not None else ""
    if opaque is not None:
        what = f"{opaque} ({type(network.get_submodule(opaque)).__name__}), which stayed opaque"
        inner = [f"{frame.f_code.co_filename}:{line}" for frame, line in frames if _is_users(frame)]
        line = inner[-1] if inner else line
    elif node is not None:
        stem = node.name.strip("_0123456789")  # of the operator that the exporter has made of a call
        own = [other.name for other in network.graph.nodes if source_line(other) == line]
        what = f"node {next((name for name in own if stem in name), stem)}"
    else:
        what = "this network"
    if "DataDependent" in type(cause).__name__:
        cure = "; write it without a branch on values, for example with torch.where"
    elif node is not None:
        cure = "; replace it by operations that ONNX has, or end the model before it and compute it outside"
    else:
        cure = ""
    said = re.sub(r"<OpOverload\(op='([\w.]+)', overload='\w+'\)>", r"\1", first_line(cause))
    return RunError(
        f"torch's ONNX exporter cannot export {what}{f' at {line}' if line else ''} ({type(cause).__name__}: {said})"
        f"{cure}",
        where=opaque or line or None,
        kind="onnx_export",
    )


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """The frames of an error and of all that led to it, the outermost error first, with their lines."""
    raised: BaseException | None = error
    while raised is not None:
        yield from traceback.walk_tb(raised.__traceback__)
        raised = raised.__cause__ or raised.__context__


def _is_users(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return is_model_code(frame.f_code.co_filename) and not name.startswith("narfx.")


def _opaque_part(network: fx.GraphModule, frames: list[FrameType]) -> str | None:
    """The path of the user's module in which an export failed, or ``None`` if the error does not show it."""
    called = dict.fromkeys(str(node.target) for node in network.graph.nodes if node.op == "call_module")
    parts = {name: network.get_submodule(name) for name in called}
    own = {name: part for name, part in parts.items() if not type(part).__module__.startswith(("torch.", "narfx."))}
    forwards = {getattr(type(part).forward, "__code__", None): name for name, part in own.items()}
    for frame in frames:
        module = frame.f_locals.get("self")
        same = next((name for name, part in own.items() if part is module), forwards.get(frame.f_code))
        if same is not None:
            return same
    return None


def _failing(frames: Iterator[FrameType]) -> fx.Node | None:
    """The node on which torch worked, as its innermost frame has it, with the lines of the model's code."""
    held = [frame.f_locals.get("node", frame.f_locals.get("n")) for frame in frames]
    nodes = [node for node in held if isinstance(node, fx.Node) and source_line(node)]
    return nodes[-1] if nodes else None
