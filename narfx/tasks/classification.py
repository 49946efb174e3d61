"""Classification of images: the loss is the cross-entropy, the metric and the reward are the accuracy."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from narfx.errors import UsageError
from narfx.support.text import count
from narfx.tasks.task import Task

__all__ = ["Classification"]


class Classification(Task):
    """Classification by the outputs of a network; arguments as for :class:`narfx.tasks.task.Task`."""

    metric = "accuracy"

    def check(self, outputs: int) -> None:
        """Refuse a network with fewer outputs than classes.

        Raises:
            UsageError: It has too few outputs.
        """
        classes = len(self.data.classes)
        if outputs < classes:
            raise UsageError(
                f"the network has {count(outputs, 'output')}, but {self.data.name} has "
                f"{count(classes, 'class', 'classes')}: build the model with "
                f"at least {count(classes, 'output')}",
                where=self.data.name,
                kind="too_few_outputs",
            )

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The mean cross-entropy of logits (B, outputs) and labels (B,)."""
        return functional.cross_entropy(outputs, target, label_smoothing=self.label_smoothing)

    def logits(self, outputs: Tensor) -> Tensor:
        """The outputs themselves."""
        return outputs

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """The Kullback-Leibler divergence from the reference's distribution over the outputs, in nats."""
        return _divergence(outputs, reference)

    def imitation(self, outputs: Tensor, reference: Tensor, temperature: float) -> Tensor:
        """The divergence of softened distributions, times the squared temperature (Hinton et al., arXiv 1503.02531)."""
        return _divergence(outputs / temperature, reference / temperature).mean() * temperature**2


def _divergence(outputs: Tensor, reference: Tensor) -> Tensor:
    ours, theirs = functional.log_softmax(outputs, 1), functional.log_softmax(reference, 1)
    return functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
