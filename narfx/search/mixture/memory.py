"""What a mixture costs before it is trained: the activations that a forward pass keeps for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from narfx.compiler.supernet import Supernet
from narfx.graph.frozen import train_mode
from narfx.search.mixture.strategy import MixtureStrategy
from narfx.space.space import SearchSpace
from narfx.tasks.task import Task

__all__ = ["activation_bytes", "largest_mixture", "weight_bytes"]

_IMAGES = 2, 4


def largest_mixture(net: Supernet, space: SearchSpace, strategy: MixtureStrategy) -> list[list[float]]:
    """Constant weights, a row a slot, for those choices of each slot that a pass of the strategy may compute at once.

    Of several sets the one with most layers is taken.
    """
    rows = []
    for index, slot in enumerate(space.slots):
        layers = dict.fromkeys(slot.legal, 1)
        if slot.sites:
            for node in net.dispatches([index]):
                for k in slot.legal:
                    layers[k] += sum(not [*part.children()] for part in node.candidates[slot.choices[k]].modules())
        chosen = max(strategy.computed(slot), key=lambda choices: sum(layers[k] for k in choices))
        rows.append([1 / len(chosen) if k in chosen else 0.0 for k in range(len(slot.choices))])
    return rows


def activation_bytes(
    net: Supernet, mixture: list[list[float]], task: Task, shape: tuple[int, ...], batch: int
) -> float:
    """Bytes that a pass over ``batch`` images of ``shape`` (C, H, W) keeps for the backward pass.

    Measured on two images and on four: a part grows with the batch, another (products of weights) does not. The
    weights of the mixture get gradients, as in a search; the supernet is left set to another mixture.
    """
    rows = [[torch.tensor(w, requires_grad=True) if w else 0.0 for w in row] for row in mixture]
    net.set_mixture(rows)
    train_mode(net)
    few, more = (_kept(net, task, shape, images) for images in _IMAGES)
    net.set_mixture(mixture)
    by_image = (more - few) / (_IMAGES[1] - _IMAGES[0])
    return few + by_image * (batch - _IMAGES[0])


def _kept(net: Supernet, task: Task, shape: tuple[int, ...], images: int) -> int:
    """Bytes that are kept of one pass, other than the supernet's own tensors."""
    kept: dict[int, int] = {}
    known = {tensor.untyped_storage().data_ptr() for tensor in (*net.parameters(), *net.buffers())}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor  # held by the graph, so that no later tensor gets its place

    device = next(net.parameters()).device
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = task.precision.train(net, torch.rand(images, *shape, device=device))
    del outputs
    return sum(kept.values())


def weight_bytes(net: nn.Module) -> int:
    """Bytes of the parameters with their gradients and one moment of the optimizer."""
    return 3 * sum(parameter.nbytes for parameter in net.parameters())
