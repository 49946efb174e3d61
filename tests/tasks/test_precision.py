"""How numbers are computed: float32, or products in bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from narfx.errors import UsageError
from narfx.tasks.precision import Precision


def test_precision() -> None:
    """What goes in and out is float32; the rounding in between is bfloat16's; memory is ordered as asked."""
    seen: list[torch.Tensor] = []
    conv = nn.Conv2d(3, 4, 3, bias=False)
    conv.register_forward_hook(lambda _, given, output: seen.extend((*given, output)))
    images = torch.rand(2, 3, 8, 8)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        for last in (True, False):
            numbers = Precision(precision, last)  # type: ignore[arg-type]
            assert numbers.train(conv, images).dtype == torch.float32
            given, output = seen[-2:]
            assert output.dtype == dtype
            assert given.is_contiguous(memory_format=torch.channels_last) == last
    with pytest.raises(UsageError, match="bfloat16"):
        Precision("bf16", device_type="meta")
