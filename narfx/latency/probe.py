"""A small ONNX model for one operator at one site, built so that it is timed as inside a network.

onnxruntime keeps feature maps in its own memory layout between convolutions, and fuses a BatchNorm and a ReLU into the
convolution before them. An operator alone would pay for the change of layout at both ends, with cold caches. So the
model has a convolution and a separable convolution of the same input shape before the operator, and a ReLU and a global
average pool after it; the operator has a bias (the folded BatchNorm). The same model without the operator is timed
too, and its latency is subtracted.

Operators made of plain ``torch.nn`` modules are written as ONNX directly, which takes milliseconds; torch's exporter
takes seconds and is used for all other modules.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from narfx.bundle.onnx.write import export_onnx
from narfx.graph.tracing import trace_graph
from narfx.operators import build_operator
from narfx.space.records import Site

__all__ = ["Probe", "probe"]

_OPSET, _IR_VERSION = 20, 9
_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@dataclass(frozen=True)
class Probe:
    """An operator at a site (with a bias): the key of its latency, and the models that are timed.

    ``key`` contains the operator's name, the geometry, and a hash of the module's structure, so that a changed operator
    with the same name is measured again. The hash does not see code in a user's ``forward`` outside its submodules.
    """

    key: str
    site: Site
    operator: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one sample."""
        return self.site.input_shape

    @property
    def context(self) -> str:
        """The key of :meth:`without`: equal for all probes with the same model around the operator."""
        images = f" images {self.site.images}" if self.site.images > 1 else ""
        return f"context {'x'.join(map(str, self.input_shape))} groups {self.site.groups}{images}"

    def model(self) -> bytes:
        """The ONNX model with the operator, serialised."""
        return _onnx(_built(self.site, self.operator), self.input_shape, self.site.groups)

    def without(self) -> bytes:
        """The ONNX model without the operator, serialised."""
        return _onnx(nn.Identity(), self.input_shape, self.site.groups)


def probe(site: Site, operator: str) -> Probe:
    """The probe of an operator at a site; sites with the same geometry have the same key, with or without bias."""
    site = replace(site, bias=True)
    try:
        with torch.device("meta"):
            module = _built(site, operator)
    except Exception:  # a user's builder may read values
        module = _built(site, operator)
    geometry = site.signature().removeprefix(f"{site.name} {site.kind} ")
    structure = hashlib.sha256(repr(module).encode()).hexdigest()[:8]
    return Probe(f"{operator} {geometry} module {structure}", site, operator)


