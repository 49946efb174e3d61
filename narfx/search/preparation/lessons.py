"""What the operators of a supernet learn at their sites: errors, gradients, and what gave NaN."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from narfx.compiler.features import Visit
from narfx.compiler.supernet import Supernet
from narfx.errors import UsageError
from narfx.graph.batchnorm import batch_statistics
from narfx.search.config import Compared
from narfx.space.space import SearchSpace
from narfx.support.collectives import gather
from narfx.support.ranks import Ranks

__all__ = ["Lessons", "Wanted"]

_AXES = (0, 2, 3)
_FLOOR = 1e-2


class Wanted:
    """What the base gives at a site, (N, C, H, W), and how far an operator's output is from it.

    ``output``: the mean squared error of each channel over the variance of the base's output in it, averaged over the
    channels; 1 for an operator that gives each channel's mean. A channel whose variance is less than a hundredth of
    the mean variance counts by that hundredth (Puzzle, arXiv 2411.19146, has one denominator for all channels).
    ``standardised``: both outputs are standardised in each channel first, as a BatchNorm with statistics of its own
    does, so that scale and shift do not count; the error of a channel of correlation r is 2 - 2r.

    Errors come with their gradients, written out: autograd would take three times as many passes over the features.
    """

    def __init__(self, wanted: Tensor, compare: Compared = "standardised") -> None:
        wanted = wanted.float()
        centred, variance = _centred(wanted)
        floor = _FLOOR * variance.mean() + torch.finfo(wanted.dtype).tiny
        self._standardised, self._share = compare == "standardised", wanted.numel()
        self._scale = variance.clamp(min=floor).rsqrt()
        self._wanted = centred.mul_(self._scale) if self._standardised else wanted
        self._own = (variance * self._scale.square()).mean()  # 1 but for channels below the floor

    def error(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The error of an output of the same shape, a scalar, and its gradient."""
        output = output.float()
        if not self._standardised:
            apart = (output - self._wanted).mul_(self._scale)
            error = apart.square().mean()
            return error, apart.mul_(self._scale).mul_(2 / self._share)
        ours, variance = _centred(output)
        scale = variance.clamp(min=1e-12).rsqrt()
        ours.mul_(scale)
        correlation = (ours * self._wanted).mean(_AXES, keepdim=True)
        error = (variance * scale.square()).mean() + self._own - 2 * correlation.mean()
        # A channel that is constant has no direction in which to become a better one.
        gradient = torch.addcmul(self._wanted, ours, correlation, value=-1).mul_(-2 / self._share * scale)
        return error, gradient


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """X less its mean in each channel, and its variance; two plain passes are faster than one of ``torch.var``."""
    centred = x - x.mean(_AXES, keepdim=True)
    return centred, centred.square().mean(_AXES, keepdim=True)


class Lessons:
    """The operators that learn, by site and name, with what one pass has shown of each.

    Raises:
        UsageError: The base is not legal in the space, or its slots offer nothing to teach.
    """

    def __init__(self, net: Supernet, space: SearchSpace, compare: Compared) -> None:
        self._compare = compare
        taught = {
            i: tuple(slot.choices[k] for k in slot.legal if k) for i, slot in enumerate(space.slots) if slot.sites
        }
        self.slots = [index for index, names in taught.items() if names]
        without = next((slot.name for slot in space.slots if 0 not in slot.legal), None)
        if without is not None or not self.slots:
            cause = "the base is the only operator" if without is None else f"{without} has no base to learn from"
            raise UsageError(
                f"operators cannot be distilled: {cause}; choose --prepare uniform, or change --operators",
                where="--prepare",
                kind="nothing_to_distil",
            )
        self._names = {node: taught[node.slot] for node in net.dispatches(self.slots)}
        self._modules = {
            (node.site, name): node.candidates[name] for node, names in self._names.items() for name in names
        }
        self._losses: list[tuple[tuple[str, str], Tensor, Tensor]] = []
        self._sums = dict.fromkeys(self._modules, 0.0)
        self._counts = dict.fromkeys(self._modules, 0)
        self.left_out: dict[str, int] = {}

    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all operators that learn; there are none where poolings alone replace convolutions."""
        return [p for module in self._modules.values() for p in module.parameters() if p.requires_grad]

    @contextmanager
    def modes(self, net: Supernet) -> Iterator[None]:
        """The base in eval mode; BatchNorms inside of operators use the statistics of the batch, and store none."""
        net.eval()
        with ExitStack() as stack:
            for module in self._modules.values():
                stack.enter_context(batch_statistics(module))
            yield

    def learn(self, visit: Visit, wanted: Tensor) -> None:
        """Add the gradients of one visit to the parameters of the operators of its site."""
        sound, target = torch.isfinite(visit.input).all(), Wanted(wanted, self._compare)
        for name in self._names[visit.node]:
            with torch.enable_grad():
                output = visit.node.again(name)
            error, gradient = target.error(output.detach())
            if output.requires_grad:
                output.backward(gradient.to(output.dtype))
            self._losses.append(((visit.node.site, name), error, sound))

    def judge(self) -> None:
        """Take in the errors of one batch; an operator that gave NaN, or a gradient of it, does not learn from it.

        Where its input was NaN already, because of an operator before it, this is not held against it.
        """
        keys = [key for key, *_ in self._losses]
        read = torch.stack(
            [torch.where(sound, error.nan_to_num(torch.nan, torch.nan), torch.inf) for _, error, sound in self._losses]
        )
        values = read.tolist()  # at once: each reading waits for the device
        own = {key for key, value in zip(keys, values, strict=True) if math.isnan(value)}
        spoilt = {key for key, value in zip(keys, values, strict=True) if value == math.inf} - own
        wrong = {key for key, value in zip(keys, values, strict=True) if not math.isfinite(value)}
        wrong |= self._without_gradient()
        for key, value in zip(keys, values, strict=True):
            if key not in wrong:
                self._sums[key] += value
                self._counts[key] += 1
        for site, name in sorted(wrong):
            if (site, name) not in spoilt:
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

    def add_up(self, ranks: Ranks) -> None:
        """Take in what the pass has shown on all ranks, which call this at once."""
        shown = gather(ranks, [[*self._sums.values()], [*self._counts.values()], self.left_out])
        self._sums = dict(zip(self._sums, map(sum, zip(*(sums for sums, _, _ in shown), strict=True)), strict=True))
        self._counts = dict(zip(self._counts, map(sum, zip(*(n for _, n, _ in shown), strict=True)), strict=True))
        self.left_out = {
            name: sum(left.get(name, 0) for _, _, left in shown) for name in sorted({n for _, _, t in shown for n in t})
        }

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
