"""BatchNorm statistics of the sub-network that is evaluated.

Sub-networks that share weights produce different distributions, so running averages kept during a search are right for
none of them. A quick reward uses the statistics of its own batch (as in TDeVries' ENAS and in LANA). A final evaluation
recalibrates: it averages the statistics over training images, and the lowered network keeps that result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from narfx.graph.frozen import is_frozen

__all__ = ["batch_statistics", "recalibrate", "tracking_norms"]

_Norm = nn.modules.batchnorm._BatchNorm


def _norms(module: nn.Module, *, frozen: bool = False) -> list[_Norm]:
    return [part for part in module.modules() if isinstance(part, _Norm) and (frozen or not is_frozen(part))]


def tracking_norms(module: nn.Module, *, frozen: bool = False) -> list[_Norm]:
    """The BatchNorms whose statistics :func:`recalibrate` replaces."""
    return [norm for norm in _norms(module, frozen=frozen) if norm.track_running_stats]


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Eval mode in which every BatchNorm uses the statistics of its batch and does not store them.

    BatchNorms that the model freezes use their stored statistics, as in training.
    """
    modes = {part: part.training for part in module.modules()}
    tracking = {norm: norm.track_running_stats for norm in _norms(module)}
    module.eval()
    try:
        for norm in tracking:
            # In training mode without tracking torch neither reads nor writes the running averages.
            norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for norm, tracked in tracking.items():
            norm.track_running_stats = tracked
        for part, mode in modes.items():
            part.training = mode


def recalibrate(module: nn.Module, batches: Iterable[Tensor], *, frozen: bool = False) -> None:
    """Replace the running statistics by the plain average over ``batches``, each (N, C, H, W), normalised.

    BatchNorms that the forward pass does not reach (in operators that are not selected) keep their statistics.
    Everything except BatchNorm runs in eval mode; modes are restored afterwards. BatchNorms that the model freezes are
    not changed, unless ``frozen`` says otherwise.
    """
    modes = {part: part.training for part in module.modules()}
    norms = tracking_norms(module, frozen=frozen)
    momenta = {norm: norm.momentum for norm in norms}
    kept = {norm: [buffer.clone() for buffer in norm.buffers(recurse=False)] for norm in norms}
    module.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.training, norm.momentum = True, None  # no momentum: a cumulative average
        with torch.no_grad():
            for batch in batches:
                module(batch)
    finally:
        for norm in norms:
            norm.momentum = momenta[norm]
            if norm.num_batches_tracked is not None and not norm.num_batches_tracked.item():
                for buffer, old in zip(norm.buffers(recurse=False), kept[norm], strict=True):
                    buffer.copy_(old)
        for part, mode in modes.items():
            part.training = mode
