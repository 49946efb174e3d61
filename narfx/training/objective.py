"""What a training minimises."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

__all__ = ["Objective"]


class Objective(Protocol):
    """The training loss of a network on one batch; :meth:`narfx.tasks.task.Task.objective` is the usual one.

    A loss that needs more than outputs and labels, such as distillation (Hinton et al., arXiv 1503.02531), is another
    one. It runs the network itself, once, by :meth:`narfx.tasks.precision.Precision.train`, so that ``--precision``
    and ``--channels-last`` hold, and it may run other networks on the same images.
    """

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, /) -> Tensor:
        """The loss, a scalar with a gradient.

        Args:
            network: In training mode, on the device of the images.
            images: (B, C, H, W), normalised and augmented: what the network sees.
            labels: (B,), integers.
        """
        ...
