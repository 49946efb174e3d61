"""Multiply-accumulates counted from what torch executes, whatever module or function asked for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from narfx.graph.copying import copy_module, copy_to_meta

__all__ = ["MacCounter", "conv_macs", "parametrization_macs"]

# On a CPU, attention is one operation that torch's counter does not know; elsewhere the same call is counted.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

_whole = set[Any]()  # the operations seen so far that are made of no others


class MacCounter(TorchDispatchMode):
    """Counts inside the block what ``torch.utils.flop_counter.FlopCounterMode`` counts, two of its FLOPs a MAC.

    Convolutions and matrix products with the sizes of each call, whatever they multiply: weights, two values
    (attention), or weights alone. Attention counts the same on every device.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation of torch's and count it."""
        kwargs, packet = kwargs or {}, func.overloadpacket
        if func not in _whole:
            with self:  # in inference mode a linear layer arrives as one operation, which is made of others
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            _whole.add(func)
        result = func(*args, **kwargs)
        if packet is _CPU_ATTENTION:
            self.macs += _attention_macs(*args[:3])
        elif packet in flop_registry:
            self.macs += flop_registry[packet](*args, **kwargs, out_val=result) // 2
        return result


def conv_macs(shape: Iterable[int], weight: Tensor) -> int:
    """Those of a convolution with output ``shape``, (N, C, *sizes); of a transposed one the shape is its input's."""
    batch, _, *sizes = shape
    return batch * math.prod(sizes) * weight.numel()


def parametrization_macs(module: nn.Module) -> int:
    """Those with which the module's parametrizations compute its tensors at each call; weight norm has none."""
    if not parametrize.is_parametrized(module):
        return 0
    try:
        return _computing(copy_to_meta(module))
    except Exception:  # one that reads values runs on the CPU only
        return _computing(copy_module(module).to("cpu"))


def _computing(module: nn.Module) -> int:
    module.eval()
    counter = MacCounter()
    with torch.no_grad(), counter:
        for name in module.get_submodule("parametrizations")._modules:
            getattr(module, name)
    return counter.macs


def _attention_macs(query: Tensor, key: Tensor, value: Tensor) -> int:
    """Those of q·k and of weights·v; fewer heads of keys than of queries are shared, and count for each query's."""
    return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
