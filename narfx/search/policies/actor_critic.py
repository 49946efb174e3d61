"""An actor and a critic for vectors, as in DDPG (Lillicrap et al., arXiv 1509.02971), with a bounded replay.

The actor μ(s, t) gives one score in [0, 1] for each slot and choice; the legal choice of highest score is taken. The
critic Q(s, x) predicts the reward of the vector whose one-hot code is x, in standard deviations of the rewards seen.
Each learns from minibatches of the replay:

- critic: y = r + γ·Q'(s', μ'(s', t)), with the mean of (y − Q)², or of the check loss u·(τ − [u < 0]), u = y − Q
  (L2NAS, arXiv 2109.12425: with τ near 1 the critic follows the best rewards);
- actor: ascent on the mean worth of Q(s, x), x and t: the reward, less what costs over the targets t take. The
  gradient reaches the scores by a straight-through softmax, because the vector, and so its reward, is a step function
  of them.

The target networks μ' and Q' follow by a soft update after each step.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["ActorCritic", "Learned", "Replay", "Rules", "Transitions", "Value"]

_SHARPNESS = 5.0

Value = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From one-hot codes ``(n, slots, choices)`` and targets ``(n, costs)``: what is taken from each value, ``(n,)``."""


@dataclass(frozen=True)
class Rules:
    """How the two learn.

    Attributes:
        hidden: The size of the two hidden layers of each network.
        actor_lr: Learning rate of the actor's Adam.
        critic_lr: Learning rate of the critic's Adam.
        minibatch: How many transitions a step sees.
        gamma: γ above, from 0 (each vector stands alone) to below 1.
        tau: τ of the check loss, or ``None`` for the squared error.
        soft: The share of the networks that enters their targets at each step.
    """

    hidden: int
    actor_lr: float
    critic_lr: float
    minibatch: int
    gamma: float
    tau: float | None
    soft: float


class Learned(NamedTuple):
    """Means over the steps that were learned: the critic's loss, and the norms of both gradients."""

    critic_loss: float
    actor_gradient: float
    critic_gradient: float


