"""What a network costs: parameters, and multiply-accumulates (MACs) of one sample.

MACs count convolutions and linear layers only; normalisation, activation, pooling and adds count zero. This is what
the NAR paper prints as FLOPs; FLOPs in the usual sense are twice as many.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from narfx.errors import UsageError
from narfx.tracing import trace_graph

__all__ = ["GraphCost", "measure", "shapes_and_cost"]


@dataclass(frozen=True)
class GraphCost:
    """Parameters and MACs of one sample, and the output shape of each node (batch axis first)."""

    params: int
    macs: int
    shapes: dict[fx.Node, tuple[int, ...]]


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps each node's output shape, and the MACs of functional calls."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.macs = 0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n.name] = tuple(result.shape)
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = super().call_function(target, args, kwargs)
        weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
        if isinstance(weight, Tensor) and isinstance(result, Tensor):
            if target in (nn.functional.conv2d, torch.conv2d):
                self.macs += result[0, 0].numel() * weight.numel()
            elif target is nn.functional.linear:
                self.macs += result[0].numel() // weight.shape[0] * weight.numel()
        return result


def shapes_and_cost(graph_module: fx.GraphModule, input_shape: tuple[int, ...]) -> GraphCost:
    """Run the graph on the meta device (nothing is computed) for one sample of ``input_shape``.

    A graph that the meta device cannot run, because a leaf looks at values, runs on the CPU on zeros instead.

    Raises:
        UsageError: The network does not accept an input of this shape.
    """
    try:
        recorder, macs = _run(graph_module, input_shape, torch.device("meta"))
    except Exception:
        try:
            recorder, macs = _run(graph_module, input_shape, torch.device("cpu"))
        except Exception as error:
            shape = ",".join(map(str, input_shape))
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"the model does not accept an input of {shape} (channels, height, width): {reason}",
                where="--input",
                kind="input_shape",
            ) from error
    return GraphCost(
        params=sum(parameter.numel() for parameter in graph_module.parameters()),
        macs=macs + recorder.macs,
        shapes={node: recorder.shapes[node.name] for node in graph_module.graph.nodes if node.name in recorder.shapes},
    )


def _run(graph_module: fx.GraphModule, input_shape: tuple[int, ...], device: torch.device) -> tuple[_Recorder, int]:
    counted = copy.deepcopy(graph_module).to(device).eval()
    recorder, macs = _Recorder(counted), [0]
    with torch.no_grad(), ExitStack() as hooks:
        for module in counted.modules():
            if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
                hooks.callback(module.register_forward_hook(_counter(macs)).remove)
        parameter = next(counted.parameters(), None)
        dtype = parameter.dtype if parameter is not None and parameter.is_floating_point() else torch.float32
        recorder.run(torch.zeros(1, *input_shape, dtype=dtype, device=device))
    return recorder, macs[0]


def _counter(macs: list[int]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def count(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Linear):
            macs[0] += math.prod(output.shape[1:-1]) * module.weight.numel()
        elif isinstance(module, nn.modules.conv._ConvTransposeNd):
            macs[0] += math.prod(args[0].shape[2:]) * module.weight.numel()
        elif isinstance(module, nn.modules.conv._ConvNd):
            macs[0] += math.prod(output.shape[2:]) * module.weight.numel()

    return count


def measure(network: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """``{"params", "macs"}`` of any module for one sample of ``input_shape`` (channels, height, width)."""
    graph_module = network if isinstance(network, fx.GraphModule) else trace_graph(network).graph_module
    cost = shapes_and_cost(graph_module, input_shape)
    return {"params": cost.params, "macs": cost.macs}
