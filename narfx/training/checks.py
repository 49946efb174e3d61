"""Checks of a network before its training."""

from __future__ import annotations

import torch
from torch import nn

from narfx.errors import UsageError
from narfx.graph.batchnorm import batch_statistics
from narfx.graph.time_limit import model_time

__all__ = ["check_batches", "outputs"]


@model_time()
def outputs(network: nn.Module, shape: tuple[int, int, int], device: torch.device) -> int:
    """The number of logits of a classifier, or the length of an embedding, from one forward pass in eval mode.

    Raises:
        UsageError: The network is not float32, or does not give one tensor of two axes.
    """
    kinds = {str(p.dtype) for p in network.parameters() if p.dtype != torch.float32}
    if kinds:
        raise UsageError(
            f"the model's weights are {', '.join(sorted(kinds))}, but narfx trains in float32: use model.float()",
            kind="dtype",
        )
    network.eval()
    with torch.inference_mode():
        output = network(torch.zeros(1, *shape, device=device))
    if not isinstance(output, torch.Tensor) or output.dim() != 2:
        raise UsageError(
            "the task needs a network with one output of shape (N, classes) or (N, embedding), not "
            + (f"{tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__),
            kind="outputs",
        )
    return int(output.shape[1])


def check_batches(network: nn.Module, shape: tuple[int, int, int], device: torch.device, *sizes: int) -> None:
    """Raise ``UsageError`` if a batch of one of these sizes is too small for the network's BatchNorm."""
    for size in sizes:
        try:
            with torch.no_grad(), batch_statistics(network):
                network(torch.zeros(size, *shape, device=device))
        except ValueError as error:
            raise UsageError(
                f"batches of {size} are too small for this network at {'x'.join(map(str, shape))} ({error}): use "
                "larger batches or images",
                where="--batch-size",
                kind="batch_size",
            ) from error
