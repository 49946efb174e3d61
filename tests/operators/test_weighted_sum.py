"""The weighted sum of a mixture gives what products and sums give, and so do its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from narfx.operators.weighted_sum import weighted_sum

FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "expanded": lambda x: x[:1].expand_as(x),
    "a part": lambda x: torch.cat([x, x], 3)[..., : x.shape[3]],
}


@given(
    forms=st.lists(st.sampled_from(sorted(FORMS)), min_size=1, max_size=4),
    learned=st.lists(st.booleans(), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_it_is_the_sum_with_its_gradients(forms: list[str], learned: list[bool], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def leaves() -> tuple[list[Tensor | float], list[Tensor]]:
        numbers = torch.rand(len(forms), generator=generator, dtype=torch.float64).tolist()
        weights = [torch.tensor(x, dtype=torch.float64, requires_grad=True) if learns else x
                   for x, learns in zip(numbers, learned, strict=False)]  # fmt: skip
        shape = (3, 4, 2, 5)
        outputs = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in forms]
        return weights, outputs

    weights, outputs = leaves()
    shaped = [FORMS[form](output) for form, output in zip(forms, outputs, strict=True)]
    gradient = torch.randn(3, 4, 2, 5, generator=generator, dtype=torch.float64)
    inputs = [x for x in (*weights, *outputs) if isinstance(x, Tensor)]
    plain = sum(weight * output for weight, output in zip(weights, shaped, strict=True))
    assert isinstance(plain, Tensor)
    expected = torch.autograd.grad(plain, inputs, gradient, retain_graph=True)
    total = weighted_sum(weights, shaped)
    torch.testing.assert_close(total, plain)
    for found, known in zip(torch.autograd.grad(total, inputs, gradient, retain_graph=True), expected, strict=True):
        torch.testing.assert_close(found, known)
    with torch.no_grad():
        assert torch.equal(weighted_sum(weights, iter(shaped)), total)


def test_what_it_is_given_stays_as_it_is() -> None:
    outputs = [torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3)]
    weighted_sum([0.5, torch.tensor(0.25)], outputs)
    assert all((output == 1).all() for output in outputs)


def test_without_gradients_one_output_is_there_at_a_time() -> None:
    alive: list[int] = []

    def made() -> Iterator[Tensor]:
        for index in range(4):
            alive.append(index)
            yield torch.full((1, 1, 2, 2), float(index))

    with torch.no_grad():
        assert weighted_sum([1.0] * 4, made()).unique().tolist() == [6.0]
    assert alive == [0, 1, 2, 3]


@pytest.mark.parametrize("first", [torch.float32, torch.bfloat16])
def test_types_are_those_of_a_sum(first: torch.dtype) -> None:
    second = torch.bfloat16 if first is torch.float32 else torch.float32
    weights = [torch.tensor(0.5, requires_grad=True), torch.tensor(0.5, requires_grad=True)]
    outputs = [torch.ones(1, 1, 2, 2, dtype=kind, requires_grad=True) for kind in (first, second)]
    total = weighted_sum(weights, outputs)
    assert total.dtype == torch.float32 and total.unique().tolist() == [1.0]
    total.sum().backward()
    assert [output.grad.dtype for output in outputs if output.grad is not None] == [first, second]
    assert all(weight.grad is not None and weight.grad.item() == 4 for weight in weights)
