"""NAR's strategy: an LSTM controller over operators only, trained by REINFORCE (arXiv 1905.02341, equations 1 to 6).

One ``tell`` is one step of Adam (β₁ = 0, as in ENAS, arXiv 1802.03268) on

    −(1/L) · mean over the lot of (R − b)/s · Σ log p(operator)  −  w · mean entropy of a decision,

with b a moving average of the reward and s the running spread of R − b. So the step is the same for α·R + β with any
α > 0 and β, and a reward may have any range. The policy is :class:`~narfx.search.controller.Controller`.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from narfx.sampling import FeasibleSampler
from narfx.search.checks import number, whole
from narfx.search.controller import Controller
from narfx.search.record import Record
from narfx.search.strategy import Proposal, Result, register_strategy
from narfx.space import SearchSpace, Vector

__all__ = ["Nar"]

_ROUNDS = 20
_LOT, _MOST = 5, 4.0


class Nar:
    """The controller as a strategy.

    Args:
        space: The slots; the policy is masked to what is legal and to what the space's budget still allows.
        seed: Of the initial weights and of all draws.
        hidden: The size of the LSTM and of its embeddings.
        lr: Adam's step for a lot of five. It grows with the lot, to four times this, and shrinks with the root of a
            smaller one.
        entropy_weight: w above; entropies are in nats a decision.
        baseline_decay: How much of b and s one reward leaves standing.
        tanh_constant: T of the controller's T·tanh(u/τ).
        temperature: τ of the same.
        clip: The largest norm of a step's gradient.
        bias_scale: How much faster the slots' biases move than the other weights.
        redraws: How often a draw that was told before is drawn again, in the hope of a new one; 0 is plain ENAS.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        hidden: int = 32,
        lr: float = 0.03,
        entropy_weight: float = 0.08,
        baseline_decay: float = 0.9,
        tanh_constant: float = 2.5,
        temperature: float = 5.0,
        clip: float = 5.0,
        bias_scale: float = 10.0,
        redraws: int = 10,
    ) -> None:
        self._space = space
        self._lr, self._clip = number("lr", lr, above=0), number("clip", clip, above=0)
        self._entropy_weight = number("entropy_weight", entropy_weight, least=0)
        self._decay = number("baseline_decay", baseline_decay, least=0)
        if self._decay >= 1:
            raise ValueError(f"baseline_decay is {baseline_decay}, and must be below 1")
        self._redraws = whole("redraws", redraws, least=0)
        self._generator = torch.Generator().manual_seed(seed)
        self._controller = Controller(
            space,
            hidden=whole("hidden", hidden, least=1),
            tanh_constant=number("tanh_constant", tanh_constant, above=0),
            temperature=number("temperature", temperature, above=0),
            bias_scale=number("bias_scale", bias_scale, least=0),
            generator=self._generator,
        )
        self._optimizer = torch.optim.Adam(self._controller.parameters(), lr=self._lr, betas=(0.0, 0.999))
        self._record = Record(space)
        self._baseline: float | None = None
        self._variance = self._weight = 0.0

    def ask(self, n: int) -> list[Proposal]:
        """``n`` vectors drawn from the policy, those never told before preferred (see ``redraws``)."""
        return [Proposal(vector) for vector in self._draw(n, self._generator)]

    def tell(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> dict[str, Any]:
        """One step of REINFORCE on this lot, whoever proposed it; a vector over the budget is only remembered.

        Returns:
            ``reward`` (the lot's mean), ``baseline``, ``entropy`` (nats a decision, along the lot), ``grad_norm``
            (before clipping; 0 where no step was made because all rewards so far are alike), ``log_prob`` (of a
            vector, the lot's mean) and ``probabilities``: of each operator at each slot behind the policy's most
            likely prefix, after the step.
        """
        told = zip(*self._record.add(proposals, results), strict=True)
        lot = [(vector, reward) for vector, reward in told if self._space.feasible(vector)]
        if not lot:
            return {}
        vectors = torch.tensor([vector for vector, _ in lot])
        rewards = np.array([reward for _, reward in lot])
        log_p = self._controller(vectors)
        taken = log_p.gather(-1, vectors[..., None])[..., 0]
        p = log_p.exp()
        entropy = -(p * log_p.masked_fill(p == 0, 0.0)).sum(-1).mean()
        advantages = self._advantages(rewards)
        norm = 0.0
        if advantages is not None:
            norm = self._step(-(advantages[:, None] * taken).mean() - self._entropy_weight * entropy, len(lot))
        return {
            "reward": float(rewards.mean()),
            "baseline": float(self._baseline or 0.0),
            "entropy": float(entropy.detach()),
            "grad_norm": norm,
            "log_prob": float(taken.detach().sum(1).mean()),
            "probabilities": [[round(x, 5) for x in row] for row in self._controller.draw(1, None)[1][0].tolist()],
        }

    def finalists(self, n: int) -> list[Vector]:
        """By turns the best told (by mean reward) and the policy's own: its most likely vector, then fresh draws.

        The best told comes first as long as a vector told again earned the same; under noise the policy has seen
        through more of it than the luckiest reward has.
        """
        generator = torch.Generator()
        generator.set_state(self._generator.get_state())  # naming finalists changes nothing
        mode = tuple(self._controller.draw(1, None)[0][0].tolist())
        drawn = [vector for vector in (mode, *self._draw(4 * n, generator)) if self._space.feasible(vector)]
        turns = (drawn, self._record.best(n)) if self._record.noisy else (self._record.best(n), drawn)
        order = (vector for pair in zip_longest(*turns) for vector in pair if vector is not None)
        return list(dict.fromkeys(order))[:n]

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer, generator, baseline and what was told."""
        return {
            "controller": copy.deepcopy(self._controller.state_dict()),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "generator": self._generator.get_state(),
            "baseline": self._baseline,
            "variance": self._variance,
            "weight": self._weight,
            "record": self._record.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._controller.load_state_dict(state["controller"])
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._generator.set_state(state["generator"])
        self._baseline, self._variance, self._weight = state["baseline"], state["variance"], state["weight"]
        self._record.load_state_dict(state["record"])

    def _draw(self, n: int, generator: torch.Generator) -> list[Vector]:
        tries = 1 + self._redraws
        found: list[Vector] = []
        for _ in range(_ROUNDS):
            if len(found) == n:
                return found
            drawn, _ = self._controller.draw((n - len(found)) * tries, generator)
            rows = [tuple(row) for row in drawn.tolist()]
            for start in range(0, len(rows), tries):
                feasible = [vector for vector in rows[start : start + tries] if self._space.feasible(vector)]
                new = (vector for vector in feasible if vector not in self._record and vector not in found)
                found += [next(new, feasible[0])] if feasible else []
        # Bounds that can be met one by one but hardly together: the policy runs into dead ends.
        sampler = FeasibleSampler(self._space)
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        return [*found, *(sampler.draw(rng) for _ in range(n - len(found)))]

    def _advantages(self, rewards: NDArray[np.float64]) -> Tensor | None:
        """(R - b)/s, with b and s moved by this lot first; ``None`` as long as all rewards are alike."""
        keep, mean = self._decay ** len(rewards), float(rewards.mean())
        if self._baseline is None:
            self._baseline = mean
        self._variance = keep * self._variance + (1 - keep) * float(((rewards - self._baseline) ** 2).mean())
        self._weight = keep * self._weight + (1 - keep)
        self._baseline += (1 - keep) * (mean - self._baseline)
        spread = math.sqrt(self._variance / self._weight)
        # Below this the spread is what rounding leaves of equal rewards.
        if spread <= 1e-12 * max(abs(self._baseline), math.sqrt(sys.float_info.min)):
            return None
        return torch.from_numpy((rewards - self._baseline) / spread)

    def _step(self, loss: Tensor, size: int) -> float:
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self._controller.parameters(), self._clip))
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * min(max(math.sqrt(size / _LOT), size / _LOT), _MOST)
        self._optimizer.step()
        return norm


register_strategy("nar", Nar)
