"""Distillation of the operators from the base's own features, all sites behind one forward pass of the base.

LANA (Molchanov et al., arXiv 2107.10624, section 3.1) and Puzzle (Bercovich et al., arXiv 2411.19146, section 3.1):
each operator learns by itself to give what the base's convolution gives for the same input. No gradient passes from
one site to another, so that the problems are small, and as many as there are operators.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from narfx.compiler.features import Visit
from narfx.compiler.supernet import Supernet
from narfx.errors import UsageError
from narfx.runs.events import Distilled
from narfx.search.config import Compared
from narfx.search.shared_weights import SharedWeights
from narfx.space.records import Slot
from narfx.space.space import SearchSpace
from narfx.support.seeds import numpy_generator

__all__ = ["Distil", "feature_error"]

_LEAST_RATE = 0.01
_FLOOR = 1e-2


@dataclass(frozen=True)
class Distil:
    """So many passes over the training images, in which operators learn the base's features by Adam.

    The base computes in eval mode and does not change. The learning rate falls from ``rate`` to a hundredth of it, by
    a cosine over all passes; Adam's moments begin anew with each pass, so that a pass depends on the weights alone.
    ``compare`` is what :func:`feature_error` compares.
    """

    epochs: int
    rate: float = 2e-3
    compare: Compared = "output"
    mixed: int = 0
    label: ClassVar[str] = "operators from the base's features"

    def train(self, epoch: int, own: int, space: SearchSpace, shared: SharedWeights) -> Distilled:
        """One pass; a batch that gives NaN in an operator is left out for this operator, and counted.

        Raises:
            UsageError: The base is not legal in the space, or its slots offer nothing to teach.
        """
        net, task = shared.net, shared.task
        lessons = _Lessons(net, space, self.compare)
        optimizer = torch.optim.Adam(lessons.parameters(), lr=self.rate)
        steps = task.steps_per_epoch
        batches = shared.epoch(epoch).batches
        label = f"epoch {epoch + 1}: {self.label}"
        rng = numpy_generator(shared.seed, "distil", epoch)
        with net.visits(lessons.slots, lessons):
            for step, (images, _) in enumerate(shared.reporter.track(batches, steps, label)):
                rate = self._rate((own + step / steps) / self.epochs)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
                net.set_vector(space.base)
                lessons.set_modes(net)
                lessons.begin(mixed := own >= self.epochs - self.mixed)
                with torch.no_grad():
                    task.precision.train(net, images)
                    if mixed:
                        lessons.mix(net, rng)
                        task.precision.train(net, images)
                lessons.judge()
                optimizer.step()
        for name, left in lessons.left_out.items():
            shared.reporter.say(f"warning: {name} gave NaN for {left} of {steps} batches, from which it learnt nothing")
        return Distilled(
            epoch=epoch + 1,
            loss=lessons.mean,
            lr=optimizer.param_groups[0]["lr"],
            errors=lessons.errors(),
            left_out=lessons.left_out or None,
        )

    def _rate(self, time: float) -> float:
        return self.rate * (_LEAST_RATE + (1 - _LEAST_RATE) * (1 + math.cos(math.pi * time)) / 2)


def feature_error(output: Tensor, wanted: Tensor, compare: Compared = "output") -> Tensor:
    """The error of an operator's output against the base's, each (N, C, H, W): a scalar, 1 for a constant output.

    ``output``: the mean squared error of each channel over the variance of the base's output in it, averaged over the
    channels; a channel whose variance is less than a hundredth of the mean variance counts by that hundredth.
    ``standardised``: both outputs are standardised in each channel first, as a BatchNorm with statistics of its own
    does, so that scale and shift do not count; the error is then 2 - 2r for a channel of correlation r.
    """
    output, wanted = output.float(), wanted.float()
    axes = tuple(axis for axis in range(wanted.dim()) if axis != 1)
    variance = wanted.var(axes, correction=0, keepdim=True)
    floor = _FLOOR * variance.mean() + torch.finfo(wanted.dtype).tiny
    if compare == "output":
        return ((output - wanted).square() / variance.clamp(min=floor)).mean()
    own = output.var(axes, correction=0, keepdim=True)
    ours = (output - output.mean(axes, keepdim=True)) * own.clamp(min=1e-12).rsqrt()
    theirs = (wanted - wanted.mean(axes, keepdim=True)) * variance.clamp(min=floor).rsqrt()
    return (ours - theirs).square().mean()


class _Lessons:
    """The visitor of a pass: it lets each operator learn at the moment when the base reaches its site.

    So the features of one site are all that is kept, and for as long as its operators need them.
    """

    def __init__(self, net: Supernet, space: SearchSpace, compare: Compared) -> None:
        self._compare = compare
        self._names = {index: _taught(slot) for index, slot in enumerate(space.slots) if slot.sites}
        self.slots = [index for index, names in self._names.items() if names]
        illegal = next((slot.name for slot in space.slots if 0 not in slot.legal), None)
        if illegal is not None or not self.slots:
            cause = "there is no operator to teach" if illegal is None else f"{illegal} has no base to learn from"
            raise UsageError(f"operators cannot be distilled: {cause}", where="--prepare", kind="nothing_to_distil")
        self._modules: dict[tuple[str, str], nn.Module] = {}
        for node in net.dispatches(self.slots):
            for name in self._names[node.slot]:
                self._modules[node.site, name] = node.candidates[name]
        self._losses: list[tuple[tuple[str, str], Tensor]] = []
        self._sums = dict.fromkeys(self._modules, 0.0)
        self._counts = dict.fromkeys(self._modules, 0)
        self.left_out: dict[str, int] = {}

    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all operators that learn."""
        found = [p for module in self._modules.values() for p in module.parameters() if p.requires_grad]
        if not found:
            raise UsageError(
                "operators cannot be distilled: none of them has weights", where="--prepare", kind="nothing_to_distil"
            )
        return found

    def set_modes(self, net: Supernet) -> None:
        """The base in eval mode, what learns in training mode."""
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.track_running_stats = True
        net.eval()
        for module in self._modules.values():
            module.train()

    def begin(self, mixed):
        self._targets = {} if mixed else None
        self._phase = "base"

    def mix(self, net, rng):
        self._phase = "mixed"
        self._calls = {}
        v = tuple(
            0 if (len(s.legal) < 2 or rng.random() < 0.5) else int(rng.choice([k for k in s.legal if k]))
            for s in net.space.slots
        )
        net.set_vector(v)
        net.eval()
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.training, m.track_running_stats = True, False
        for m in self._modules.values():
            m.train()

    def __call__(self, visit: Visit) -> None:
        """Add the gradients of one visit to the parameters of its operators."""
        wanted = visit.output
        if self._targets is not None:
            if self._phase == "base":
                self._targets.setdefault(visit.node.site, []).append(visit.output.clone())
                return
            n = self._calls.get(visit.node.site, 0)
            self._calls[visit.node.site] = n + 1
            wanted = self._targets[visit.node.site][n]
        for name in self._names[visit.node.slot]:
            with torch.enable_grad():
                output = visit.node.compute(name, visit.input.clone())
                error = feature_error(output, wanted, self._compare)
            if error.requires_grad:
                error.backward()  # type: ignore[no-untyped-call]
            self._losses.append(((visit.node.site, name), error.detach()))

    def judge(self) -> None:
        """Take in the errors of one batch; an operator that gave NaN, or a gradient of it, does not learn from it."""
        keys = [key for key, _ in self._losses]
        values = torch.stack([loss for _, loss in self._losses]).tolist()  # read at once: each reading waits
        wrong = {key for key, value in zip(keys, values, strict=True) if not math.isfinite(value)}
        wrong |= self._without_gradient()
        for key, value in zip(keys, values, strict=True):
            if key not in wrong:
                self._sums[key] += value
                self._counts[key] += 1
        for site, name in sorted(wrong):
            self.left_out[f"{name} at {site}"] = self.left_out.get(f"{name} at {site}", 0) + 1
            for parameter in self._modules[site, name].parameters():
                parameter.grad = None
        self._losses.clear()

    def _without_gradient(self) -> set[tuple[str, str]]:
        """The operators whose gradient is not finite."""
        owners = [(key, p.grad) for key, m in self._modules.items() for p in m.parameters() if p.grad is not None]
        if not owners:
            return set()
        norms = torch.stack(torch._foreach_norm([gradient for _, gradient in owners]))
        finite = torch.isfinite(norms).tolist()
        return {key for (key, _), good in zip(owners, finite, strict=True) if not good}

    def errors(self) -> dict[str, dict[str, float | None]]:
        """The mean error of each operator, by site and name; ``None`` for one that gave nothing but NaN."""
        found: dict[str, dict[str, float | None]] = {}
        for (site, name), total in self._sums.items():
            number = self._counts[site, name]
            found.setdefault(site, {})[name] = total / number if number else None
        return found

    @property
    def mean(self) -> float:
        """The mean over all operators that gave numbers."""
        means = [self._sums[key] / number for key, number in self._counts.items() if number]
        return sum(means) / len(means) if means else math.nan


def _taught(slot: Slot) -> tuple[str, ...]:
    """The choices of a slot that learn: the legal ones but the base."""
    return tuple(slot.choices[k] for k in slot.legal if k)
