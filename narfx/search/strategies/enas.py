"""The joint controller of ENAS (arXiv 1802.03268): operators and skips by one LSTM with anchors, and a skip prior.

Learning is that of :mod:`~narfx.search.strategies.nar`: one ``tell`` is one step on normalised advantages. The policy
is :class:`~narfx.search.policies.joint_lstm.JointController`. What regularises it is the entropy of the operators
and, for the skips, the divergence from a prior:

    (1/D) · mean over the batch of [ −w · Σ entropy(operator) + w_s · Σ KL(p(skip) ‖ [1 − ρ, ρ]) ],

D being the decisions of a vector. Here p is the probability that a skip is drawn with; ENAS's own code takes the
divergence of a sigmoid of the logits instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from narfx.search.assigned_rewards import parts
from narfx.search.option_checks import number
from narfx.search.policies.joint_lstm import JointController
from narfx.search.policies.reinforce import entropy
from narfx.search.registry import register_strategy
from narfx.search.strategies.nar import Nar
from narfx.space.space import SearchSpace

__all__ = ["Enas"]


class Enas(Nar):
    """The joint controller as a strategy.

    In a space with as many slots of operators as nodes, slot i is taken for node i + 1, and operator and skips of one
    node are drawn after each other, as in ENAS. In any other space (slots are blocks, or some nodes have no choice
    of operator) all operators are drawn first, in their order, then the skips node by node. Without the skip domain
    only operators are left, and the policy is that of ``nar``.

    Args:
        space: The slots; the policy is masked to what is legal and to what the space's budget still allows.
        seed: Of the initial weights and of all draws.
        skip_prior: ρ above, the share of skips that the prior has open; between 0 and 1.
        skip_weight: w_s above. ENAS's 0.8 is for advantages that are not divided by their spread; 0 lets rewards
            alone decide about skips.
        **options: Those of :class:`~narfx.search.strategies.nar.Nar`.
    """

    _controller = JointController

    def __init__(
        self, space: SearchSpace, *, seed: int = 0, skip_prior: float = 0.4, skip_weight: float = 0.08, **options: Any
    ) -> None:
        self._prior = number("skip_prior", skip_prior, above=0)
        if self._prior >= 1:
            raise ValueError(f"skip_prior is {skip_prior}, and must be below 1")
        self._skip_weight = number("skip_weight", skip_weight, least=0)
        self._parts = parts(space)
        opening = [space.slots[index].choices.index("open") for index in self._parts["skips"]]
        self._opening = torch.tensor(opening, dtype=torch.long)
        super().__init__(space, seed=seed, **options)

    def _regulariser(self, log_p: Tensor, differ: bool) -> Tensor | None:
        added: list[Tensor] = []
        if differ:
            added.append(-self._entropy_weight * entropy(log_p[:, self._parts["operators"]]).sum(1).mean())
        # The prior acts whatever the rewards say, even where they say nothing yet.
        if self._skip_weight > 0 and self._parts["skips"]:
            added.append(self._skip_weight * self._divergence(log_p).sum(1).mean())
        return sum(added[1:], added[0]) / log_p.shape[1] if added else None

    def _divergence(self, log_p: Tensor) -> Tensor:
        """KL(p(skip) ‖ prior) in nats, ``(n, skips)``; 0 for a skip that the budget leaves no choice."""
        states = log_p[:, self._parts["skips"], :2]
        prior = torch.full((len(self._opening), 2), 1 - self._prior, dtype=log_p.dtype)
        prior[torch.arange(len(self._opening)), self._opening] = self._prior
        p, forced = states.exp(), states.isneginf().any(-1)
        divergence = (p * (states.masked_fill(p == 0, 0.0) - prior.log())).sum(-1)
        return divergence.masked_fill(forced, 0.0)

    def _look(self) -> dict[str, Any]:
        """As of ``nar``, the operators only; ``open`` has the probability of each skip, ``open_rate`` their mean."""
        p = self._policy.draw(1, None)[1][0]
        skips = p[self._parts["skips"]]
        opened = skips.gather(1, self._opening[:, None])[:, 0]
        looked: dict[str, Any] = {"probabilities": _rounded(p[self._parts["operators"]])}
        if len(opened):
            looked["open"] = [round(x, 4) for x in opened.tolist()]
            looked["open_rate"] = float(opened.mean())
            looked["skip_kl"] = float(self._divergence(p.log()[None]).mean())
        return looked


def _rounded(p: Tensor) -> Sequence[Sequence[float]]:
    return [[round(x, 5) for x in row] for row in p.tolist()]


register_strategy("enas", Enas)
