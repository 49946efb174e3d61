"""What a step of a search costs over a loop written by hand for the same operators, both in channels-last."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from narfx.compiler.front_end import trace
from narfx.compiler.supernet import Supernet
from narfx.inputs.model_ref import load_model
from narfx.space.sampling import FeasibleSampler
from narfx.support.seeds import numpy_generator
from narfx.training.fit import train_step
from narfx.training.method import sgd
from narfx.training.recipe import Recipe

__all__ = ["QUICK_STEPPED", "STEPPED", "step_calls"]

Shape = tuple[int, int, int]
STEPPED: dict[str, Shape] = {"narfx:resnet20": (3, 32, 32), "torchvision:resnet18": (3, 32, 32)}
QUICK_STEPPED: dict[str, Shape] = {"narfx:resnet8": (3, 32, 32)}
_CLIP = 5.0


class _Switch(nn.Module):
    """The operators of one site, as a user would write it."""

    def __init__(self, operators: Iterable[nn.Module]) -> None:
        super().__init__()
        self.operators = nn.ModuleList(operators)
        self.index = 0

    def forward(self, x: Tensor) -> Tensor:
        chosen: Tensor = self.operators[self.index](x)
        return chosen


def step_calls(model: str, shape: Shape, batch: int = 64) -> tuple[Callable[[], object], Callable[[], object]]:
    """A step of a loop by hand, and the search's own: another vector each time, the same ones in both."""
    plain = load_model(model, seed=0)
    net = Supernet(trace(plain, input=shape))
    names = [slot.choices for slot in net.space.slots]
    switches = [
        _Switch(copy.deepcopy(node.candidates[name]) for name in names[index])
        for index in range(len(names))
        for node in net.dispatches([index])
    ]
    for slot, switch in zip(net.space.slots, switches, strict=True):
        (site,) = slot.sites
        plain.set_submodule(site.target, switch)
    sampler, rng = FeasibleSampler(net.space), numpy_generator(0, "bench")
    vectors = [sampler.draw(rng) for _ in range(16)]
    images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))
    x, y = images.contiguous(memory_format=torch.channels_last), torch.arange(batch) % 10

    def prepared(module: nn.Module) -> torch.optim.Optimizer:
        module.train().to(memory_format=torch.channels_last)
        return sgd(module, Recipe(lr=1e-4))

    by_hand, own = prepared(plain), prepared(net)
    hands, turns = itertools.cycle(vectors), itertools.cycle(vectors)
    parameters = list(plain.parameters())

    def hand() -> float:
        for switch, entry in zip(switches, next(hands), strict=True):
            switch.index = entry
        by_hand.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(plain(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], _CLIP)
        by_hand.step()
        return float(loss.detach())

    def objective(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(module(images), labels)

    def search() -> float:
        net.set_vector(next(turns))
        return train_step(net, own, objective, x, y, _CLIP)

    return hand, search
