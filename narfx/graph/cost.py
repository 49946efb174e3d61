"""The cost of a network: parameters, and multiply-accumulates (MACs) of one sample.

MACs are half of what torch's own counter (``torch.utils.flop_counter.FlopCounterMode``) counts at batch 1: convolutions
and matrix products, each with the sizes of its call. A model that folds frames, pairs or windows into the batch axis
pays for all of them, and attention for its two products of values. Normalisation, activation, pooling and adds count
zero, and so does a product with a vector. A product of weights alone counts once a call, as torch counts it, though a
deployed network may compute it beforehand: a low-rank parametrization, the position bias of Swin V2. The NAR paper
(arXiv 1905.02341) prints this number as FLOPs; FLOPs in the usual sense are twice as many.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from narfx.errors import UsageError
from narfx.graph.copying import copy_module, copy_to_meta
from narfx.graph.interpreter import Interpreter
from narfx.graph.macs import MacCounter, conv_macs
from narfx.graph.nodes import pair
from narfx.graph.time_limit import model_time
from narfx.graph.tracing import trace_graph
from narfx.graph.unused import unused_keys
from narfx.support.devices import absent_device
from narfx.support.text import first_line

__all__ = ["GraphCost", "measure", "run_shapes", "shapes_and_cost"]


@dataclass(frozen=True)
class GraphCost:
    """Parameters and MACs of one sample, the output shape of each node (batch axis first), and where it was run."""

    params: int
    macs: int
    shapes: dict[fx.Node, tuple[int, ...]]
    device: str = "meta"


class _Recorder(Interpreter):
    """Runs a graph on one sample and records each node's output shape, and the MACs.

    Shapes of common layers are computed by formula, because torch is slow on the meta device. Other modules run as a
    copy on ``device`` in eval mode, so the network itself is neither moved nor changed.
    """

    def __init__(self, graph_module: nn.Module, graph: fx.Graph, device: str) -> None:
        super().__init__(graph_module, graph=graph)
        self.device = device
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.counter = MacCounter()
        self.copies: dict[str, nn.Module] = {}
        self.current: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        self.current = n
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n.name] = tuple(result.shape)
        return result

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = super().get_attr(target, args, kwargs)
        if not isinstance(value, Tensor):
            return value
        return value.detach().to(self.device)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module: nn.Module = self.fetch_attr(target)
        if not args and "input" in kwargs and type(module).__module__.startswith("torch.nn."):
            args, kwargs = (kwargs["input"],), {name: value for name, value in kwargs.items() if name != "input"}
        hooked = module._forward_hooks or module._forward_pre_hooks  # a hook may change the output
        if len(args) == 1 and isinstance(args[0], Tensor) and args[0].is_meta and not hooked:
            if _keeps_shape(module, args[0]):
                return args[0]
            if type(module) is nn.Conv2d and (shape := _conv_output(module, args[0])) is not None:
                self.counter.macs += conv_macs(shape, module.weight)
                return args[0].new_empty(shape)
            weight = module._parameters.get("weight") if isinstance(module, nn.modules.conv._ConvNd) else None
            if weight is not None and weight.is_floating_point() and weight.dtype != args[0].dtype:
                raise TypeError("the meta device does not check dtypes: run on the CPU")
        if target not in self.copies:
            self.copies[target] = self.copied(module)
        return self.copies[target](*args, **kwargs)

    def copied(self, module: nn.Module) -> nn.Module:
        """A copy on the device, in eval mode."""
        copied = copy_to_meta(module) if self.device == "meta" else copy_module(module).to(self.device)
        copied.eval()  # not in one line with the copy: the user's own train() may return nothing
        return copied

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in _ELEMENTWISE and len(args) == 2 and not kwargs and _alike(*args):
            return args[0]
        return super().call_function(target, args, kwargs)


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
        macs=recorder.counter.macs,
        shapes=_by_node(recorder),
        device=recorder.device,
    )


def _by_node(recorder: _Recorder) -> dict[fx.Node, tuple[int, ...]]:
    return {node: recorder.shapes[node.name] for node in recorder.graph.nodes if node.name in recorder.shapes}


def run_shapes(
    graph_module: fx.GraphModule, input_shape: tuple[int, ...], device: str, *, batch: int
) -> tuple[dict[fx.Node, tuple[int, ...]], fx.Node | None, Exception | None]:
    """The shapes for several samples, as far as the graph runs, and the node that fails with its error, if one does."""
    recorder = _Recorder(graph_module, graph_module.graph, device)
    try:
        _start(recorder, input_shape, batch)
    except Exception as error:
        return _by_node(recorder), recorder.current, error
    return _by_node(recorder), None, None


def _parameters(graph_module: fx.GraphModule) -> int:
    """The number of parameters that the graph uses; a head that it does not call is not counted."""
    idle = unused_keys(graph_module)
    named = graph_module.named_parameters(remove_duplicate=False)
    return sum({id(value): value.numel() for name, value in named if name not in idle}.values())


def _run(graph_module: fx.GraphModule, input_shape: tuple[int, ...], device: str) -> _Recorder:
    recorder = _Recorder(graph_module, graph_module.graph, device)
    _start(recorder, input_shape)
    return recorder


def _start(recorder: _Recorder, input_shape: tuple[int, ...], batch: int = 1) -> None:
    parameter = next(recorder.module.parameters(), None)
    dtype = parameter.dtype if parameter is not None and parameter.is_floating_point() else torch.float32
    x = torch.zeros(batch, *input_shape, dtype=dtype, device=recorder.device)
    with torch.no_grad(), _plain_attention(), recorder.counter:
        recorder.run(x)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without the single operation that torch makes of attention on a CPU, whose products nobody sees."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@model_time()
def measure(network: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """``{"params", "macs"}`` of any module for one sample of ``input_shape`` (channels, height, width)."""
    graph_module = network if isinstance(network, fx.GraphModule) else trace_graph(network).graph_module
    cost = shapes_and_cost(graph_module, input_shape)
    return {"params": cost.params, "macs": cost.macs}
