"""NAR's strategy: an LSTM controller over operators only, trained by REINFORCE (arXiv 1905.02341, equations 1 to 6).

The controller is ENAS' (arXiv 1802.03268) without its skips. Slot by slot it squashes logits, T·tanh(u/τ), draws an
operator and reads the operator's embedding next. One ``tell`` is one step of Adam (β₁ = 0, as in ENAS) on

    −(1/L) · mean over the lot of (R − b)/s · Σ log p(operator)  −  w · mean entropy of a decision,

with b a moving average of the reward and s the running spread of R − b, so that a reward of any range works. Beyond
ENAS each slot has a head, an embedding and a bias of its own: the slots of a given network are not alike, and the
biases let the policy learn within some hundred rewards what the recurrent weights would need thousands for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from narfx.search.strategy import Proposal, Result, register_strategy
from narfx.space import SearchSpace, Vector

__all__ = ["Nar"]

_MEMORY = 10_000
_REDRAWS = 100


class _Masks:
    """``SearchSpace.allowed`` for many vectors at once: what is legal, and what the budget leaves room for."""

    def __init__(self, space: SearchSpace) -> None:
        slots, operators = len(space), len(space.operators)
        self.legal = np.zeros((slots, operators), bool)
        for index, slot in enumerate(space.slots):
            self.legal[index, list(slot.legal)] = True
        metrics = list(space.budget.bounds)
        costs = [[slot.costs[metric] for slot in space.slots] for metric in metrics]
        self.costs = np.array(costs, float).reshape(len(metrics), slots, operators)
        self.fixed = np.array([space.fixed.get(metric, 0) for metric in metrics], float)
        self.bounds = np.array([space.budget.bounds[metric] for metric in metrics], float)
        least = np.where(self.legal, self.costs, np.inf).min(2)
        self.rest = np.concatenate([least[:, ::-1].cumsum(1)[:, ::-1][:, 1:], np.zeros((len(metrics), 1))], 1)

    def allowed(self, slot: int, spent: np.ndarray) -> np.ndarray:
        """(n, operators): what may stand at ``slot`` where ``spent`` (metrics, n) is spent before it."""
        mask = np.broadcast_to(self.legal[slot], (spent.shape[1], self.legal.shape[1])).copy()
        for metric in range(len(self.bounds)):
            total = self.fixed[metric] + spent[metric][:, None] + self.costs[metric, slot] + self.rest[metric, slot]
            mask &= total <= self.bounds[metric] * (1 + 1e-12)
        return mask

    def along(self, vectors: np.ndarray) -> np.ndarray:
        """(n, slots, operators): the masks that each vector met on its way; what it took itself counts as allowed."""
        masks, spent = [], np.zeros((len(self.bounds), len(vectors)))
        rows = np.arange(len(vectors))
        for slot in range(vectors.shape[1]):
            mask = self.allowed(slot, spent)
            mask[rows, vectors[:, slot]] = True
            masks.append(mask)
            spent = spent + self.costs[:, slot][:, vectors[:, slot]]
        return np.stack(masks, 1)


class _Controller(nn.Module):
    """The policy: logits for each slot from what was drawn before it."""

    def __init__(self, slots: int, operators: int, hidden: int, bias_scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.bias_scale = bias_scale
        self.lstm = nn.LSTM(hidden, hidden, bias=False, batch_first=True, device="meta").to_empty(device="cpu")
        self.start = nn.Parameter(torch.empty(hidden))
        self.operator = nn.Parameter(torch.empty(operators, hidden))
        self.slot = nn.Parameter(torch.empty(slots, hidden))
        self.head = nn.Parameter(torch.empty(slots, hidden, operators))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1, generator=generator)
        self.bias = nn.Parameter(torch.zeros(slots, operators))

    def read(self, drawn: Tensor | None, slot: int, state: Any) -> tuple[Tensor, Any]:
        """Logits (n, operators) of one slot; ``drawn`` (n,) is the operator of the slot before, ``None`` at first."""
        x = self.start[None] if drawn is None else self.operator[drawn]
        h, state = self.lstm((x + self.slot[slot])[:, None], state)
        return h[:, 0] @ self.head[slot] + self.bias_scale * self.bias[slot], state

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits (n, slots, operators) along given vectors (n, slots)."""
        start = self.start.expand(len(vectors), 1, -1)
        h, _ = self.lstm(torch.cat([start, self.operator[vectors[:, :-1]]], 1) + self.slot)
        logits: Tensor = torch.einsum("nsh,sho->nso", h, self.head) + self.bias_scale * self.bias
        return logits


