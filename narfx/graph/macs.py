"""Multiply-accumulates counted from what torch executes, whatever module or function asked for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["MacCounter", "conv_macs"]

_aten = torch.ops.aten
# The position of the first factor of each matrix product; the second one follows it.
_PRODUCTS = {_aten.mm: 0, _aten.bmm: 0, _aten.mv: 0, _aten.addmm: 1, _aten.baddbmm: 1, _aten.addmv: 1}

_whole = set[Any]()  # the operations seen so far that are made of no others


class MacCounter(TorchDispatchMode):
    """Counts convolutions and linear layers inside the block, with the batch that each call has.

    A linear layer is a matrix product of which one factor depends on the input and one does not. A product of two
    values that do (attention) counts zero, and so does one of weights alone (a parametrization).
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self._fixed: dict[int, Any] = {}  # storages that do not depend on the input; held, so that no number returns

    def add_fixed(self, tensors: Iterable[Tensor]) -> None:
        """Take tensors for weights."""
        for tensor in tensors:
            self._mark(tensor, fixed=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation of torch's and count it."""
        kwargs, packet = kwargs or {}, func.overloadpacket
        if func not in _whole:
            with self:  # in inference mode a linear layer arrives as one operation, which is made of others
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            _whole.add(func)
        fixed = all(map(self._is_fixed, _tensors((*args, *kwargs.values()))))
        result = func(*args, **kwargs)
        if packet is _aten.convolution:
            self.macs += conv_macs(args[0].shape if args[6] else result.shape, args[1])
        elif packet in _PRODUCTS:
            first, second = args[_PRODUCTS[packet] :][:2]
            if self._is_fixed(first) != self._is_fixed(second):
                self.macs += first.numel() * (second.shape[-1] if second.ndim > 1 else 1)
        for tensor in _tensors(result if isinstance(result, (tuple, list)) else (result,)):
            self._mark(tensor, fixed=fixed)
        return result

    def _mark(self, tensor: Tensor, *, fixed: bool) -> None:
        storage = _storage(tensor)
        if fixed and storage is not None:
            self._fixed[storage._cdata] = storage
        elif storage is not None:  # as where an input is written into zeros
            self._fixed.pop(storage._cdata, None)

    def _is_fixed(self, tensor: Tensor) -> bool:
        storage = _storage(tensor)
        return storage is not None and storage._cdata in self._fixed


def conv_macs(shape: Iterable[int], weight: Tensor) -> int:
    """Those of a convolution with output ``shape``, (N, C, *sizes); of a transposed one the shape is its input's."""
    batch, _, *sizes = shape
    return batch * math.prod(sizes) * weight.numel()


def _storage(tensor: Tensor) -> Any:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # a sparse tensor has none
        return None


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
