"""The edge of a cell, which declares what else may stand there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from narfx.models.cell_operators import build_cell_operator, start_like

__all__ = ["CellEdge", "Fixed"]


class CellEdge(nn.Module):
    """One operator of a cell, and the candidates for its place.

    Args:
        own: The operator that stands here.
        others: What else may stand here; ``own`` may be among them.
        channels: Of the input and of the output.
        stride: 1 or 2.
        slot: The name of the choice that this edge shares with those of other cells.
        affine: See :func:`~narfx.models.cell_operators.build_cell_operator`.
        pool_norm: See there.
        drop_path: See there.
    """

    def __init__(
        self,
        own: str,
        others: Sequence[str],
        channels: int,
        stride: int,
        slot: str,
        *,
        affine: bool = True,
        pool_norm: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.own, self.names, self.narfx_slot = own, tuple(dict.fromkeys((own, *others))), slot
        self.arguments = (channels, stride, affine, pool_norm, drop_path)
        self.operator = self._build(own)

    def _build(self, name: str) -> nn.Module:
        channels, stride, affine, pool_norm, drop_path = self.arguments
        return build_cell_operator(
            name, channels, stride, affine=affine, pool_norm=pool_norm, drop_path=drop_path
        )  # fmt: skip

    def narfx_candidates(self) -> dict[str, Callable[[], nn.Module] | None]:
        """What may stand here, the edge's own operator first."""
        return {name: None if name == "none" else partial(self._build, name) for name in self.names}

    def narfx_start(self, name: str, module: nn.Module) -> None:
        """Start a candidate from the edge's own weights."""
        start_like(module, name, self.operator, self.own)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, channels, H / stride, W / stride)."""
        output: Tensor = self.operator(x)
        return output


class Fixed(nn.Sequential):
    """Layers in which nothing is refined, such as a stem."""

    def narfx_candidates(self) -> dict[str, None]:
        """Nothing else may stand here."""
        return {}