class Replay:
    """The last transitions, batch by batch: the state before each batch, its vectors and its rewards.

    A transition leads from the state before its batch to the state before the next one.

    Args:
        capacity: About how many transitions are kept: the oldest batch goes as soon as the others hold as many.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._batches: deque[tuple[Tensor, Tensor, Tensor]] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, state: Tensor, vectors: Tensor, rewards: Tensor) -> None:
        """One batch: the state ``(slots, choices)``, vectors ``(n, slots)`` and rewards ``(n,)``."""
        self._batches.append((state, vectors, rewards))
        self._size += len(vectors)
        while self._size - len(self._batches[0][1]) >= self._capacity:
            self._size -= len(self._batches.popleft()[1])

    def transitions(self, state: Tensor) -> Transitions:
        """All of them, with ``state`` as what the last batch led to."""
        states, vectors, rewards = zip(*self._batches, strict=True)
        of = torch.arange(len(states)).repeat_interleave(torch.tensor([*map(len, vectors)]))
        return Transitions(torch.stack([*states, state]), of, torch.cat(vectors), torch.cat(rewards))

    def state_dict(self) -> dict[str, Any]:
        """The batches."""
        return {"batches": [list(batch) for batch in self._batches]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._batches = deque((before, vectors, rewards) for before, vectors, rewards in state["batches"])
        self._size = sum(len(vectors) for _, vectors, _ in self._batches)


@dataclass(frozen=True)
class Transitions:
    """Transitions as tensors; the one of row i leads from ``states[of[i]]`` to ``states[of[i] + 1]``."""

    states: Tensor
    of: Tensor
    vectors: Tensor
    rewards: Tensor


class ActorCritic:
    """The networks with their optimizers and their targets.

    Args:
        legal: ``(slots, choices)``: what may be chosen.
        costs: How many costs have a target t.
        rules: How they learn.
        generator: Of the first weights and of all minibatches.
    """

    def __init__(self, legal: Tensor, costs: int, rules: Rules, generator: torch.Generator) -> None:
        self._legal, self._rules, self._generator, self._costs = legal, rules, generator, costs
        size = legal.numel()
        self._actor = _network(size + costs, rules.hidden, size, generator)
        self._critic = _network(2 * size, rules.hidden, 1, generator)
        self._actor_target, self._critic_target = copy.deepcopy(self._actor), copy.deepcopy(self._critic)
        self._actor_adam = torch.optim.Adam(self._actor.parameters(), lr=rules.actor_lr, fused=True)
        self._critic_adam = torch.optim.Adam(self._critic.parameters(), lr=rules.critic_lr, fused=True)

    def scores(self, states: Tensor, targets: Tensor) -> Tensor:
        """μ: states ``(n, slots, choices)`` and targets ``(n, costs)``, each in [0, 1], to ``(n, slots, choices)``."""
        return self._scores(self._actor, states, targets)

    def values(self, states: Tensor, codes: Tensor) -> Tensor:
        """Q: states and one-hot codes, both ``(n, slots, choices)``, to ``(n,)``."""
        return self._values(self._critic, states, codes)

    def _scores(self, actor: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = torch.sigmoid(actor(torch.cat([states.flatten(1), targets], 1)))
        return found.view_as(states)

    def _values(self, critic: nn.Module, states: Tensor, codes: Tensor) -> Tensor:
        found: Tensor = critic(torch.cat([codes.flatten(1), states.flatten(1)], 1))
        return found[:, 0]

    def chosen(self, scores: Tensor) -> Tensor:
        """The legal choice of highest score at each slot: ``(..., slots, choices)`` to ``(..., slots)``."""
        return scores.masked_fill(~self._legal, -math.inf).argmax(-1)

    def codes(self, vectors: Tensor) -> Tensor:
        """The one-hot codes of vectors."""
        return nn.functional.one_hot(vectors, self._legal.shape[1]).to(torch.float64)

    def _through(self, scores: Tensor) -> Tensor:
        """The one-hot codes of what is chosen, with the gradient of a softmax."""
        soft = (_SHARPNESS * scores).masked_fill(~self._legal, -math.inf).softmax(-1)
        return self.codes(self.chosen(scores)) + soft - soft.detach()

    def learn(self, seen: Transitions, steps: int, targets: Callable[[int], Tensor], value: Value) -> Learned:
        """So many steps of each network.

        Args:
            seen: What is learned from; the rewards are of mean 0 and standard deviation 1.
            steps: How many.
            targets: Draws so many targets ``(n, costs)`` in [0, 1].
            value: What a vector is worth, of its predicted reward, its code and its targets.
        """
        found = []
        for _ in range(steps):
            rows = torch.randint(len(seen.of), (self._rules.minibatch,), generator=self._generator)
            wanted = targets(len(rows))
            loss, critic = self._critic_step(seen, rows, wanted)
            states = seen.states[seen.of[rows]]
            codes = self._through(self.scores(states, wanted))
            actor = _step(self._actor_adam, -value(self.values(states, codes), codes, wanted).mean())
            self._follow()
            found.append((loss, actor, critic))
        return Learned(*(sum(values) / steps for values in zip(*found, strict=True)))

    def _critic_step(self, seen: Transitions, rows: Tensor, wanted: Tensor) -> tuple[float, float]:
        of = seen.of[rows]
        goal = seen.rewards[rows]
        if self._rules.gamma:
            with torch.no_grad():
                after = seen.states[of + 1]
                then = self.codes(self.chosen(self._scores(self._actor_target, after, wanted)))
                goal = goal + self._rules.gamma * self._values(self._critic_target, after, then)
        apart = goal - self.values(seen.states[of], self.codes(seen.vectors[rows]))
        tau = self._rules.tau
        loss = (apart.square() if tau is None else apart * (tau - (apart < 0).to(apart.dtype))).mean()
        norm = _step(self._critic_adam, loss)
        return float(loss.detach()), norm

    def _follow(self) -> None:
        with torch.no_grad():
            for target, network in ((self._actor_target, self._actor), (self._critic_target, self._critic)):
                torch._foreach_lerp_([*target.parameters()], [*network.parameters()], self._rules.soft)

    def _parts(self) -> dict[str, Any]:
        return {
            "actor": self._actor,
            "critic": self._critic,
            "actor_target": self._actor_target,
            "critic_target": self._critic_target,
            "actor_adam": self._actor_adam,
            "critic_adam": self._critic_adam,
        }

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets and optimizers; the generator is its owner's."""
        return {name: copy.deepcopy(part.state_dict()) for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        for name, part in self._parts().items():
            part.load_state_dict(copy.deepcopy(state[name]))


def _network(inputs: int, hidden: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    """Two hidden layers with ReLU. The last layer starts a tenth as wide, so that the first outputs are alike."""
    sizes = [(inputs, hidden, 1.0), (hidden, hidden, 1.0), (hidden, outputs, 0.1)]
    layers = [_linear(*size, generator) for size in sizes]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def _linear(inputs: int, outputs: int, width: float, generator: torch.Generator) -> nn.Linear:
    # Without its own initialisation, which would draw from torch's global generator. In double precision the steps
    # are the same for rewards of any range.
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=torch.float64)
    bound = width / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def _step(adam: torch.optim.Adam, loss: Tensor) -> float:
    """One step; returns the norm of the gradient."""
    # The actor's loss goes through the critic, whose weights it leaves alone.
    parameters = [parameter for group in adam.param_groups for parameter in group["params"]]
    adam.zero_grad(set_to_none=True)
    loss.backward(inputs=parameters)
    adam.step()
    norms = [torch.linalg.vector_norm(parameter.grad) for parameter in parameters if parameter.grad is not None]
    return float(torch.linalg.vector_norm(torch.stack(norms)))
