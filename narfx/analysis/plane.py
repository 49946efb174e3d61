"""A plane in the space of a network's weights, through the weights that it has.

It is spanned by two random directions that are normalised filter by filter (Li et al., arXiv 1712.09913, section 4):
each entry is drawn from N(0, 1), and each filter of a direction (the weights of one output channel or output) gets the
norm of the network's own filter. Biases and the scale and shift of norms stay as they are, as in the paper's code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from narfx.errors import UsageError
from narfx.support.seeds import torch_generator

__all__ = ["Plane"]

_TINY = 1e-10


class Plane:
    """The plane of a network; :meth:`at` moves the network there, and back.

    Args:
        network: Its weights of two axes and more are moved.
        seed: Decides both directions. A weight of the same name and shape has the same direction, up to the norms, in
            every network.

    Raises:
        UsageError: The network has no such weight.
    """

    def __init__(self, network: nn.Module, seed: int) -> None:
        self._weights = {name: weight for name, weight in network.named_parameters() if weight.dim() > 1}
        if not self._weights:
            raise UsageError(
                "the network has no weights that can be moved: give an arch.json, a bundle, a run or a MODEL with "
                "convolutions or linear layers (an ONNX file has none)",
                kind="no_weights",
            )
        self._centre = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._directions = [
            {name: _direction(centre, seed, axis, name) for name, centre in self._centre.items()} for axis in (0, 1)
        ]

    @property
    def directions(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Both directions, by the names of the weights."""
        first, second = self._directions
        return first, second

    @contextmanager
    def at(self, first: float, second: float) -> Iterator[None]:
        """The network at its own weights plus ``first`` and ``second`` times the directions; afterwards as before."""
        one, other = self._directions
        try:
            with torch.no_grad():
                for name, weight in self._weights.items():
                    weight.copy_(self._centre[name] + first * one[name] + second * other[name])
            yield
        finally:
            with torch.no_grad():
                for name, weight in self._weights.items():
                    weight.copy_(self._centre[name])


def _direction(centre: Tensor, seed: int, axis: int, name: str) -> Tensor:
    drawn = torch.randn(centre.shape, generator=torch_generator(seed, "direction", axis, name))
    drawn = drawn.to(centre.device, centre.dtype)
    own, norms = (weight.double().flatten(1).norm(dim=1) for weight in (centre, drawn))  # in float32 they may overflow
    scale = (own / (norms + _TINY)).to(centre.dtype)
    found: Tensor = drawn * scale.view(-1, *(1,) * (centre.dim() - 1))
    return found
