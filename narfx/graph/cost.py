"""The cost of a network: parameters, and multiply-accumulates (MACs) of one sample.

MACs count convolutions and linear layers only; normalisation, activation, pooling and adds count zero. The NAR paper
(arXiv 1905.02341) prints this number as FLOPs; FLOPs in the usual sense are twice as many.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from narfx.errors import UsageError
from narfx.graph.copying import copy_module, copy_to_meta
from narfx.graph.nodes import pair
from narfx.graph.tracing import trace_graph
from narfx.graph.unused import unused_keys
from narfx.support.devices import absent_device
from narfx.support.text import first_line

__all__ = ["GraphCost", "measure", "shapes_and_cost"]


@dataclass(frozen=True)
class GraphCost:
    """Parameters and MACs of one sample, and the output shape of each node (batch axis first)."""

    params: int
    macs: int
    shapes: dict[fx.Node, tuple[int, ...]]


class _Recorder(fx.Interpreter):
    """Runs a graph on one sample and records each node's output shape, and the MACs.

    Shapes of common layers are computed by formula, because torch is slow on the meta device. Other modules run as a
    copy on ``device`` in eval mode, so the network itself is neither moved nor changed.
    """

    def __init__(self, graph_module: nn.Module, graph: fx.Graph, device: str) -> None:
        super().__init__(graph_module, graph=graph)
        self.device = device
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.macs = 0
        self.copies: dict[str, nn.Module] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n.name] = tuple(result.shape)
        return result

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = super().get_attr(target, args, kwargs)
        return value.detach().to(self.device) if isinstance(value, Tensor) else value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module: nn.Module = self.fetch_attr(target)
        if not args and "input" in kwargs and type(module).__module__.startswith("torch.nn."):
            args, kwargs = (kwargs["input"],), {name: value for name, value in kwargs.items() if name != "input"}
        hooked = module._forward_hooks or module._forward_pre_hooks  # a hook may change the output
        if len(args) == 1 and isinstance(args[0], Tensor) and args[0].is_meta and not hooked:
            if _keeps_shape(module, args[0]):
                return args[0]
            if type(module) is nn.Conv2d and (shape := _conv_output(module, args[0])) is not None:
                output = args[0].new_empty(shape)
                self.count(module, args, output)
                return output
            weight = module._parameters.get("weight") if isinstance(module, nn.modules.conv._ConvNd) else None
            if weight is not None and weight.is_floating_point() and weight.dtype != args[0].dtype:
                raise TypeError("the meta device does not check dtypes: run on the CPU")
        if target not in self.copies:
            self.copies[target] = self.copied(module)
        if type(module).__module__.startswith("torch.nn."):
            return self.copies[target](*args, **kwargs)
        before = self.macs
        with _Calls() as calls:
            result = self.copies[target](*args, **kwargs)
        # Layers inside that do not call torch's functions were counted by hooks; take the larger count.
        self.macs = before + max(self.macs - before, calls.macs)
        return result

    def copied(self, module: nn.Module) -> nn.Module:
        """A copy on the device, in eval mode, with hooks that count MACs."""
        copied = (copy_to_meta(module) if self.device == "meta" else copy_module(module).to(self.device)).eval()
        for part in copied.modules():
            if isinstance(part, (nn.modules.conv._ConvNd, nn.Linear)):
                part.register_forward_hook(self.heard, with_kwargs=True)
        return copied

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in _ELEMENTWISE and len(args) == 2 and not kwargs and _alike(*args):
            return args[0]
        if isinstance(target, FunctionType) and not target.__module__.startswith("torch."):
            with _Calls() as calls:  # a function that the user keeps opaque with torch.fx.wrap
                result = super().call_function(target, args, kwargs)
            self.macs += calls.macs
            return result
        result = super().call_function(target, args, kwargs)
        self.macs += _macs_of_call(target, args, kwargs, result)
        return result

    def heard(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Forward hook: count one call; the input may be a keyword argument."""
        self.count(module, args or (kwargs["input"],), output)

    def count(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Add the MACs of one call of a convolution or linear layer."""
        if isinstance(module, nn.Linear):
            self.macs += math.prod(output.shape[:-1]) * module.weight.numel()
        elif isinstance(module, nn.modules.conv._ConvTransposeNd):
            self.macs += math.prod(args[0].shape[2:]) * module.weight.numel()
        elif isinstance(module, nn.modules.conv._ConvNd):
            self.macs += math.prod(output.shape[2:]) * module.weight.numel()


class _Calls(TorchFunctionMode):
    """Counts the MACs of all torch functions that the block calls; torch's own layers call them too."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.macs += _macs_of_call(func, args, kwargs or {}, result)
        return result


def _macs_of_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """The MACs of a functional convolution or linear layer; 0 for any other call."""
    source, weight = (
        kwargs.get(name, args[i] if i < len(args) else None) for i, name in enumerate(("input", "weight"))
    )
    if not (isinstance(source, Tensor) and isinstance(weight, Tensor) and isinstance(result, Tensor)):
        return 0
    if function in (torch.conv1d, torch.conv2d, torch.conv3d):
        return result[0, 0].numel() * weight.numel()
    if function in (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d):
        return source[0, 0].numel() * weight.numel()
    if function is nn.functional.linear:
        return result.numel() // weight.shape[0] * weight.numel()  # windows of one sample may be on the batch axis
    return 0


_SAME_SHAPE = {
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardswish,
    nn.Hardsigmoid, nn.Softplus, nn.Identity, nn.Dropout, nn.Dropout2d,
}  # fmt: skip
_ELEMENTWISE = {operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, torch.add, torch.mul}


def _keeps_shape(module: nn.Module, x: Tensor) -> bool:
    return type(module) in _SAME_SHAPE or (
        type(module) is nn.BatchNorm2d and x.ndim == 4 and x.shape[1] == module.num_features
    )


def _alike(a: Any, b: Any) -> bool:
    """Whether two meta tensors have the same shape and dtype, so that their sum has them too."""
    both = isinstance(a, Tensor) and isinstance(b, Tensor)
    return both and a.is_meta and b.is_meta and a.shape == b.shape and a.dtype == b.dtype


def _conv_output(conv: nn.Conv2d, x: Tensor) -> tuple[int, ...] | None:
    """The output shape, or ``None`` if torch has to compute (or refuse) it."""
    if x.ndim != 4 or x.shape[1] != conv.in_channels or conv.padding_mode != "zeros" or x.dtype != conv.weight.dtype:
        return None
    if conv.padding == "same":
        return (x.shape[0], conv.out_channels, *x.shape[2:])
    padding = (0, 0) if isinstance(conv.padding, str) else pair(conv.padding)
    sizes = [
        (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for size, pad, dilation, kernel, stride in zip(
            x.shape[2:], padding, pair(conv.dilation), pair(conv.kernel_size), pair(conv.stride), strict=True
        )
    ]
    return (x.shape[0], conv.out_channels, *sizes) if min(sizes) > 0 else None


def shapes_and_cost(graph_module: fx.GraphModule, input_shape: tuple[int, ...]) -> GraphCost:
    """Run the graph on the meta device (nothing is computed) for one sample of ``input_shape`` (C, H, W).

    If the meta device cannot run the graph, because a leaf reads values, it runs on the CPU on zeros.

    Raises:
        UsageError: The network does not accept this input shape, has integer or mixed dtypes, or needs a device that
            does not exist here.
    """
    try:
        recorder = _run(graph_module, input_shape, "meta")
    except Exception:
        try:
            recorder = _run(graph_module, input_shape, "cpu")
        except Exception as error:
            for name, parameter in graph_module.named_parameters():
                if not parameter.is_floating_point():
                    raise UsageError(
                        f"the model cannot run: {name} is {parameter.dtype}, but narfx refines networks with "
                        "floating-point weights: give it the float model",
                        where=name,
                        kind="weights_not_float",
                    ) from error
            absent = absent_device(error)
            if absent is not None:
                raise UsageError(
                    f"the model needs a device that this machine does not have: {absent}", kind="no_device"
                ) from error
            kinds: dict[torch.dtype, str] = {}
            for name, parameter in graph_module.named_parameters():
                kinds.setdefault(parameter.dtype, name)
            if len(kinds) > 1 and "type" in str(error):
                raise UsageError(
                    f"the model cannot run: its weights have several dtypes "
                    f"({', '.join(f'{name} is {kind}' for kind, name in kinds.items())}); convert them to one, for "
                    f"example with model.float() ({first_line(error)})",
                    where=list(kinds.values())[-1],
                    kind="mixed_dtypes",
                ) from error
            shape = ",".join(map(str, input_shape))
            raise UsageError(
                f"the model does not accept an input of {shape} (channels, height, width): {first_line(error)}",
                where="--input",
                kind="input_shape",
            ) from error
    return GraphCost(
        params=_parameters(graph_module),
        macs=recorder.macs,
        shapes={node: recorder.shapes[node.name] for node in graph_module.graph.nodes if node.name in recorder.shapes},
    )


def _parameters(graph_module: fx.GraphModule) -> int:
    """The number of parameters that the graph uses; a head that it does not call is not counted."""
    idle = unused_keys(graph_module)
    named = graph_module.named_parameters(remove_duplicate=False)
    return sum({id(value): value.numel() for name, value in named if name not in idle}.values())


def _run(graph_module: fx.GraphModule, input_shape: tuple[int, ...], device: str) -> _Recorder:
    recorder = _Recorder(graph_module, graph_module.graph, device)
    parameter = next(graph_module.parameters(), None)
    dtype = parameter.dtype if parameter is not None and parameter.is_floating_point() else torch.float32
    with torch.no_grad():
        recorder.run(torch.zeros(1, *input_shape, dtype=dtype, device=device))
    return recorder


def measure(network: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """``{"params", "macs"}`` of any module for one sample of ``input_shape`` (channels, height, width)."""
    graph_module = network if isinstance(network, fx.GraphModule) else trace_graph(network).graph_module
    cost = shapes_and_cost(graph_module, input_shape)
    return {"params": cost.params, "macs": cost.macs}
