"""How numbers are computed: float32, or products in bfloat16, in an order of memory that must not crash."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from narfx.errors import UsageError
from narfx.support.devices import bf16_instructions
from narfx.tasks.precision import Precision

STEP = """
import torch
from torch import nn
from narfx.tasks.precision import Precision
for channels, size in [(12, 112), (8, 224), (15, 56)]:
    for arrange in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 24, 1, 2))
        precision = Precision(channels_last=arrange)
        precision.arrange(net)
        images = torch.randn(4, 3, size, size)
        for _ in range(3):
            precision.train(net, images).square().mean().backward()
        print([round(p.grad.double().norm().item(), 6) for p in net.parameters()], flush=True)
"""


def test_a_strided_1x1_convolution_of_few_channels_trains_and_is_right() -> None:
    """In channels-last its backward pass ends the process on some CPUs (exit code -11)."""
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    told = [torch.tensor(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(told) == 6
    for plain, arranged in zip(told[::2], told[1::2], strict=True):
        torch.testing.assert_close(arranged, plain, rtol=1e-4, atol=1e-6)


def test_arrange_changes_no_value_and_leaves_nothing_when_released() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 24, 1, 2), nn.Conv2d(24, 24, 1, 2))
    x = torch.randn(2, 3, 16, 16)
    before = net(x)
    precision = Precision()
    for _ in range(2):
        precision.arrange(net)
    assert [len(part._forward_pre_hooks) for part in net] == [0, 1, 0]
    torch.testing.assert_close(precision.train(net, x), before)
    precision.release(net)
    assert not any(part._forward_pre_hooks for part in net)


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


@pytest.mark.parametrize(
    ("groups", "size", "stride", "dilation", "exact"),
    [(8, 3, 1, 1, False), (8, 3, 2, 1, True), (8, 5, 1, 1, True), (8, 3, 1, 2, True), (2, 5, 2, 1, False)],
)
def test_depthwise_convolutions_that_are_slow_learn_in_float32(
    groups: int, size: int, stride: int, dilation: int, exact: bool
) -> None:
    """Their backward pass in bfloat16 has no kernel of its own; without gradients they are like the others."""
    conv = nn.Conv2d(8, 8, size, stride, padding=size // 2, dilation=dilation, groups=groups)
    images, precision = torch.rand(2, 8, 9, 9), Precision("bf16")
    with precision.autocast():
        assert conv(images).dtype == (torch.float32 if exact else torch.bfloat16)
        conv(images.bfloat16()).float().sum().backward()
        assert nn.functional.conv2d(
            images, conv.weight, stride=stride, dilation=[dilation] * 2, groups=groups
        ).dtype == (torch.float32 if exact else torch.bfloat16)
        with torch.no_grad():
            assert conv(images).dtype == torch.bfloat16
    assert conv.weight.grad is not None and conv.weight.grad.dtype == torch.float32
    with torch.inference_mode(), precision.autocast():
        assert conv(images).dtype == torch.bfloat16


def test_a_processor_without_bfloat16_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the results are right, but late."""
    assert bool(Precision("bf16").notes) != bool(bf16_instructions())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "amx_bf16": False}, raising=False)
    (note,) = Precision("bf16").notes
    assert "slower" in note and not Precision("fp32").notes
