"""ArcFace's head against its formula, and where numbers are hard."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from narfx.tasks.arcface import ArcFaceHead


def turned(angle: float) -> tuple[ArcFaceHead, torch.Tensor]:
    """A head with centres along the first two axes, and an embedding at ``angle`` from the first."""
    head = ArcFaceHead(2, 2)
    with torch.no_grad():
        head.weight.copy_(3 * torch.eye(2))
    return head, torch.tensor([[math.cos(angle), math.sin(angle)]]) * 7


@given(st.floats(0.01, math.pi - 0.01), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from([1.0, 64.0]))
def test_the_formula(angle: float, margin: float, scale: float) -> None:
    head, embedding = turned(angle)
    head.margin, head.scale = margin, scale
    own, other = head(embedding, torch.tensor([0]))[0].tolist()
    beyond = math.cos(angle) - margin * math.sin(margin)
    wanted = math.cos(angle + margin) if angle < math.pi - margin else beyond
    if abs(angle - (math.pi - margin)) > 1e-3:
        assert own == pytest.approx(scale * wanted, abs=scale * 2e-4)
    assert other == pytest.approx(scale * math.sin(angle), abs=scale * 1e-5)
    assert head.cosines(embedding)[0].tolist() == pytest.approx([math.cos(angle), math.sin(angle)], abs=1e-5)


def test_a_larger_angle_never_earns_more() -> None:
    angles = torch.linspace(0, math.pi, 2001)
    logits = torch.cat([turned(float(angle))[0](turned(float(angle))[1], torch.tensor([0]))[:, 0] for angle in angles])
    assert (logits.diff() < 1e-4).all() and logits[0] - logits[-1] > 64


@pytest.mark.parametrize("angle", [0.0, 1e-8, math.pi - 0.5, math.pi - 1e-8, math.pi])
def test_gradients_are_finite_where_the_angle_is_extreme(angle: float) -> None:
    head, embedding = turned(angle)
    embedding.requires_grad_()
    functional.cross_entropy(head(embedding, torch.tensor([0])), torch.tensor([0])).backward()
    for gradient in (embedding.grad, head.weight.grad):
        assert gradient is not None and torch.isfinite(gradient).all() and gradient.abs().max() < 1e5


def test_an_embedding_of_zeros_and_a_huge_one() -> None:
    head, _ = turned(1.0)
    embeddings = torch.tensor([[0.0, 0.0], [1e18, 1e18]], requires_grad=True)
    loss = functional.cross_entropy(head(embeddings, torch.tensor([0, 1])), torch.tensor([0, 1]))
    loss.backward()
    assert math.isfinite(float(loss.detach())) and embeddings.grad is not None and embeddings.grad.isfinite().all()


def test_half_precision_is_lifted() -> None:
    head, embedding = turned(0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cosines = head.cosines(embedding.bfloat16())
    assert cosines.dtype == torch.float32 and float(cosines[0, 0].detach()) == pytest.approx(math.cos(0.1), abs=4e-3)


def test_only_directions_count() -> None:
    generator = torch.Generator().manual_seed(0)
    head, x, y = ArcFaceHead(5, 8), torch.randn(6, 8, generator=generator), torch.tensor([0, 1, 2, 3, 4, 0])
    before = head(x, y)
    with torch.no_grad():
        head.weight.mul_(torch.rand(5, 1, generator=generator) + 0.5)
    assert torch.allclose(head(x * 3, y), before, atol=1e-3)
