"""A policy and how it learns: REINFORCE on normalised advantages, one step of Adam for each batch of proposals.

The step is on

    −(1/D) · mean over the batch of (R − b)/s · Σ log p(decision)  +  regulariser,

with D the decisions of a vector, b the mean reward of the batch and s the running spread of R − b. A batch shares its
minibatch and its weights, so its own mean is a baseline that neither of them moves; with n proposals of the policy it
only scales the gradient, by 1 − 1/n. For a batch of one, b is a moving average of the reward. The step is the same for
α·R + β with any α > 0 and β, and a reward may have any range. Adam has β₁ = 0, as in ENAS (arXiv 1802.03268).

The gradient is that of the policy's mean reward only for batches that the policy itself drew, repetitions included.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from narfx.search.option_checks import number
from narfx.space.records import Vector
from narfx.space.sampling import FeasibleSampler
from narfx.space.space import SearchSpace

__all__ = ["Policy", "Regulariser", "Reinforce", "draw_feasible", "entropy", "part_gradients"]

_ROUNDS, _MORE = 20, 10
_BATCH, _MOST = 5, 4.0


class Policy(Protocol):
    """What is asked of a controller, which is an ``nn.Module``. Without a generator it draws its most likely vector."""

    def draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Vectors ``(n, slots)``, and the probabilities ``(n, slots, choices)`` met along them."""
        ...

    def __call__(self, vectors: Tensor) -> Tensor:
        """The log-probabilities ``(n, slots, choices)`` along vectors ``(n, slots)``."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that learns."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Its weights."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Take weights."""
        ...


Regulariser = Callable[[Tensor, bool], "Tensor | None"]
"""From the log-probabilities along a batch, and whether its rewards differ: what is added to the loss, if anything."""


def entropy(log_p: Tensor) -> Tensor:
    """The entropy in nats of each decision: ``(..., choices)`` to ``(...)``; a masked choice has none."""
    p = log_p.exp()
    return -(p * log_p.masked_fill(p == 0, 0.0)).sum(-1)


