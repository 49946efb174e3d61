"""Operators and skips in turns (NAR, arXiv 1905.02341, equations 9 to 11).

A phase changes one part of the incumbent vector and leaves the other as it is: the operators with the skips fixed
(equation 9), then the skips with the operators fixed (equation 10), and so on, each from where the last one ended.

Equation 11 says that the reward never falls from one phase to the next. That is true only of what a test makes true:
rewards of a search come from minibatches, and those of different steps cannot be compared. So candidates meet the
incumbent in an accept test: a number of batches of proposals that each hold the incumbent and the same candidates,
hence the same minibatches. The best candidate replaces the incumbent if its mean reward over these batches is at least
the incumbent's; otherwise the incumbent stays. At each decision the reward that is reported after it is never below
the incumbent's reward before it, on the same data; on rewards without noise the whole sequence never falls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narfx.search.assigned_rewards import assigned_rewards, parts
from narfx.search.history import History
from narfx.search.option_checks import number, whole
from narfx.search.policies.lstm import Controller
from narfx.search.policies.masks import Masks
from narfx.search.policies.reinforce import Reinforce, draw_feasible, entropy
from narfx.search.registry import register_strategy
from narfx.search.strategies.accept_test import AcceptTest
from narfx.search.strategy import Evaluated, Proposal, Result
from narfx.space.records import Vector
from narfx.space.sampling import FeasibleSampler
from narfx.space.space import SearchSpace

__all__ = ["Alternating"]

_TRIES = 11


class Alternating:
    """Two policies in turns, or uniform draws in turns, and an incumbent that only an accept test can replace.

    With ``mode="policy"`` either part has a controller of its own (that of ``nar``, masked to the incumbent's other
    part), which learns by REINFORCE. The last ``evaluations`` steps of a phase test its most likely vector and the best
    that it met, by reward above the batch's mean. With ``mode="sample"`` a phase is a series of tests of candidates
    drawn uniformly.

    An accept test needs batches of at least two proposals, and of ``candidates + 1`` to compare all candidates; with
    batches of one the incumbent never changes. It starts as the base, or as a uniform draw where the base breaks the
    budget.

    Args:
        space: The slots and the budget. Without skips to choose (or without operators) all phases are of one part.
        seed: Of the initial weights and of all draws.
        mode: ``policy`` or ``sample``.
        phase: Steps of a phase, including its accept test. A phase ends with a decision, if necessary a little later.
        evaluations: Batches of an accept test.
        candidates: The largest number of candidates that a test compares with the incumbent.
        hidden: The size of each controller's LSTM, as in :class:`~narfx.search.strategies.nar.Nar`.
        lr: As in ``nar``.
        entropy_weight: As in ``nar``.
        baseline_decay: As in ``nar``.
        tanh_constant: As in ``nar``.
        temperature: As in ``nar``.
        clip: As in ``nar``.
        bias_scale: As in ``nar``.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        mode: str = "policy",
        phase: int = 20,
        evaluations: int = 3,
        candidates: int = 4,
        hidden: int = 32,
        lr: float = 0.03,
        entropy_weight: float = 0.08,
        baseline_decay: float = 0.9,
        tanh_constant: float = 2.5,
        temperature: float = 5.0,
        clip: float = 5.0,
        bias_scale: float = 10.0,
    ) -> None:
        if mode not in ("policy", "sample"):
            raise ValueError(f"mode is {mode!r}, and must be policy or sample")
        self._space, self._learns = space, mode == "policy"
        self._evaluations = whole("evaluations", evaluations, least=1)
        self._phase = whole("phase", phase, least=self._evaluations + self._learns)
        self._candidates = whole("candidates", candidates, least=1)
        self._entropy_weight = number("entropy_weight", entropy_weight, least=0)
        self._generator = torch.Generator().manual_seed(seed)
        found = {part: [i for i in slots if len(space.slots[i].legal) > 1] for part, slots in parts(space).items()}
        self._parts = {part: slots for part, slots in found.items() if slots} or {"operators": []}
        self._policies = {
            part: Controller(
                space,
                hidden=hidden,
                tanh_constant=tanh_constant,
                temperature=temperature,
                bias_scale=bias_scale,
                generator=self._generator,
            )
            for part in self._parts
        }
        self._learners = {
            part: Reinforce(
                self._policies[part],
                {part: slots},
                lr=lr,
                clip=clip,
                baseline_decay=baseline_decay,
                regulariser=self._regulariser,
            )
            for part, slots in self._parts.items()
        }
        self._history = History(space)
        start = space.base
        if not (space.feasible(start) and all(0 in slot.legal for slot in space.slots)):
            start = FeasibleSampler(space).draw(self._numpy())
        self._incumbent: Vector = start
        self._turn = self._step = 0
        self._met: dict[Vector, tuple[int, float]] = {}
        self._test: AcceptTest | None = None
        self._refresh()

    @property
    def incumbent(self) -> Vector:
        """The vector that no candidate has replaced."""
        return self._incumbent

    def ask(self, n: int) -> list[Proposal]:
        """In a test the incumbent and the candidates, then draws; else draws with the incumbent's other part."""
        known: list[Vector] = []
        if self._deciding(self._step):
            if self._test is None:
                self._test = AcceptTest(self._incumbent, self._chosen())
            known = [self._incumbent, *self._test.candidates][:n]
        return [Proposal(vector) for vector in (*known, *self._draw(n - len(known)))]

    def tell(self, proposals: Sequence[Proposal], results: Sequence[Result]) -> dict[str, Any]:
        """One step: the policy learns from the batch, or the accept test goes on and may reach its decision.

        A policy learns from vectors that share the incumbent's other part; a batch counts in a test if it
        holds the incumbent.

        Returns:
            ``reward`` (the batch's mean), ``assigned`` (see :func:`~narfx.search.assigned_rewards.assigned_rewards`),
            where the policy learned ``gradient`` and, under ``policy``, the rest of what :meth:`Reinforce.learn` says,
            and ``phase``: its ``index``, ``part`` and ``step``; at a decision whether a candidate was ``accepted``, and
            the mean rewards in the test of the incumbent ``before`` and of the ``incumbent`` after; else these are
            null.
        """
        observed = zip(*self._history.add(proposals, results), strict=True)
        batch = [(vector, reward) for vector, reward in observed if self._space.feasible(vector)]
        if not batch:
            return {}
        vectors, rewards = [vector for vector, _ in batch], [reward for _, reward in batch]
        mean = sum(rewards) / len(rewards)
        phase: dict[str, Any] = {"index": self._turn, "part": self._part, "step": self._step}
        phase |= {"accepted": None, "before": None, "incumbent": None}
        self._step += 1
        learned = {}
        if self._test is not None:
            self._test.take(batch)
            if self._test.batches == self._evaluations:
                phase |= self._decide(self._test)
        elif not self._deciding(self._step - 1):
            learned = self._learn(batch, mean)
        baseline = learned["policy"]["baseline"] if learned else mean
        assigned = assigned_rewards(self._space, vectors, rewards, baseline)
        return {"reward": mean, **learned, "assigned": assigned, "phase": phase}

    def finalists(self, n: int) -> list[Vector]:
        """The incumbent and the evaluated vectors of highest mean reward; these first, as long as rewards are exact."""
        best = self._history.best(n)
        order = [self._incumbent, *best] if self._history.noisy or not best else [best[0], self._incumbent, *best[1:]]
        return list(dict.fromkeys(order))[:n]

    def archive(self) -> list[Evaluated]:
        """All vectors that were evaluated, as far as the history holds them."""
        return self._history.archive()

    def state_dict(self) -> dict[str, Any]:
        """Policies, incumbent, phase, test, generator and what was observed."""
        return {
            "learners": {part: learner.state_dict() for part, learner in self._learners.items()},
            "generator": self._generator.get_state(),
            "record": self._history.state_dict(),
            "incumbent": list(self._incumbent),
            "turn": self._turn,
            "step": self._step,
            "met": [[list(vector), count, mean] for vector, (count, mean) in self._met.items()],
            "trial": None if self._test is None else self._test.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        for part, learner in self._learners.items():
            learner.load_state_dict(state["learners"][part])
        self._generator.set_state(state["generator"])
        self._history.load_state_dict(state["record"])
        self._incumbent, self._turn, self._step = tuple(state["incumbent"]), state["turn"], state["step"]
        self._met = {tuple(vector): (count, mean) for vector, count, mean in state["met"]}
        self._test = None if state["trial"] is None else AcceptTest.from_state(state["trial"])
        self._refresh()

    @property
    def _part(self) -> str:
        return list(self._parts)[self._turn % len(self._parts)]

    def _deciding(self, step: int) -> bool:
        return not self._learns or step >= self._phase - self._evaluations

    def _refresh(self) -> None:
        """The space of this phase: what is not of its part has the incumbent's choice only."""
        free = self._parts[self._part]
        slots = [
            slot if index in free else replace(slot, legal=(self._incumbent[index],))
            for index, slot in enumerate(self._space.slots)
        ]
        self._here = replace(self._space, slots=tuple(slots))
        self._policy.masks = Masks(self._here)

    @property
    def _policy(self) -> Controller:
        return self._policies[self._part]

    def _draw(self, n: int) -> list[Vector]:
        if self._learns:
            return draw_feasible(self._policy, self._here, n, self._generator)
        sampler, rng, found = FeasibleSampler(self._here), self._numpy(), []
        for _ in range(n):
            drawn = [sampler.draw(rng)]
            while len(drawn) < _TRIES and (drawn[-1] in self._history or drawn[-1] in found):
                drawn.append(sampler.draw(rng))
            found.append(drawn[-1])
        return found

    def _numpy(self) -> np.random.Generator:
        return np.random.default_rng(int(torch.randint(2**31, (1,), generator=self._generator)))

    def _chosen(self) -> list[Vector]:
        """The candidates of a test: the policy's most likely vector and the best met, or uniform draws."""
        found: list[Vector] = []
        if self._learns:
            mode = tuple(self._policy.draw(1, None)[0][0].tolist())
            found = [mode, *sorted(self._met, key=lambda vector: -self._met[vector][1])]
        if len(found) < self._candidates:
            found += self._draw(self._candidates)
        others = (vector for vector in dict.fromkeys(found) if vector != self._incumbent)
        return [vector for vector in others if self._here.feasible(vector)][: self._candidates]

    def _learn(self, batch: Sequence[tuple[Vector, float]], mean: float) -> dict[str, Any]:
        fixed = [index for index in range(len(self._space)) if index not in self._parts[self._part]]
        fits = [(v, reward) for v, reward in batch if all(v[index] == self._incumbent[index] for index in fixed)]
        if not fits:
            return {}
        for vector, reward in fits:
            count, above = self._met.get(vector, (0, 0.0))
            self._met[vector] = count + 1, above + (reward - mean - above) / (count + 1)
        learned = self._learners[self._part].learn([vector for vector, _ in fits], [reward for _, reward in fits])
        return {"gradient": learned.pop("gradient"), "policy": learned}

    def _decide(self, test: AcceptTest) -> dict[str, Any]:
        kept, reward, before = test.winner()
        accepted = kept != self._incumbent
        self._incumbent, self._test = kept, None
        if self._step >= self._phase:
            self._turn, self._step, self._met = self._turn + 1, 0, {}
        self._refresh()
        return {"accepted": accepted, "before": before, "incumbent": reward}

    def _regulariser(self, log_p: Tensor, differ: bool) -> Tensor | None:
        return -self._entropy_weight * entropy(log_p).mean() if differ else None


register_strategy("alternating", Alternating)
