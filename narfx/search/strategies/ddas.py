"""DDAS-style search (after Mills et al., IEEE Access 9, 2021): an actor proposes, a critic teaches it, for a front.

Known of DDAS, from its abstract and that of Mills' thesis: an actor and a critic (DDPG) choose architectures while the
supernet trains, with exploration first; one run ends with a front of accuracy and cost. The article's body was not at
hand. All else here is a reconstruction with our own choices (docs/strategies.md says which). The networks are in
:mod:`narfx.search.policies.actor_critic`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from narfx.search.elite import Elite
from narfx.search.goals import cost_names
from narfx.search.history import History, by_turns
from narfx.search.option_checks import number, one_of, share, whole
from narfx.search.policies.actor_critic import ActorCritic, Learned, Replay, Rules
from narfx.search.registry import register_strategy
from narfx.search.strategy import Evaluated, Proposal, Result
from narfx.search.targets import Targets
from narfx.search.worth import FORMS, Worth
from narfx.space.records import Vector
from narfx.space.repair import repaired
from narfx.space.space import SearchSpace

__all__ = ["Ddas"]

_ROUNDS = 10
_FEW = 10
_NEVER = 1e9  # more than any preference


class Ddas:
    """The actor and the critic as a strategy.

    A proposal has a target T for each cost, drawn evenly between the least and the highest cost that the budget
    allows. The actor gives the vector that should earn most within T: its value is

        reward - penalty · Σ max(0, cost / T - 1),

    with the reward in standard deviations of those seen, or another form of it
    (:class:`~narfx.search.worth.Worth`). So proposals spread over the costs, and all of them teach one critic. With
    ``target`` T is fixed; with ``penalty`` 0 the reward alone counts.

    Args:
        space: The slots and the budget.
        seed: Of the first weights and of all draws.
        costs: The costs that are traded for reward, with commas between; by default MACs, or the first
            one. A search with a front gives those of the front.
        form: ``excess`` (above), or ``power``: reward · Π (cost / T) ^ exponent, as in MnasNet.
        penalty: λ above.
        exponent: That of ``power``; -0.07 is MnasNet's soft one.
        target: T for every proposal, as a share of the base's cost; by default drawn.
        baseline: What is taken from a reward: ``levels`` (what its batch has in common), ``mean`` or ``none``.
        baseline_decay: Share of the running mean of the baseline ``mean`` that remains after one batch.
        state: What the actor sees: ``previous`` (the vector before) or ``best`` (the mean of the best so far).
        top: How many are the best so far.
        critic_loss: The critic's loss: ``squared`` or ``check``.
        tau: The quantile of the check loss.
        gamma: Discount of the value of what follows; with 0 each vector stands alone.
        warmup: How many results come before the actor proposes; until then scores are uniform.
        noise: Standard deviation of the noise on the scores after the warm-up.
        noise_end: The same after ``noise_steps`` further results, falling evenly.
        noise_steps: How many results the noise takes to fall.
        candidates: Of how many noisy actions the critic chooses each proposal; with 1 it chooses none.
        near: The share of these that vary a vector of the present front, not the actor's scores.
        steps: Steps of actor and critic for each result.
        hidden: The size of the hidden layers.
        actor_lr: Learning rate of the actor.
        critic_lr: Learning rate of the critic.
        minibatch: Transitions in a step.
        soft: Share of the networks that enters their targets at each step.
        replay: How many results are learned from, the latest.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        costs: str = "",
        form: str = "excess",
        penalty: float = 10.0,
        exponent: float = -0.07,
        target: float | None = None,
        baseline: str = "levels",
        baseline_decay: float = 0.95,
        state: str = "previous",
        top: int = 64,
        critic_loss: str = "squared",
        tau: float = 0.9,
        gamma: float = 0.0,
        warmup: int = 20,
        noise: float = 0.5,
        noise_end: float = 0.3,
        noise_steps: int = 400,
        candidates: int = 32,
        near: float = 0.5,
        steps: float = 1.0,
        hidden: int = 64,
        actor_lr: float = 1e-3,
        critic_lr: float = 3e-3,
        minibatch: int = 64,
        soft: float = 0.005,
        replay: int = 10_000,
    ) -> None:
        self._space = space
        self._names = cost_names(space, costs)
        self._worth = Worth(
            one_of("form", form, FORMS), number("penalty", penalty, least=0), number("exponent", exponent)
        )
        self._target = None if target is None else number("target", target, above=0)
        self._baseline = one_of("baseline", baseline, ("levels", "mean", "none"))
        self._decay = share("baseline_decay", baseline_decay, below=True)
        self._state_kind = one_of("state", state, ("previous", "best"))
        self._top = whole("top", top, least=1)
        check = one_of("critic_loss", critic_loss, ("squared", "check")) == "check"
        quantile = number("tau", tau, above=0)
        if quantile >= 1:
            raise ValueError(f"tau is {tau}, and must be below 1")
        self._warmup = whole("warmup", warmup, least=0)
        self._noise = number("noise", noise, least=0), number("noise_end", noise_end, least=0)
        self._noise_steps = whole("noise_steps", noise_steps, least=1)
        self._candidates = whole("candidates", candidates, least=1)
        self._near = share("near", near)
        self._steps = number("steps", steps, above=0)
        rules = Rules(
            hidden=whole("hidden", hidden, least=1),
            actor_lr=number("actor_lr", actor_lr, above=0),
            critic_lr=number("critic_lr", critic_lr, above=0),
            minibatch=whole("minibatch", minibatch, least=1),
            gamma=share("gamma", gamma, below=True),
            tau=quantile if check else None,
            soft=share("soft", soft),
        )
        self._replay = Replay(whole("replay", replay, least=1))
        self._history = History(space)
        self._generator = torch.Generator().manual_seed(seed)
        choices = max((len(slot.choices) for slot in space.slots), default=1)
        self._legal = torch.zeros(len(space), choices, dtype=torch.bool)
        for index, slot in enumerate(space.slots):
            self._legal[index, list(slot.legal)] = True
        self._learner = ActorCritic(self._legal, len(self._names), rules, self._generator)
        self._state = self._legal / self._legal.sum(1, keepdim=True).to(torch.float64)
        self._targets = Targets(space, self._names, self._target)
        self._spreads = self._target is None and self._worth.heeds_costs and bool(self._names)
        self._elite: Elite | None = None
        self._scale = 0.0, 1.0
        self._told = 0
        self._average: float | None = None

    def ask(self, n: int) -> list[Proposal]:
        """``n`` proposals, none that was evaluated before as long as others are found.

        A vector that breaks the budget is repaired by the scores (:func:`~narfx.space.repair.repaired`).
        """
        wanted = self._draw_targets(n)
        found: list[Vector | None] = [None] * n
        for again in range(_ROUNDS):
            left = [index for index in range(n) if self._known(found, index)]
            if not left:
                break
            noise = min(self.noise * (1 + again / 4), 1.0)
            for index, vector in zip(left, self._act(wanted[left], noise, found), strict=True):
                found[index] = vector
        return [Proposal(vector) for vector in found if vector is not None]

    def _known(self, found: Sequence[Vector | None], index: int) -> bool:
        vector = found[index]
        return vector is None or vector in self._history or vector in found[:index]

    def _act(self, wanted: Tensor, noise: float, siblings: Sequence[Vector | None]) -> list[Vector]:
        """A vector for each row of targets: uniform scores in the warm-up, then what the critic prefers."""
        n, warm = len(wanted), self._told < self._warmup
        shape = n, 1 if warm else self._candidates, *self._legal.shape
        with torch.no_grad():
            if warm:
                scores = torch.rand(shape, generator=self._generator, dtype=torch.float64)
                preference = torch.zeros(n, 1)
            else:
                drawn = torch.randn(shape, generator=self._generator, dtype=torch.float64)
                scores = (self._centers(wanted) + noise * drawn).clamp(0, 1)
                preference = self._preference(self._learner.chosen(scores), wanted)
        vectors, order = self._learner.chosen(scores).tolist(), preference.argsort(dim=1, descending=True, stable=True)
        taken: list[Vector] = []
        for row, best in enumerate(order.tolist()):
            options = [(index, tuple(vectors[row][index])) for index in best]
            new = (o for o in options if o[1] not in self._history and o[1] not in taken and o[1] not in siblings)
            index, vector = next(new, options[0])
            taken.append(repaired(self._space, vector, scores[row, index].numpy()))
        return taken

    def _centers(self, wanted: Tensor) -> Tensor:
        """What noise is added to, ``(n, candidates, slots, choices)``: the actor's scores, and codes of the elite."""
        n, many = len(wanted), self._candidates
        centers = self._learner.scores(self._state.expand(n, *self._legal.shape), wanted)[:, None].repeat(1, many, 1, 1)
        near = int(self._near * many)
        if near and self._elite is not None:
            rows = torch.randint(len(self._elite), (n, near), generator=self._generator)
            centers[:, :near] = self._learner.codes(self._elite.vectors[rows])
        return centers

    def _preference(self, vectors: Tensor, wanted: Tensor) -> Tensor:
        """How much the critic likes candidates ``(n, many, slots)``; those that break the budget come last.

        In a search for a front, those that should raise the hypervolume come first, by how much they do.
        """
        n, many = vectors.shape[:2]
        codes = self._learner.codes(vectors.flatten(0, 1))
        rewards = self._learner.values(self._state.expand_as(codes), codes)
        value = self._value(rewards, codes, wanted.repeat_interleave(many, 0))
        if self._spreads and self._elite is not None:
            mixes = torch.rand(n, len(self._names), generator=self._generator, dtype=torch.float64) + 1e-9
            costs = self._targets.of(codes).view(n, many, -1)
            gain = self._elite.improvements(rewards.view(n, many), costs, mixes / mixes.sum(1, keepdim=True)).flatten()
            value = torch.where(gain > 0, gain, value - value.max())
        return torch.where(self._targets.fits(codes), value, value - _NEVER).view(n, many)

    def _value(self, rewards: Tensor, codes: Tensor, wanted: Tensor) -> Tensor:
        """What vectors are worth: of their rewards (scaled), one-hot codes and targets."""
        return self._worth.of(rewards, self._targets.ratios(codes, wanted), *self._scale)

    def _draw_targets(self, n: int) -> Tensor:
        return torch.rand(n, len(self._names), generator=self._generator, dtype=torch.float64)

    @property
    def noise(self) -> float:
        """The present standard deviation of the noise on the scores."""
        first, last = self._noise
        done = min(max(self._told - self._warmup, 0) / self._noise_steps, 1.0)
        return first + (last - first) * done

    def tell(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> dict[str, Any]:
        """Store the batch and learn from the replay.

        Returns:
            ``reward`` (the batch's mean), ``noise`` (see :attr:`noise`) and, after the warm-up, ``critic_loss`` and
            ``gradient`` (the norms of actor and critic).
        """
        vectors, rewards = self._history.add(proposals, results)
        if not rewards:
            return {}
        mean = sum(rewards) / len(rewards)
        self._average = mean if self._average is None else self._decay * self._average + (1 - self._decay) * mean
        taken = self._average if self._baseline == "mean" else 0.0
        rows = torch.tensor(vectors)
        self._replay.add(self._state, rows, torch.tensor(rewards, dtype=torch.float64) - taken)
        self._told += len(rewards)
        archive = self._survey()
        self._state = self._next_state(rows, archive)
        metrics: dict[str, Any] = {"reward": mean, "noise": self.noise}
        if self._told >= self._warmup:
            learned = self._learn(len(rewards), archive)
            metrics["critic_loss"] = learned.critic_loss
            metrics["gradient"] = {"actor": learned.actor_gradient, "critic": learned.critic_gradient}
        return metrics

    def _survey(self) -> list[Evaluated]:
        """Bring costs, scale and elite up to what was told; returns the archive."""
        self._targets.correct(self._history.told_costs)
        archive = self._history.archive()
        if archive:
            rewards = torch.tensor([entry.result.reward for entry in archive], dtype=torch.float64)
            spread = float(rewards.std(correction=0))
            # Below this the spread is what rounding leaves of equal rewards.
            exists = spread > 1e-12 * float(rewards.abs().max())
            self._scale = float(rewards.mean()), spread if exists else math.inf
            vectors = torch.tensor([entry.vector for entry in archive])
            scaled, costs = self._scaled(rewards), self._targets.shares([entry.result.costs for entry in archive])
            self._elite = Elite.of(vectors, scaled, costs, self._targets.highest)
            if not self._spreads:
                # One goal: the few of highest value take the place of the front.
                value = self._value(scaled, self._learner.codes(vectors), torch.ones_like(costs))
                best = value.argsort(dim=0, descending=True, stable=True)[:_FEW]
                self._elite = replace(self._elite, vectors=vectors[best])
        return archive

    def _scaled(self, rewards: Tensor) -> Tensor:
        return (rewards - self._scale[0]) / self._scale[1]

    def _next_state(self, told: Tensor, archive: Sequence[Evaluated]) -> Tensor:
        if self._state_kind == "previous":
            return self._learner.codes(told[-1])
        best = sorted(archive, key=lambda entry: -entry.result.reward)[: self._top]
        return self._learner.codes(torch.tensor([entry.vector for entry in best])).mean(0)

    def _learn(self, results: int, archive: Sequence[Evaluated]) -> Learned:
        seen = self._replay.transitions(self._state)
        rewards = seen.rewards
        if self._baseline == "mean":
            rewards = rewards - rewards.mean() + self._scale[0]
        elif self._baseline == "levels":
            scores = {entry.vector: entry.result.reward for entry in archive}
            told = zip(map(tuple, seen.vectors.tolist()), rewards.tolist(), strict=True)
            rewards = torch.tensor([scores.get(vector, reward) for vector, reward in told], dtype=torch.float64)
        return self._learner.learn(
            replace(seen, rewards=self._scaled(rewards)),
            max(round(self._steps * results), 1),
            self._draw_targets,
            self._value,
        )

    def finalists(self, n: int) -> list[Vector]:
        """By turns the evaluated vectors of highest score and those that the critic likes best.

        The critic's come first under noise, because it averages over more rewards than a score does.
        """
        best, archive = self._history.best(n), self._history.archive()
        if not archive or self._told < self._warmup:
            return best
        codes = self._learner.codes(torch.tensor([entry.vector for entry in archive]))
        with torch.no_grad():
            values = self._learner.values(self._state.expand_as(codes), codes)
        order = values.argsort(dim=0, descending=True, stable=True).tolist()
        liked = [archive[index].vector for index in order if self._history.feasible(archive[index].vector)]
        return by_turns(n, *((liked, best) if self._history.noisy else (best, liked)))

    def archive(self) -> list[Evaluated]:
        """All vectors that were evaluated, as far as the history holds them."""
        return self._history.archive()

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers, replay, state, counters, generator and what was observed."""
        return {
            "learner": self._learner.state_dict(),
            "replay": self._replay.state_dict(),
            "state": self._state,
            "told": self._told,
            "average": self._average,
            "generator": self._generator.get_state(),
            "record": self._history.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._learner.load_state_dict(state["learner"])
        self._replay.load_state_dict(state["replay"])
        self._state, self._told, self._average = state["state"], state["told"], state["average"]
        self._generator.set_state(state["generator"])
        self._history.load_state_dict(state["record"])
        self._survey()


register_strategy("ddas", Ddas)
