"""NAR's controller: an LSTM over the slots that gives each slot a distribution over its choices.

It is the operator half of ENAS' controller (arXiv 1802.03268), as NAR uses it (arXiv 1905.02341): the input of a step
is the embedding of the choice before, logits are squashed by T·tanh(u/τ), and all weights start uniform in
(−0.1, 0.1). Beyond ENAS each slot has a head, an embedding and a bias of its own: the slots of a given network are
not alike, and the biases let the policy learn within some hundred rewards what the recurrent weights would need
thousands for. What a slot or the budget refuses has a logit of minus infinity, so that the probabilities are those of
the vectors that can be drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from narfx.search.option_checks import number, whole
from narfx.search.policies.masks import Masks, budget_prior
from narfx.space.space import SearchSpace

__all__ = ["Controller", "LstmOptions", "LstmPolicy", "parameter", "start_uniform"]


class LstmOptions(TypedDict):
    """The options of a policy: the size of the LSTM, T, τ, how fast biases move, and where first weights come from."""

    hidden: int
    tanh_constant: float
    temperature: float
    bias_scale: float
    generator: torch.Generator


class LstmPolicy(nn.Module):
    """An LSTM, and for each of its ``rows`` a head and an embedding; all weights start uniform in ±0.1.

    In float64: it is tiny, and a draw then does not depend on the size of its batch.

    Raises:
        ValueError: An option is not a number in its range.
    """

    prior: Tensor

    def __init__(self, masks: Masks, rows: int, **options: Unpack[LstmOptions]) -> None:
        super().__init__()
        self.masks = masks
        self.tanh_constant = number("tanh_constant", options["tanh_constant"], above=0)
        self.temperature = number("temperature", options["temperature"], above=0)
        self.bias_scale = number("bias_scale", options["bias_scale"], least=0)
        hidden, choices = whole("hidden", options["hidden"], least=1), masks.choices
        # By way of the meta device: a module's own initialisation would draw from torch's global generator.
        lstm = nn.LSTM(hidden, hidden, bias=False, batch_first=True, dtype=torch.float64, device="meta")
        self.lstm = lstm.to_empty(device="cpu")
        self.start, self.operator = parameter(hidden), parameter(choices, hidden)
        self.slot, self.head = parameter(rows, hidden), parameter(rows, hidden, choices)
        start_uniform(self.parameters(), options["generator"])

    def squash(self, logits: Tensor, prior: Tensor) -> Tensor:
        """T·tanh(u/τ), and what the budget's prior adds."""
        return self.tanh_constant * torch.tanh(logits / self.temperature) + prior


def parameter(*shape: int) -> nn.Parameter:
    """A parameter in float64, without values yet."""
    return nn.Parameter(torch.empty(*shape, dtype=torch.float64))


def start_uniform(parameters: Iterable[nn.Parameter], generator: torch.Generator) -> None:
    """Draw the first values of these parameters, uniform in ±0.1."""
    for entry in parameters:
        nn.init.uniform_(entry, -0.1, 0.1, generator=generator)


class Controller(LstmPolicy):
    """The policy: one step of the LSTM for each slot."""

    def __init__(self, space: SearchSpace, **options: Unpack[LstmOptions]) -> None:
        masks = Masks(space)
        super().__init__(masks, masks.slots, **options)
        self.bias = nn.Parameter(torch.zeros(masks.slots, masks.choices, dtype=torch.float64))
        self.register_buffer("prior", torch.from_numpy(budget_prior(space)), persistent=False)

    def _log_probabilities(self, output: Tensor, slot: int | slice, allowed: Tensor) -> Tensor:
        """From the LSTM's output ``(..., hidden)`` at one slot, or ``(n, slots, hidden)`` at all."""
        equation = "nh,hk->nk" if isinstance(slot, int) else "nsh,shk->nsk"
        logits = torch.einsum(equation, output, self.head[slot]) + self.bias_scale * self.bias[slot]
        return self.squash(logits, self.prior[slot]).masked_fill(~allowed, -torch.inf).log_softmax(-1)

    @torch.no_grad()
    def draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Roll out ``n`` vectors at once; without a generator each step takes its most likely choice.

        Returns:
            The vectors ``(n, slots)``, and the probabilities ``(n, slots, choices)`` met along them. A vector that
            ran into a dead end (no choice leaves room for the rest) went on without the budget: check what you use.
        """
        walk = self.masks.walk(n)
        given, state = self.start.expand(n, 1, -1), None
        vectors, probabilities = [], []
        for slot in range(self.masks.slots):
            allowed = walk.allowed()
            allowed[~allowed.any(axis=1)] = self.masks.legal[slot]
            output, state = self.lstm(given + self.slot[slot], state)
            here = self._log_probabilities(output[:, 0], slot, torch.from_numpy(allowed)).exp()
            taken = here.argmax(-1) if generator is None else torch.multinomial(here, 1, generator=generator)[:, 0]
            walk.take(taken.numpy())
            given = self.operator[taken][:, None]
            vectors.append(taken)
            probabilities.append(here)
        return torch.stack(vectors, 1), torch.stack(probabilities, 1)

    def forward(self, vectors: Tensor) -> Tensor:
        """The log-probabilities ``(n, slots, choices)`` of every choice along vectors ``(n, slots)``."""
        start = self.start.expand(len(vectors), 1, -1)
        output, _ = self.lstm(torch.cat([start, self.operator[vectors[:, :-1]]], dim=1) + self.slot)
        allowed = torch.from_numpy(self.masks.along(vectors.numpy()))
        return self._log_probabilities(output, slice(None), allowed)
