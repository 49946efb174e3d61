"""The head of ArcFace (Deng et al., arXiv 1801.07698): an angular margin on the cosine to each identity's centre.

With theta the angle between an embedding and the centre of its identity, the logit of that identity is s cos(theta + m)
and every other one is s cos(theta_j). Beyond theta = pi - m, where cos(theta + m) would rise again, it is
cos(theta) - m sin(m) instead, as in the authors' code, so that a larger angle never gives a larger logit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ArcFaceHead"]

# Below this length a vector has no direction worth a gradient; below this squared sine an angle counts as none.
_SHORT, _FLAT = 1e-6, 1e-6


class ArcFaceHead(nn.Module):
    """The centres of the identities, one row of ``weight`` (identities, dimension) each; only directions matter.

    Args:
        identities: Number of identities.
        dimension: Length of an embedding.
        scale: s, the length to which embeddings are scaled.
        margin: m, in radians.
    """

    def __init__(self, identities: int, dimension: int, *, scale: float = 64.0, margin: float = 0.5) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.empty(identities, dimension))
        self.reset(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Random directions, drawn on the CPU."""
        self.weight.copy_(torch.randn(self.weight.shape, generator=generator) * 0.01)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """The cosines (B, identities) of embeddings (B, dimension) to all centres, in float32."""
        # In bfloat16, which autocast would use, the angle between near neighbours is lost.
        with torch.autocast(embeddings.device.type, enabled=False):
            directions = functional.normalize(embeddings.float(), eps=_SHORT)
            return functional.linear(directions, functional.normalize(self.weight, eps=_SHORT))

    def forward(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """The logits (B, identities) of embeddings (B, dimension) with the margin at ``target`` (B,)."""
        cosines = self.cosines(embeddings)
        own = cosines.gather(1, target[:, None])
        sine = (1 - own.square()).clamp_min(_FLAT).sqrt()
        shifted = own * math.cos(self.margin) - sine * math.sin(self.margin)
        continued = own - self.margin * math.sin(self.margin)
        shifted = torch.where(own > math.cos(math.pi - self.margin), shifted, continued)
        return self.scale * cosines.scatter(1, target[:, None], shifted)
