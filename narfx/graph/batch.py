"""Whether a graph takes a batch of any size: one that takes a single image alone cannot be trained or exported."""

from __future__ import annotations

from torch import fx

from narfx.errors import UsageError
from narfx.graph.cost import GraphCost, run_shapes
from narfx.graph.nodes import source_line
from narfx.support.text import first_line

__all__ = ["check_batch", "lost_axis"]

_RESHAPES = ("flatten", "view", "reshape", "squeeze", "ravel", "unflatten", "expand", "permute", "transpose", "cat")


def check_batch(graph_module: fx.GraphModule, cost: GraphCost, input_shape: tuple[int, ...]) -> str:
    """Run the graph on two images, where its calls may treat them otherwise than one.

    Returns:
        A sentence where the batch axis of a single image is lost on the way, else an empty text.

    Raises:
        UsageError: It fails on two images (kind ``batch_of_one``).
    """
    if not any(_may_mix(graph_module, node) for node in graph_module.graph.nodes):
        return ""
    shapes, failed, error = run_shapes(graph_module, input_shape, cost.device, batch=2)
    if error is not None and failed is not None:
        cause = _reshape_before(failed)
        before = f", after {_name(cause)}, which may take the batch axis with it" if cause is not None else ""
        raise UsageError(
            f"the model takes one image at a time only: on two, {_name(failed)} fails{before} ({first_line(error)}); "
            "keep the first axis for the batch, as torch.flatten(x, 1) and x.view(x.shape[0], -1) do",
            where=source_line(cause or failed) or str(failed),
            kind="batch_of_one",
        )
    return _lost(graph_module, cost.shapes, shapes)


def lost_axis(graph_module: fx.GraphModule, cost: GraphCost, input_shape: tuple[int, ...]) -> str:
    """The sentence of :func:`check_batch`, of a graph that is known to take two images."""
    shapes, _, _ = run_shapes(graph_module, input_shape, cost.device, batch=2)
    return _lost(graph_module, cost.shapes, shapes)


def _lost(
    graph_module: fx.GraphModule, one: dict[fx.Node, tuple[int, ...]], two: dict[fx.Node, tuple[int, ...]]
) -> str:  # fmt: skip
    for node in graph_module.graph.nodes:
        if node in one and node in two and len(one[node]) < len(two[node]):
            return (
                f"{_name(node)} drops the batch axis of a single image, so that it gives another shape than a batch of "
                "several and its ONNX file: name the axes, as in x.squeeze((2, 3)) or x.flatten(1)"
            )
    return ""


def _may_mix(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a call may depend on the size of the batch: a function that shapes, or code that no trace has seen."""
    if node.op == "call_module":
        return not type(graph_module.get_submodule(str(node.target))).__module__.startswith("torch.nn.")
    name = getattr(node.target, "__name__", str(node.target))
    if name == "flatten" and (*node.args[1:], *node.kwargs.values()) == (1,):
        return False
    return node.op in ("call_function", "call_method") and name not in _SAFE


_SAFE = {
    "add", "iadd", "sub", "mul", "imul", "truediv", "relu", "relu_", "sigmoid", "silu", "gelu", "hardswish", "cat",
    "adaptive_avg_pool2d", "avg_pool2d", "max_pool2d", "dropout", "interpolate", "conv2d", "batch_norm", "softmax",
}  # fmt: skip


def _reshape_before(node: fx.Node) -> fx.Node | None:
    """The nearest call before a node that changes shapes."""
    waiting, seen = [*node.all_input_nodes], set[fx.Node]()
    while waiting:
        source = waiting.pop(0)
        if any(str(getattr(source.target, "__name__", source.target)).startswith(word) for word in _RESHAPES):
            return source if source.op in ("call_function", "call_method") else None
        if source not in seen:
            seen.add(source)
            waiting += source.all_input_nodes
    return None


def _name(node: fx.Node) -> str:
    where = source_line(node)
    name = str(node.target) if node.op == "call_module" else str(node)
    return f"{name} ({where})" if where else name