def part_gradients(policy: Policy, terms: Tensor, parts: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """The norm of the gradient of each part of the policy's objective (NAR, arXiv 1905.02341, Figure 1).

    Args:
        policy: Whose parameters the gradient is taken for.
        terms: ``advantage · log p`` of each decision, ``(n, slots)``.
        parts: The slots of each part; one without slots is left out.

    Returns:
        For each part the norm of the gradient of the batch's mean of the sum of the terms over its slots.
    """
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    norms = {}
    for name, slots in parts.items():
        if slots:
            objective = terms[:, list(slots)].sum(1).mean()
            found = torch.autograd.grad(objective, parameters, retain_graph=True, allow_unused=True)
            norms[name] = math.sqrt(sum(float(gradient.square().sum()) for gradient in found if gradient is not None))
    return norms


class Reinforce:
    """A policy with its optimizer and its moving averages.

    Args:
        policy: The controller.
        parts: The slots of the operators and of the skips, for the record of the gradients.
        lr: Learning rate of Adam for a batch of 5; scales linearly above (at most 4x), with the square root below.
        clip: The largest norm of a step's gradient.
        baseline_decay: The share of s, and of b for batches of one, that remains after one reward.
        regulariser: What is added to the loss.
    """

    def __init__(
        self,
        policy: Policy,
        parts: Mapping[str, Sequence[int]],
        *,
        lr: float,
        clip: float,
        baseline_decay: float,
        regulariser: Regulariser,
    ) -> None:
        self.policy, self._parts, self._regulariser = policy, parts, regulariser
        self._lr, self._clip = number("lr", lr, above=0), number("clip", clip, above=0)
        self._decay = number("baseline_decay", baseline_decay, least=0)
        if self._decay >= 1:
            raise ValueError(f"baseline_decay is {baseline_decay}, and must be below 1")
        self._optimizer = torch.optim.Adam(policy.parameters(), lr=self._lr, betas=(0.0, 0.999))
        self._average: float | None = None
        self._variance = self._weight = 0.0

    def learn(self, vectors: Sequence[Vector], observed: Sequence[float]) -> dict[str, Any]:
        """One step on a batch of proposals.

        Returns:
            ``baseline``, ``spread`` (b and s above), ``entropy`` (nats a decision, along the batch), ``grad_norm``
            (before clipping; 0 where no step was made), ``log_prob`` (of a vector, the batch's mean) and ``gradient``:
            the norms of :func:`part_gradients` for the advantages (R − b)/s, 0 as long as all rewards are alike.
        """
        chosen, rewards = torch.tensor(vectors), np.array(observed)
        log_p = self.policy(chosen)
        taken = log_p.gather(-1, chosen[..., None])[..., 0]
        baseline = self._baseline(rewards)
        advantages = self._advantages(rewards, baseline)
        added = self._regulariser(log_p, advantages is not None)
        gradient = {part: 0.0 for part, slots in self._parts.items() if slots}
        loss = added
        if advantages is not None:
            terms = advantages[:, None] * taken
            gradient = part_gradients(self.policy, terms, self._parts)
            loss = -terms.mean() if added is None else added - terms.mean()
        return {
            "baseline": baseline,
            "spread": self._spread(),
            "entropy": float(entropy(log_p.detach()).mean()),
            "grad_norm": 0.0 if loss is None else self._step(loss, len(observed)),
            "log_prob": float(taken.detach().sum(1).mean()),
            "gradient": gradient,
        }

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer and moving averages."""
        return {
            "controller": copy.deepcopy(self.policy.state_dict()),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "average": self._average,
            "variance": self._variance,
            "weight": self._weight,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.policy.load_state_dict(state["controller"])
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._average, self._variance, self._weight = state["average"], state["variance"], state["weight"]

    def _spread(self) -> float:
        return math.sqrt(self._variance / self._weight)

    def _baseline(self, rewards: NDArray[np.float64]) -> float:
        mean, keep = float(rewards.mean()), self._decay ** len(rewards)
        average = mean if self._average is None else self._average
        self._average = average + (1 - keep) * (mean - average)
        return mean if len(rewards) > 1 else self._average

    def _advantages(self, rewards: NDArray[np.float64], baseline: float) -> Tensor | None:
        """(R - b)/s, with s moved by this batch first; ``None`` as long as all rewards are alike."""
        keep = self._decay ** len(rewards)
        self._variance = keep * self._variance + (1 - keep) * float(((rewards - baseline) ** 2).mean())
        self._weight = keep * self._weight + (1 - keep)
        # Below this the spread is what rounding leaves of equal rewards.
        if self._spread() <= 1e-12 * max(abs(baseline), math.sqrt(sys.float_info.min)):
            return None
        return torch.from_numpy((rewards - baseline) / self._spread())

    def _step(self, loss: Tensor, size: int) -> float:
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.policy.parameters(), self._clip))
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * min(max(math.sqrt(size / _BATCH), size / _BATCH), _MOST)
        self._optimizer.step()
        return norm


def draw_feasible(policy: Policy, space: SearchSpace, n: int, generator: torch.Generator) -> list[Vector]:
    """``n`` vectors of the policy that meet the budget, each drawn independently of the others.

    Where the policy runs into dead ends (bounds that can be met one by one but hardly together), uniform draws stand
    in.
    """
    found: list[Vector] = []
    for more in (1, *[_MORE] * _ROUNDS):
        if len(found) == n:
            return found
        drawn, _ = policy.draw((n - len(found)) * more, generator)
        found += [vector for vector in map(tuple, drawn.tolist()) if space.feasible(vector)][: n - len(found)]
    sampler = FeasibleSampler(space)
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    return [*found, *(sampler.draw(rng) for _ in range(n - len(found)))]