class Nar:
    """The controller as a strategy.

    Args:
        space: The slots; the policy is masked to what is legal and to what the space's budget still allows.
        seed: Of the initial weights and of all draws.
        hidden: The size of the LSTM and of its embeddings.
        lr: Adam's step for a lot of five; it grows with the root of the lot.
        entropy_weight: w above; entropies are in nats a decision.
        baseline_decay: How much of b and s one reward leaves standing.
        tanh_constant: T above.
        temperature: τ above.
        clip: The largest norm of a step's gradient.
        bias_scale: How much faster the slots' biases move than the other weights.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        hidden: int = 32,
        lr: float = 0.02,
        entropy_weight: float = 0.08,
        baseline_decay: float = 0.9,
        tanh_constant: float = 2.5,
        temperature: float = 5.0,
        clip: float = 5.0,
        bias_scale: float = 10.0,
    ) -> None:
        checks = {"hidden": hidden, "lr": lr, "tanh_constant": tanh_constant, "temperature": temperature, "clip": clip}
        for name, value in checks.items():
            if not value > 0:
                raise ValueError(f"{name} is {value}, and must be above 0")
        if not 0 <= baseline_decay < 1 or entropy_weight < 0:
            raise ValueError("baseline_decay lies in [0, 1), and entropy_weight is not negative")
        self.space, self.lr, self.clip = space, lr, clip
        self.entropy_weight, self.baseline_decay = entropy_weight, baseline_decay
        self.tanh_constant, self.temperature = tanh_constant, temperature
        self.generator = torch.Generator().manual_seed(seed)
        self.controller = _Controller(len(space), len(space.operators), hidden, bias_scale, self.generator)
        self.optimizer = torch.optim.Adam(self.controller.parameters(), lr=lr, betas=(0.0, 0.999))
        self.masks = _Masks(space)
        self.baseline: float | None = None
        self.variance = self.weight = 0.0
        self.told: dict[Vector, tuple[float, int]] = {}

    def ask(self, n: int) -> list[Proposal]:
        """``n`` vectors drawn from the policy."""
        found: list[Vector] = []
        for _ in range(_REDRAWS):
            drawn = map(tuple, self._draw(n - len(found)).tolist())
            found += [vector for vector in drawn if self.space.feasible(vector)]
            if len(found) == n:
                return [Proposal(vector) for vector in found]
        # Bounds that are met one by one but hardly together: the policy runs into dead ends.
        from narfx.sampling import FeasibleSampler

        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=self.generator)))
        sampler = FeasibleSampler(self.space)
        found += [sampler.draw(rng) for _ in range(n - len(found))]
        return [Proposal(vector) for vector in found]

    def tell(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> dict[str, Any]:
        """One step of REINFORCE on this lot.

        Returns:
            ``reward`` (the lot's mean), ``baseline``, ``entropy`` (nats a decision), ``grad_norm`` (before clipping),
            ``log_prob`` (of a vector, the lot's mean) and ``probabilities``: for each slot the probability of each
            operator, the mean over the lot's own contexts.
        """
        if not proposals:
            return {}
        vectors = torch.tensor([proposal.vector for proposal in proposals])
        rewards = np.array([result.reward for result in results], float)
        self._remember(proposals, rewards)
        advantages = self._advantages(rewards)
        logits = self._squash(self.controller(vectors))
        mask = torch.from_numpy(self.masks.along(vectors.numpy()))
        log_p = logits.masked_fill(~mask, -torch.inf).log_softmax(-1)
        taken = log_p.gather(-1, vectors[..., None])[..., 0]
        p = log_p.exp()
        entropy = -(p * log_p.masked_fill(~mask, 0)).sum(-1).mean()
        gain = (torch.from_numpy(advantages).float()[:, None] * taken).mean()
        self.optimizer.zero_grad(set_to_none=True)
        (-gain - self.entropy_weight * entropy).backward()
        norm = nn.utils.clip_grad_norm_(self.controller.parameters(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * math.sqrt(len(proposals) / 5)
        self.optimizer.step()
        return {
            "reward": float(rewards.mean()),
            "baseline": float(self.baseline or 0.0),
            "entropy": float(entropy.detach()),
            "grad_norm": float(norm),
            "log_prob": float(taken.detach().sum(1).mean()),
            "probabilities": [[round(x, 5) for x in row] for row in p.detach().mean(0).tolist()],
        }

    def finalists(self, n: int) -> list[Vector]:
        """The policy's own most likely vector, then by turns the best told (by mean reward) and fresh draws."""
        best = sorted(self.told, key=lambda vector: (-self.told[vector][0] / self.told[vector][1], vector))
        drawn = [proposal.vector for proposal in self.ask(4 * n)]
        mode = tuple(self._draw(1, greedy=True)[0].tolist())
        order = [mode] if self.space.feasible(mode) else []
        order += [vector for pair in zip_longest(best, drawn) for vector in pair if vector is not None]
        return list(dict.fromkeys(order))[:n]

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer, generator, baseline and what was told."""
        return {
            "controller": self.controller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "baseline": self.baseline,
            "variance": self.variance,
            "weight": self.weight,
            "told": [(list(vector), total, count) for vector, (total, count) in self.told.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.controller.load_state_dict(state["controller"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.baseline, self.variance, self.weight = state["baseline"], state["variance"], state["weight"]
        self.told = {tuple(vector): (total, count) for vector, total, count in state["told"]}

    def _squash(self, logits: Tensor) -> Tensor:
        return self.tanh_constant * torch.tanh(logits / self.temperature)

    @torch.no_grad()
    def _draw(self, n: int, *, greedy: bool = False) -> Tensor:
        """(n, slots), from the policy or, greedily, its mode; one batched pass."""
        drawn: Tensor | None = None
        state, columns = None, []
        spent = np.zeros((len(self.masks.bounds), n))
        for slot in range(len(self.space)):
            logits, state = self.controller.read(drawn, slot, state)
            if drawn is None:
                logits, state = logits.expand(n, -1), tuple(part.expand(-1, n, -1).contiguous() for part in state)
            mask = self.masks.allowed(slot, spent)
            mask[~mask.any(1)] = self.masks.legal[slot]  # a dead end: the vector is drawn again as a whole
            logits = self._squash(logits).masked_fill(~torch.from_numpy(mask), -torch.inf)
            if greedy:
                drawn = logits.argmax(1)
            else:
                drawn = torch.multinomial(logits.softmax(1), 1, generator=self.generator)[:, 0]
            spent = spent + self.masks.costs[:, slot][:, drawn.numpy()]
            columns.append(drawn)
        return torch.stack(columns, 1)

    def _advantages(self, rewards: np.ndarray) -> np.ndarray:
        """(R − b)/s, with b and s moved by this lot first; zero as long as all rewards are alike."""
        keep = self.baseline_decay ** len(rewards)
        if self.baseline is None:
            self.baseline = float(rewards.mean())
        self.variance = keep * self.variance + (1 - keep) * float(((rewards - self.baseline) ** 2).mean())
        self.weight = keep * self.weight + (1 - keep)
        self.baseline = keep * self.baseline + (1 - keep) * float(rewards.mean())
        spread = math.sqrt(self.variance / self.weight)
        return (rewards - self.baseline) / spread if spread > 0 else np.zeros(len(rewards))

    def _remember(self, proposals: Sequence[Proposal], rewards: np.ndarray) -> None:
        for proposal, reward in zip(proposals, rewards.tolist(), strict=True):
            total, count = self.told.pop(proposal.vector, (0.0, 0))
            self.told[proposal.vector] = (total + reward, count + 1)
        while len(self.told) > _MEMORY:
            self.told.pop(next(iter(self.told)))


register_strategy("nar", Nar)
