"""Marks in an ONNX file: each ONNX node names the node of the network whose value it computes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import fx
from torch.export.graph_signature import OutputKind

__all__ = ["MARK", "OUTPUT", "mark_nodes", "node_keys", "node_origins", "remove_from", "remove_marks"]

MARK = "narfx.node"
OUTPUT = "narfx_output"  # with its position: the name of an output until it gets its final name
_TORCH_STACK = "pkg.torch.onnx.stack_trace"


def node_keys(graph: fx.Graph) -> dict[fx.Node, str]:
    """A name for each call and read in a graph; a second trace of the same network gives the same names.

    A module call is named by its path, a function as ``add()``, a method as ``.mean()``, a parameter or buffer as
    ``self.scale``. The second use gets the suffix ``@1``, as in torch's own module stacks.
    """
    keys: dict[fx.Node, str] = {}
    seen: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            key = str(node.target)
        elif node.op == "call_function":
            key = f"{getattr(node.target, '__name__', node.target)}()"
        elif node.op == "call_method":
            key = f".{node.target}()"
        elif node.op == "get_attr":
            key = f"self.{node.target}"
        else:
            continue
        seen[key] = seen.get(key, -1) + 1
        keys[node] = key if seen[key] == 0 else f"{key}@{seen[key]}"
    return keys


def mark_nodes(model: Any, origins: Mapping[str, str]) -> None:
    """Write into each ONNX node the key of the network's node whose value it computes; see :func:`node_origins`.

    An ONNX node that computes only a part of a value gets no mark. A convolution with a fused normalisation gets the
    normalisation's mark. The stack traces that torch writes are removed, because they hold paths of the exporting
    machine.
    """
    for node in model.graph.all_nodes():
        node.metadata_props.pop(_TORCH_STACK, None)
        if len(node.outputs) == 1 and node.outputs[0].name in origins:
            node.metadata_props[MARK] = origins[node.outputs[0].name]


def remove_marks(path: Path, marks: Collection[str]) -> None:
    """Remove these marks from a file."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    remove_from(model, marks)
    onnx.save(model, str(path))


def remove_from(model: Any, marks: Collection[str]) -> None:
    """Remove these marks from a ``ModelProto``."""
    for node in model.graph.node:
        for index in reversed(range(len(node.metadata_props))):
            if node.metadata_props[index].key == MARK and node.metadata_props[index].value in marks:
                del node.metadata_props[index]


def node_origins(exported: Any, network: fx.GraphModule) -> dict[str, str]:
    """The key of the network's node for each ONNX value, as far as torch records it.

    ONNX values have the names of exported nodes; the last exported node of a network's node holds its value.
    """
    if exported is None:
        return {}
    by_name = {node.name: key for node, key in node_keys(network.graph).items()}
    last: dict[str, str] = {}
    for node in exported.graph.nodes:
        key = by_name.get(_origin(node))
        if key is not None and node.op == "call_function":
            last[key] = node.name
    origin = {name: key for key, name in last.items()}
    # An input or a buffer that is changed in place is listed here too, but it is not an output of the file.
    specs = [spec for spec in exported.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    returned = [spec.arg.name for spec in specs if hasattr(spec.arg, "name")]
    return origin | {f"{OUTPUT}{i}": origin[name] for i, name in enumerate(returned) if name in origin}


def _origin(node: fx.Node) -> str:
    """The name that an exported node had in the graph that the exporter got."""
    sources = node.meta.get("from_node") or []
    name = ""
    while sources:
        name, sources = sources[-1].name, getattr(sources[-1], "from_node", None) or []
    return name
