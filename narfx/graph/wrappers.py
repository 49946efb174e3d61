"""Convolutions by class whose own forward adds a normalisation or an activation, as in detectron2.

A trace goes into such a module, so that its convolution is a call with the module's own weight and can be refined. Any
other forward of its own (a standardised or masked weight, two convolutions) leaves the module whole.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from narfx.graph.proxies import Proxy

__all__ = ["wraps_convolution"]

_OPTIONS = ("stride", "padding", "dilation", "groups")


def wraps_convolution(module: nn.Module) -> bool:
    """Whether a module is a ``Conv2d`` with a forward of its own, in which one plain convolution is called.

    Plain is a call of ``conv2d`` whose weight and bias are the module's own, unchanged, and read by nothing else.
    """
    kind = type(module)
    if not isinstance(module, nn.Conv2d) or kind.forward is nn.Conv2d.forward or kind.__module__.startswith("torch."):
        return False
    if "forward" in vars(module) or "_conv_forward" in vars(module) or "weight" not in module._parameters:
        return False
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    try:
        graph = _Inside().trace(module)
    except Exception:  # what cannot be traced stays whole
        return False
    reads = [node for node in graph.nodes if node.op == "get_attr" and node.target in ("weight", "bias")]
    calls = {user for node in reads for user in node.users}
    return len(calls) == 1 and _is_plain(calls.pop())


def _is_plain(call: fx.Node) -> bool:
    values = {**dict(zip(("input", "weight", "bias", *_OPTIONS), call.args, strict=False)), **call.kwargs}
    weight, bias = values.get("weight"), values.get("bias")
    return (
        call.target in (torch.conv2d, nn.functional.conv2d)
        and isinstance(values.get("input"), fx.Node)
        and isinstance(weight, fx.Node)
        and weight.target == "weight"
        and (bias is None or (isinstance(bias, fx.Node) and bias.target == "bias"))
    )


class _Inside(fx.Tracer):
    """Traces one module, its parts as leaves."""

    in_convolution = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Proxy(node, self)
