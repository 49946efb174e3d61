"""What a mixture costs over its candidates alone: forward and backward at a site, all candidates with weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from narfx.compiler.front_end import trace
from narfx.compiler.supernet import Supernet
from narfx.inputs.model_ref import load_model
from narfx.space.records import Site

__all__ = ["MIXED", "QUICK_MIXED", "Place", "mixture_calls"]

Shape = tuple[int, int, int]
Place = tuple[str, Shape, int]
"""A network, the shape of its images, and the slot whose first site is measured."""

MIXED: dict[str, Place] = {
    "an edge of DARTS's cells, 8 operators, 16 channels, 32x32": (
        "narfx:darts_search?cells=3&channels=16",
        (3, 32, 32),
        0,
    ),
    "a site of narfx:resnet20, 4 operators, 16 channels, 32x32": ("narfx:resnet20", (3, 32, 32), 0),
    "a site of narfx:resnet18_cifar, 4 operators, 64 channels, 32x32": ("narfx:resnet18_cifar", (3, 32, 32), 0),
    "the last site of narfx:resnet18_cifar, 4 operators, 512 channels, 4x4": (
        "narfx:resnet18_cifar",
        (3, 32, 32),
        -1,
    ),
}
QUICK_MIXED: dict[str, Place] = {"ResNet-8, 4 operators": ("narfx:resnet8", (3, 32, 32), 0)}


def mixture_calls(place: Place, batch: int = 16) -> tuple[list[Callable[[], object]], Callable[[], object]]:
    """Forward and backward of each candidate at a place alone, and of their mixture."""
    model, shape, index = place
    net = Supernet(trace(load_model(model, seed=0), input=shape)).train().to(memory_format=torch.channels_last)
    index %= len(net.space.slots)
    (node, *_) = net.dispatches([index])
    slot = net.space.slots[index]
    site = slot.sites[0]
    sizes = site.input_shape if isinstance(site, Site) else site.input_shapes[0]
    x = torch.randn(batch, *sizes, generator=torch.Generator().manual_seed(0))
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    names = [slot.choices[k] for k in slot.legal]
    weights = torch.full((len(names),), 1 / len(names), requires_grad=True)

    def step(selected: list[str], mixed: bool) -> Callable[[], object]:
        def call() -> object:
            node.zero_grad(set_to_none=True)
            x.grad = weights.grad = None
            node.select(*selected, weights=[*weights] if mixed else None)
            output = node(x)
            if output.requires_grad:
                output.backward(gradient)
            return output

        return call

    gradient: Tensor = torch.ones_like(node(x))
    return [step([name], False) for name in names], step(names, True)
