"""NAR's strategy: an LSTM controller over operators only, trained by REINFORCE (arXiv 1905.02341, equations 1 to 6).

One ``tell`` is one step of :class:`~narfx.search.policies.reinforce.Reinforce`; what it adds to the
loss is −w · mean entropy of a decision. The policy is :class:`~narfx.search.policies.lstm.Controller`. In a space
with the skip domain a skip is one more slot with two choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from narfx.search.assigned_rewards import assigned_rewards, parts
from narfx.search.history import History, by_turns
from narfx.search.option_checks import number
from narfx.search.policies.lstm import Controller
from narfx.search.policies.reinforce import Policy, Reinforce, draw_feasible, entropy
from narfx.search.registry import register_strategy
from narfx.search.strategy import Evaluated, Proposal, Result
from narfx.space.records import Vector
from narfx.space.space import SearchSpace

__all__ = ["Nar"]


class Nar:
    """The controller as a strategy.

    Args:
        space: The slots; the policy is masked to what is legal and to what the space's budget still allows.
        seed: Of the initial weights and of all draws.
        hidden: The size of the LSTM and of its embeddings.
        lr: Learning rate of Adam for a batch of 5; scales linearly above (at most 4x), with the square root below.
        entropy_weight: w above; entropies are in nats a decision.
        baseline_decay: The share of s, and of b for batches of one, that remains after one reward.
        tanh_constant: T of the controller's T·tanh(u/τ).
        temperature: τ of the same.
        clip: The largest norm of a step's gradient.
        bias_scale: How much faster the slots' biases move than the other weights.
    """

    _controller: Callable[..., Policy] = Controller

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
    ) -> None:
        self._space = space
        self._entropy_weight = number("entropy_weight", entropy_weight, least=0)
        self._generator = torch.Generator().manual_seed(seed)
        self._policy = type(self)._controller(
            space,
            hidden=hidden,
            tanh_constant=tanh_constant,
            temperature=temperature,
            bias_scale=bias_scale,
            generator=self._generator,
        )
        self._learner = Reinforce(
            self._policy,
            parts(space),
            lr=lr,
            clip=clip,
            baseline_decay=baseline_decay,
            regulariser=self._regulariser,
        )
        self._history = History(space)

    def _regulariser(self, log_p: Tensor, differ: bool) -> Tensor | None:
        return -self._entropy_weight * entropy(log_p).mean() if differ else None

    def ask(self, n: int) -> list[Proposal]:
        """``n`` vectors drawn from the policy; one that was evaluated before may come again, as its share of reward."""
        return [Proposal(vector) for vector in self._draw(n, self._generator)]

    def tell(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> dict[str, Any]:
        """One step of REINFORCE on this batch, whoever proposed it; a vector over the budget is only remembered.

        Returns:
            ``reward`` (the batch's mean), what :meth:`Reinforce.learn` says, ``probabilities`` (of each operator at
            each slot after the policy's most likely prefix, after the step) and ``assigned`` (see
            :func:`~narfx.search.assigned_rewards.assigned_rewards`).
        """
        observed = zip(*self._history.add(proposals, results), strict=True)
        batch = [(vector, reward) for vector, reward in observed if self._space.feasible(vector)]
        if not batch:
            return {}
        vectors, rewards = [vector for vector, _ in batch], [reward for _, reward in batch]
        metrics = self._learner.learn(vectors, rewards)
        return {
            "reward": sum(rewards) / len(rewards),
            **metrics,
            **self._look(),
            "assigned": assigned_rewards(self._space, vectors, rewards, metrics["baseline"]),
        }

    def _look(self) -> dict[str, Any]:
        return {"probabilities": [[round(x, 5) for x in row] for row in self._policy.draw(1, None)[1][0].tolist()]}

    def finalists(self, n: int) -> list[Vector]:
        """By turns the best evaluated (by score) and the policy's own: its most likely vector, then fresh draws.

        The best evaluated comes first as long as a vector evaluated again earned the same reward. Under noise the
        policy's own comes first, because it averages over more rewards than the highest score does.
        """
        generator = torch.Generator()
        generator.set_state(self._generator.get_state())  # naming finalists changes nothing
        mode = tuple(self._policy.draw(1, None)[0][0].tolist())
        drawn = [vector for vector in (mode, *self._draw(4 * n, generator)) if self._space.feasible(vector)]
        turns = (drawn, self._history.best(n)) if self._history.noisy else (self._history.best(n), drawn)
        return by_turns(n, *turns)

    def archive(self) -> list[Evaluated]:
        """All vectors that were evaluated, as far as the history holds them."""
        return self._history.archive()

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer, generator, baseline and what was observed."""
        return {
            "learner": self._learner.state_dict(),
            "generator": self._generator.get_state(),
            "record": self._history.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._learner.load_state_dict(state["learner"])
        self._generator.set_state(state["generator"])
        self._history.load_state_dict(state["record"])

    def _draw(self, n: int, generator: torch.Generator) -> list[Vector]:
        return draw_feasible(self._policy, self._space, n, generator)


register_strategy("nar", Nar)
