"""Number format and memory layout of forward passes; weights, losses and statistics stay float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from narfx.errors import UsageError
from narfx.support.devices import bf16_instructions

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

    @property
    def notes(self) -> tuple[str, ...]:
        """A warning where the processor has no instructions for bfloat16: the results are right, but slow."""
        if self.name == "fp32" or self.device_type != "cpu" or bf16_instructions():
            return ()
        return (
            "warning: this processor has no instructions for bfloat16 (AMX or AVX512-BF16), so --precision bf16 is "
            "slower here than fp32: leave it out",
        )

    @property
    def exact(self) -> Precision:
        """The same in float32: for accuracies that people compare, as the network that is exported is float32."""
        return replace(self, name="fp32")

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The context in which forward passes run."""
        rounds = self.name == "bf16"
        learns = rounds and self.device_type == "cpu" and not torch.is_inference_mode_enabled()
        exceptions = _SlowInBfloat16() if learns else nullcontext()
        with torch.autocast(self.device_type, torch.bfloat16, enabled=rounds), exceptions:
            yield

    def arrange(self, module: nn.Module) -> None:
        """Order the kernels of a module in place; what it computes stays the same but for rounding.

        On a CPU a strided 1x1 convolution of fewer than 16 channels keeps the usual order, kernel and input (a hook
        sees to the input): its backward pass in channels-last writes outside its memory (torch 2.14.1, AVX-512).
        """
        if not self.channels_last:
            return
        module.to(memory_format=torch.channels_last)  # a third faster on CPUs, faster on GPUs too
        for part in module.modules():
            if self.device_type == "cpu" and isinstance(part, nn.Conv2d) and _crashes(part):
                for kernel in part.parameters():  # `contiguous` would not change the strides of a 1x1 kernel
                    kernel.data = torch.empty_like(kernel, memory_format=torch.contiguous_format).copy_(kernel.data)
                if not _hooks(part):
                    part.register_forward_pre_hook(_contiguous)

    @staticmethod
    def release(module: nn.Module) -> None:
        """Remove the hooks that ``arrange`` set, at the end of a training."""
        for part in module.modules():
            for key in _hooks(part):
                del part._forward_pre_hooks[key]

    def train(self, module: nn.Module, images: Tensor) -> Tensor:
        """The float32 outputs of a module in training for images (N, C, H, W)."""
        return self.apply(
            module, images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
        )

    def apply(self, module: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """The float32 outputs of a module for images (N, C, H, W), whose memory layout is kept."""
        with self.autocast():
            output = module(images)
        return output.float() if self.name == "bf16" else output


class _SlowInBfloat16(TorchFunctionMode):
    """Computes in float32 the depthwise convolutions for whose backward pass oneDNN has no kernel in bfloat16.

    These are all but 3x3 ones of stride 1: in bfloat16 their backward pass takes four to twelve times as long (torch
    2.14.1, with AMX). Forward passes without gradients keep bfloat16.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        kwargs = kwargs or {}
        if func is not torch.conv2d or not torch.is_grad_enabled() or not _is_slow(*args, **kwargs):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_float32, args), **{key: _float32(value) for key, value in kwargs.items()})


def _is_slow(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> bool:  # fmt: skip
    """Whether a convolution with these arguments is depthwise, and not of size 3x3 and stride 1."""
    if not weight.shape[0] == groups > 1 or weight.shape[1] != 1:
        return False
    plain = {(1, 1), (1,), 1}
    return weight.shape[2:] != (3, 3) or not {_hashable(stride), _hashable(dilation)} <= plain


def _hashable(value: Any) -> Any:
    return value if isinstance(value, int) else tuple(value)


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def _crashes(conv: nn.Conv2d) -> bool:
    """Whether oneDNN's backward pass in channels-last may corrupt memory, as it does from 12x112x112 on.

    Where it does not, its gradients are those of the usual order, bit for bit (tried from 8x8 to 56x56).
    """
    return tuple(conv.kernel_size) == (1, 1) and max(conv.stride) > 1 and conv.in_channels < 16


def _contiguous(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in inputs)


def _hooks(module: nn.Module) -> list[int]:
    return [key for key, hook in module._forward_pre_hooks.items() if hook is _contiguous]
