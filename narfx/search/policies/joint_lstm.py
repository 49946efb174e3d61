"""The joint policy of ENAS's macro space (arXiv 1802.03268, section 2.3): operators and skips by one LSTM.

At node j the operator is drawn, and its embedding is the next input of the LSTM. One more step of the LSTM gives the
anchor h_j of the node; for each earlier node t from which a skip may come,

    q = vᵀ · tanh(W_prev · h_t + W_curr · h_j) + bias_scale · bias,  u = T · tanh(q/τ),  p(open) = softmax([−u, u])[1],

and the mean of the anchors that were chosen, Σ h_t / (1 + their number), is the input of the next node. Logits of
operators and masks are those of :class:`~narfx.search.policies.lstm.Controller`. Beyond ENAS are the bias of each skip,
a learned vector for each node that its anchor's input gains, and the anchor of node 0, which feeds node 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn

from narfx.search.policies.lstm import LstmOptions, LstmPolicy, parameter, start_uniform
from narfx.search.policies.masks import Masks, budget_prior
from narfx.space.space import SearchSpace

__all__ = ["Anchor", "JointController", "Operator", "schedule"]


@dataclass(frozen=True)
class Operator:
    """A step of the LSTM that decides the operator of a slot; ``row`` counts the slots of operators."""

    slot: int
    row: int


@dataclass(frozen=True)
class Anchor:
    """A step of the LSTM that gives a node's anchor and decides the skips into it.

    ``sources`` are nodes, and ``slots`` the slots of the skips from there.
    """

    node: int
    sources: tuple[int, ...]
    slots: tuple[int, ...]


def schedule(space: SearchSpace) -> list[Operator | Anchor]:
    """The steps of the LSTM in their order.

    Where there are as many slots of operators as nodes (the highest target of a skip), slot i is that of node i + 1,
    and operators and skips take turns as in ENAS. Else (slots are blocks, or some nodes have no choice of operator)
    all operators come first, then the nodes with their skips. Without skips there are only operators.
    """
    skips = [(slot.skip, index) for index, slot in enumerate(space.slots) if slot.skip is not None]
    plain = [index for index, slot in enumerate(space.slots) if slot.skip is None]
    operators = [Operator(slot, row) for row, slot in enumerate(plain)]
    if not skips:
        return [*operators]
    nodes = max(skip.target for skip, _ in skips)
    anchors = []
    for node in range(nodes + 1):
        into = sorted((skip.source, index) for skip, index in skips if skip.target == node)
        anchors.append(Anchor(node, tuple(source for source, _ in into), tuple(index for _, index in into)))
    if len(operators) != nodes:
        return [*operators, *anchors]
    return [anchors[0], *(step for pair in zip(operators, anchors[1:], strict=True) for step in pair)]


class JointController(LstmPolicy):
    """The policy; its biases are zero at the start."""

    def __init__(self, space: SearchSpace, **options: Unpack[LstmOptions]) -> None:
        steps = schedule(space)
        order = [slot for step in steps for slot in ([step.slot] if isinstance(step, Operator) else step.slots)]
        # Masks walk through the slots in the order in which they are decided.
        sequence = replace(space, slots=tuple(space.slots[slot] for slot in order))
        rows = sum(isinstance(step, Operator) for step in steps)
        super().__init__(Masks(sequence), rows, **options)
        self.steps, self.order = steps, order
        based = [slot.skip is not None and slot.skip.base for slot in space.slots]
        # Entry 0 is as the base has it: of a skip of the base, open.
        self.sign = torch.tensor([1.0 if base else -1.0 for base in based], dtype=torch.float64)
        # Made after the others, so that a space without skips has exactly the controller of `nar`.
        hidden = len(self.start)
        self.node = parameter(len(steps) - rows, hidden)
        self.previous, self.current = parameter(hidden, hidden), parameter(hidden, hidden)
        self.attention = parameter(hidden)
        start_uniform((self.node, self.previous, self.current, self.attention), options["generator"])
        self.bias = nn.Parameter(torch.zeros(rows, self.masks.choices, dtype=torch.float64))
        self.skip_bias = nn.Parameter(torch.zeros(len(space), dtype=torch.float64))
        self.register_buffer("prior", torch.from_numpy(budget_prior(sequence)), persistent=False)

    @torch.no_grad()
    def draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Roll out ``n`` vectors at once; without a generator each step takes its most likely choice.

        Returns:
            The vectors ``(n, slots)``, and the probabilities ``(n, slots, choices)`` met along them. A vector that ran
            into a dead end (nothing leaves room for the rest) went on without the budget: check what you use.
        """
        walk = self.masks.walk(n)

        def decide(logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
            taken, met = [], []
            for offset in range(logits.shape[1]):
                allowed = walk.allowed()
                allowed[~allowed.any(axis=1)] = self.masks.legal[first + offset]
                here = logits[:, offset].masked_fill(~torch.from_numpy(allowed), -torch.inf).log_softmax(-1)
                p = here.exp()
                choice = p.argmax(-1) if generator is None else torch.multinomial(p, 1, generator=generator)[:, 0]
                walk.take(choice.numpy())
                taken.append(choice)
                met.append(here)
            return torch.stack(met, 1), torch.stack(taken, 1)

        log_p, vectors = self._roll(n, decide)
        return vectors, log_p.exp()

    def forward(self, vectors: Tensor) -> Tensor:
        """The log-probabilities ``(n, slots, choices)`` of every choice along vectors ``(n, slots)``."""
        given = vectors[:, self.order]
        allowed = torch.from_numpy(self.masks.along(given.numpy()))

        def decide(logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
            here = slice(first, first + logits.shape[1])
            return logits.masked_fill(~allowed[:, here], -torch.inf).log_softmax(-1), given[:, here]

        return self._roll(len(vectors), decide)[0]

    def _roll(self, n: int, decide: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Go through all steps; returns the log-probabilities and the choices of all slots, in the space's order.

        ``decide`` takes the logits ``(n, k, choices)`` of the next k slots and gives their log-probabilities and the
        choices ``(n, k)``.
        """
        given, state = self.start.expand(n, -1), None
        anchors: list[Tensor] = []
        log_p, taken, first = [], [], 0
        for step in self.steps:
            seen = self.slot[step.row] if isinstance(step, Operator) else self.node[step.node]
            output, state = self.lstm((given + seen)[:, None], state)
            h = output[:, 0]
            if isinstance(step, Anchor):
                anchors.append(h)
                given = self.start.expand(n, -1) if step.node == 0 else torch.zeros_like(h)
                if not step.slots:
                    continue
            logits = self._operator(h, step) if isinstance(step, Operator) else self._skips(h, anchors, step)
            prior = self.prior[first : first + logits.shape[1]]
            here, choice = decide(self.squash(logits, prior), first)
            if isinstance(step, Operator):
                given = self.operator[choice[:, 0]]
            else:
                opened = (self.sign[list(step.slots)] > 0) != choice.bool()
                given = self._mean(opened, torch.stack([anchors[source] for source in step.sources], 1))
            log_p.append(here)
            taken.append(choice)
            first += choice.shape[1]
        back = np.argsort(self.order).tolist()
        return torch.cat(log_p, 1)[:, back], torch.cat(taken, 1)[:, back]

    def _operator(self, h: Tensor, step: Operator) -> Tensor:
        return (h @ self.head[step.row] + self.bias_scale * self.bias[step.row])[:, None]

    def _skips(self, h: Tensor, anchors: list[Tensor], step: Anchor) -> Tensor:
        """Logits ``(n, k, choices)``; those beyond the two states of a skip are masked later."""
        slots = list(step.slots)
        before = torch.stack([anchors[source] for source in step.sources], 1) @ self.previous
        q = torch.tanh(before + (h @ self.current)[:, None]) @ self.attention + self.bias_scale * self.skip_bias[slots]
        signed = q * self.sign[slots]
        return nn.functional.pad(torch.stack([signed, -signed], -1), (0, self.masks.choices - 2))

    @staticmethod
    def _mean(opened: Tensor, anchors: Tensor) -> Tensor:
        """Σ h / (1 + number) over the sources that are open: ``(n, k)`` and ``(n, k, hidden)`` to ``(n, hidden)``."""
        weight = opened.to(anchors.dtype)
        return (weight[..., None] * anchors).sum(1) / (1 + weight.sum(1, keepdim=True))
