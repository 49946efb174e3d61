"""Number format and memory layout of forward passes; weights, losses and statistics stay float32."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from narfx.errors import UsageError

__all__ = ["Precision", "PrecisionName"]

PrecisionName = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Precision:
    """Number format and memory layout of forward passes on a kind of device.

    ``name`` is ``fp32``, or ``bf16``: convolutions and matrix products by torch's autocast in bfloat16, which has
    the range of float32 and so needs no scaling of the loss. ``channels_last`` stores images and kernels with the
    channels of a pixel side by side.

    Raises:
        UsageError: The device does not compute in bfloat16.
    """

    name: PrecisionName = "fp32"
    channels_last: bool = True
    device_type: str = "cpu"

    def __post_init__(self) -> None:
        if self.name == "fp32":
            return
        known = self.device_type == "cpu" or (self.device_type == "cuda" and torch.cuda.is_bf16_supported(False))
        if not known:
            raise UsageError(
                f"this {self.device_type} device does not compute in bfloat16: leave out --precision bf16",
                where="--precision",
                kind="precision",
            )

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which forward passes run."""
        return torch.autocast(self.device_type, torch.bfloat16, enabled=self.name == "bf16")

    def arrange(self, module: nn.Module) -> None:
        """Set the memory layout of a module's kernels in place; its outputs change by rounding only."""
        if self.channels_last:
            module.to(memory_format=torch.channels_last)  # a third faster on CPUs, faster on GPUs too

    def train(self, module: nn.Module, images: Tensor) -> Tensor:
        """The float32 outputs of a module in training for images (N, C, H, W)."""
        return self.apply(
            module, images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
        )

    def apply(self, module: nn.Module, images: Tensor) -> Tensor:
        """The float32 outputs of a module for images (N, C, H, W), whose memory layout is kept."""
        with self.autocast():
            output: Tensor = module(images)
        return output.float() if self.name == "bf16" else output
