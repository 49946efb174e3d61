"""Whether a network's weights are numbers that can be computed with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from narfx.errors import UsageError

__all__ = ["check_finite", "check_values"]


def check_finite(network: nn.Module) -> None:
    """Raise ``UsageError`` (``kind="weights_not_finite"``) that names the first weights with NaN or infinite values.

    An infinity is wrong in a parameter and in the statistics of a norm; in another buffer it may be a mask's.
    """
    for path, module in network.named_modules():
        held = isinstance(module, nn.modules.batchnorm._NormBase)
        for own, infinite in ((module._parameters, False), (module._buffers, not held)):
            for name, tensor in own.items():
                if tensor is not None and tensor.is_floating_point() and not _numbers(tensor, infinite):
                    key = f"{path}.{name}" if path else name
                    raise UsageError(
                        f"{key} holds NaN or infinite values, of which nothing can be proven: give the model weights "
                        "without them, as those of an earlier checkpoint",
                        where=key,
                        kind="weights_not_finite",
                    )


def _numbers(tensor: Tensor, infinite: bool) -> bool:
    """Whether no value is NaN, or infinite unless that is allowed; a tensor without values has none."""
    if tensor.is_meta or not tensor.numel():
        return True
    wrong = torch.isnan(tensor) if infinite else ~torch.isfinite(tensor)
    return not bool(wrong.any())


def check_values(network: nn.Module) -> None:
    """Raise ``UsageError`` (``kind="weights_on_meta"``) where a weight lies on the meta device.

    Such a network can be traced and lowered, but not computed, trained or written.
    """
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_meta:
            raise UsageError(
                f"{name} lies on the meta device, where a tensor has a shape and no values, which is enough for a "
                "trace alone: build the model on the CPU, without torch.device('meta')",
                where=name,
                kind="weights_on_meta",
            )
