"""New random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize

from narfx.passes.lift_functional import FunctionalConv, read_functional
from narfx.support.seeds import derive

__all__ = ["kept", "random_start", "reinitialise"]


def random_start(first: int, seeds: int = 1) -> str:
    """What networks start from that begin at random with so many seeds from the ``first`` on, in words."""
    return f"random, seed {first}" if seeds == 1 else f"random, seeds {first} to {first + seeds - 1}"


def reinitialise(module: nn.Module, seed: int) -> list[str]:
    """Draw new weights in place: He-normal for convolutions, each other layer by its own ``reset_parameters``.

    Returns:
        The names of parameters that no rule covers; they keep their values.
    """
    left: list[str] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(derive(seed, "initialise"))
        functional = _functional_weights(module)
        for name, part in module.named_modules():
            if isinstance(part, nn.modules.conv._ConvNd):
                if parametrize.is_parametrized(part, "weight"):
                    fresh = nn.init.kaiming_normal_(torch.empty_like(part.weight), nonlinearity="relu")
                    part.weight = fresh  # by the inverse of its parametrization
                elif "weight" not in part._parameters:
                    left += [f"{name}.{key}".lstrip(".") for key in part._parameters]
                    continue
                else:
                    part.reset_parameters()
                    nn.init.kaiming_normal_(part.weight, nonlinearity="relu")  # fan-in mode, which counts groups
            elif callable(reset := getattr(part, "reset_parameters", None)):
                reset()
            else:
                paths = {f"{name}.{key}".lstrip("."): value for key, value in part._parameters.items()}
                for path, parameter in paths.items():
                    if parameter is None or path.rpartition(".")[0].endswith("parametrizations.weight"):
                        continue
                    if path in functional:
                        functional[path](parameter)
                    else:
                        left.append(path)
    return left


def _functional_weights(module: nn.Module) -> dict[str, Callable[[Tensor], object]]:
    """How to draw the parameters that a graph passes to functional convolutions, by their paths."""
    if not isinstance(module, GraphModule):
        module = getattr(module, "graph_module", module)
    found: dict[str, Callable[[Tensor], object]] = {}
    for conv in read_functional(module).values() if isinstance(module, GraphModule) else ():
        if isinstance(conv, FunctionalConv):
            found[conv.weight] = partial(nn.init.kaiming_normal_, nonlinearity="relu")
            if conv.bias is not None:
                found[conv.bias] = nn.init.zeros_
    return found


def kept(left: Sequence[str]) -> list[str]:
    """The note on parameters that ``reinitialise`` did not change; no note where there are none."""
    shown = ", ".join(left[:4]) + (", ..." if len(left) > 4 else "")
    return [f"not re-initialised (no rule for these parameters): {shown}"] if left else []
