"""Random BatchNorm statistics, with which a file shows whether its norms were fused rightly into other layers."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from narfx.graph.copying import copy_module

__all__ = ["random_norms"]

M = TypeVar("M", bound=nn.Module)
_Norm = nn.modules.batchnorm._BatchNorm


def random_norms(network: M, images: Tensor, seed: int = 0) -> tuple[M, list[dict[str, Tensor]]]:
    """A copy in eval mode with random BatchNorm affines and statistics, and the changed tensors.

    All other parameters are the network's own.

    Fresh statistics (mean 0, variance 1) would hide a wrong fusion. The mean and the variance of each channel are
    drawn around those of all values that the norm gets for ``images``, so every norm returns values of order 1.

    Args:
        network: The network, on the CPU.
        images: (N, C, H, W).
        seed: Seed of the random numbers.

    Returns:
        The copy, and one dictionary for each changed tensor: the same values under each of its state-dict keys.
    """
    own = {id(value) for part in network.modules() if isinstance(part, _Norm) for value in part.parameters()}
    changed = copy_module(network, {id(p): p for p in network.parameters() if id(p) not in own}).eval()
    generator = torch.Generator().manual_seed(seed)
    known: dict[int, Tensor] = {}

    def draw(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(norm, _Norm)
        if norm.running_mean is None or norm.running_var is None or id(norm.running_mean) in known:
            return
        values = args[0] if args else kwargs["input"]
        spread = float(values.std()) if values.numel() > 1 else 0.0
        spread = spread if 0 < spread < float("inf") else 1.0
        centre = float(values.mean().nan_to_num())
        norm.running_mean.normal_(centre, spread / 2, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator).mul_(spread**2)
        tensors = [norm.running_mean, norm.running_var]
        if norm.affine:
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.5, generator=generator)
            tensors += [norm.weight, norm.bias]
        known.update({id(tensor): tensor for tensor in tensors})

    norms = [part for part in changed.modules() if isinstance(part, _Norm)]
    hooks = [norm.register_forward_pre_hook(draw, with_kwargs=True) for norm in norms]
    with torch.no_grad():
        changed(images.clone())
    for hook in hooks:
        hook.remove()
    state = changed.state_dict(keep_vars=True)
    return changed, [{key: value.detach() for key, value in state.items() if value is known[i]} for i in known]
