"""Check that the weights of a network have finite values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from narfx.errors import UsageError

__all__ = ["check_finite", "check_values"]


def check_finite(network: nn.Module) -> None:
    """Check that weights contain no NaN or Inf.

    Inf is wrong in a parameter and in the statistics of a norm; in another buffer it may be part of a mask.

    Raises:
        UsageError: A weight is not finite (``kind="weights_not_finite"``); ``where`` is the first one.
    """
    for path, module in network.named_modules():
        held = isinstance(module, nn.modules.batchnorm._NormBase)
        for own, infinite in ((module._parameters, False), (module._buffers, not held)):
            for name, tensor in own.items():
                if tensor is not None and tensor.is_floating_point() and not _numbers(tensor, infinite):
                    key = f"{path}.{name}" if path else name
                    raise UsageError(
                        f"{key} contains NaN or Inf; narfx needs finite weights (try an earlier checkpoint)",
                        where=key,
                        kind="weights_not_finite",
                    )


def _numbers(tensor: Tensor, infinite: bool) -> bool:
    """Whether no value is NaN (or infinite, unless ``infinite`` allows that); true for a tensor without values."""
    if tensor.is_meta or not tensor.numel():
        return True
    if math.isfinite(float(tensor.detach().sum())):  # of finite values it is infinite only where they are huge
        return True
    wrong = torch.isnan(tensor) if infinite else ~torch.isfinite(tensor)
    return not bool(wrong.any())


def check_values(network: nn.Module) -> None:
    """Check that no weight is on the meta device.

    A network on the meta device can be traced and lowered, but not run, trained or written.

    Raises:
        UsageError: A weight is on the meta device (``kind="weights_on_meta"``); ``where`` is the first one.
    """
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_meta:
            raise UsageError(
                f"{name} is on the meta device, where tensors have no values, so the network can only be traced: "
                "build the model on the CPU, without torch.device('meta')",
                where=name,
                kind="weights_on_meta",
            )