def _built(site: Site, operator: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (_convolution(site) if operator == "base" else build_operator(operator, site)).eval()


def _convolution(site: Site) -> nn.Module:
    """A convolution with the geometry of the site's own."""
    return nn.Conv2d(
        site.in_channels, site.out_channels, site.kernel, site.stride, site.padding, site.dilation, site.groups,
        site.bias, site.padding_mode,
    )  # fmt: skip


def _onnx(operator: nn.Module, input_shape: tuple[int, int, int], groups: int) -> bytes:
    channels = input_shape[0]
    writer = _Writer(input_shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        writer.add(nn.Conv2d(channels, channels, 3, padding=1, groups=groups))
        writer.add(nn.ReLU())
        writer.add(nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False))
        writer.add(nn.Conv2d(channels, channels, 1, groups=groups))
        writer.add(nn.ReLU())
    try:
        writer.attempt(operator)
    except _NotPlainError:
        writer.add_exported(operator, input_shape)
    if not isinstance(operator, nn.Identity):
        writer.add(nn.ReLU())
    writer.add(nn.AdaptiveAvgPool2d(1))
    return writer.model()


class _NotPlainError(Exception):
    """The writer cannot write this module."""


class _Writer:
    """Writes a chain of modules as an ONNX graph."""

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        self._input_shape = input_shape
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._opset = _OPSET
        self._end = "input"

    def model(self) -> bytes:
        """The serialised model, with a free batch axis."""
        from onnx import TensorProto, helper

        source = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *self._input_shape])
        target = helper.make_tensor_value_info(self._end, TensorProto.FLOAT, None)
        graph = helper.make_graph(self._nodes, "probe", [source], [target], self._constants)
        opset = helper.make_opsetid("", self._opset)
        content: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION).SerializeToString()
        return content

    def add(self, module: nn.Module) -> None:
        """Append a module; ``_NotPlainError`` if it has a part that cannot be written here."""
        self._end = self._add(module, self._end)

    def attempt(self, module: nn.Module) -> None:
        """As :meth:`add`, but nothing stays appended if it fails."""
        nodes, constants = len(self._nodes), len(self._constants)
        try:
            self.add(module)
        except _NotPlainError:
            del self._nodes[nodes:], self._constants[constants:]
            raise

    def add_exported(self, module: nn.Module, input_shape: tuple[int, int, int]) -> None:
        """Append any module, as torch's exporter writes it for samples of ``input_shape``."""
        import onnx

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "operator.onnx"
            export_onnx(trace_graph(module).graph_module.eval(), input_shape, path)
            model = onnx.compose.add_prefix(onnx.load(path), "exported_")
        self._opset = next(entry.version for entry in model.opset_import if entry.domain == "")
        self._nodes += [onnx.helper.make_node("Identity", [self._end], [model.graph.input[0].name]), *model.graph.node]
        self._constants += model.graph.initializer
        self._end = model.graph.output[0].name

    def _add(self, module: nn.Module, x: str) -> str:
        if type(module) is nn.Sequential:
            for part in module:
                x = self._add(part, x)
            return x
        add = _adders().get(type(module))
        if add is None or module._forward_hooks or module._forward_pre_hooks:
            raise _NotPlainError
        return str(add(self, module, x))

    def _node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        name = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _constant(self, value: Tensor) -> str:
        from onnx import numpy_helper

        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(value.detach().cpu().numpy(), name))
        return name

    def _identity(self, module: nn.Module, x: str) -> str:
        return x

    def _relu(self, module: nn.ReLU, x: str) -> str:
        return self._node("Relu", [x])

    def _conv(self, module: nn.Conv2d, x: str) -> str:
        if isinstance(module.padding, str) or module.weight.dtype != torch.float32:
            raise _NotPlainError
        pads = [*module.padding, *module.padding]
        if module.padding_mode != "zeros":
            ends = self._constant(torch.tensor([0, 0, *module.padding, 0, 0, *module.padding]))
            x, pads = self._node("Pad", [x, ends], mode=_PAD_MODES[module.padding_mode]), [0, 0, 0, 0]
        parameters = [self._constant(p) for p in (module.weight, module.bias) if p is not None]
        return self._node(
            "Conv", [x, *parameters], kernel_shape=list(module.kernel_size), strides=list(module.stride), pads=pads,
            dilations=list(module.dilation), group=module.groups,
        )  # fmt: skip

    def _norm(self, module: nn.BatchNorm2d, x: str) -> str:
        values = (module.weight, module.bias, module.running_mean, module.running_var)
        if any(value is None for value in values):
            raise _NotPlainError
        constants = [self._constant(value) for value in values if value is not None]
        return self._node("BatchNormalization", [x, *constants], epsilon=module.eps)

    def _max_pool(self, module: nn.MaxPool2d, x: str) -> str:
        return self._node(
            "MaxPool", [x], kernel_shape=_pair(module.kernel_size), strides=_pair(module.stride),
            pads=_pair(module.padding) * 2, dilations=_pair(module.dilation), ceil_mode=int(module.ceil_mode),
        )  # fmt: skip

    def _average_pool(self, module: nn.AvgPool2d, x: str) -> str:
        if module.divisor_override is not None:
            raise _NotPlainError
        return self._node(
            "AveragePool", [x], kernel_shape=_pair(module.kernel_size), strides=_pair(module.stride),
            pads=_pair(module.padding) * 2, ceil_mode=int(module.ceil_mode),
            count_include_pad=int(module.count_include_pad),
        )  # fmt: skip

    def _global_pool(self, module: nn.AdaptiveAvgPool2d, x: str) -> str:
        if module.output_size not in (1, (1, 1)):
            raise _NotPlainError
        return self._node("GlobalAveragePool", [x])


@cache
def _adders() -> dict[type[nn.Module], Any]:
    return {
        nn.Identity: _Writer._identity,
        nn.ReLU: _Writer._relu,
        nn.Conv2d: _Writer._conv,
        nn.BatchNorm2d: _Writer._norm,
        nn.MaxPool2d: _Writer._max_pool,
        nn.AvgPool2d: _Writer._average_pool,
        nn.AdaptiveAvgPool2d: _Writer._global_pool,
    }


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, tuple) else [value, value]
