"""The operators: legality with a reason, cost by formula, and the weights that they start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sample_networks import Chain, images, part, settled
from torch import Tensor, nn

import narfx
from narfx.errors import UsageError
from narfx.graph.cost import measure
from narfx.operators import (
    Operator,
    build_operator,
    operator_cost,
    operator_names,
    refusal,
    register_operator,
    start_operator,
    unregister_operator,
)
from narfx.space.records import Site

PAPER = ("dwsep3x3", "maxpool3x3", "avgpool3x3", "conv5x5", "dwsep5x5")
BUILT_IN = (*PAPER, "conv1x1", "conv3x3", "grouped3x3", "identity")


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def site_of(conv: nn.Conv2d, size: tuple[int, int]) -> Site:
    with torch.no_grad():
        output = conv(torch.zeros(1, conv.in_channels, *size))
    padding = conv.padding
    assert not isinstance(padding, str)
    return Site(
        target="conv",
        occurrence=0,
        kind=f"conv{conv.kernel_size[0]}x{conv.kernel_size[1]}",
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        kernel=pair(conv.kernel_size),  # type: ignore[arg-type]
        stride=pair(conv.stride),  # type: ignore[arg-type]
        padding=pair(padding),  # type: ignore[arg-type]
        dilation=pair(conv.dilation),  # type: ignore[arg-type]
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        input_shape=(conv.in_channels, *size),
        output_shape=tuple(output.shape[1:]),
    )


@st.composite
def convolutions(draw: st.DrawFn, /, *, multiple: int = 1, **fixed: Any) -> tuple[nn.Conv2d, Site]:
    """A convolution of any geometry that a site may have, and its site."""
    size = draw(st.tuples(st.integers(3, 11), st.integers(3, 11)))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    options: dict[str, Any] = {
        "groups": groups,
        "stride": draw(st.sampled_from([1, 2, (1, 2)])),
        "padding": draw(st.sampled_from([0, 1, 2, (1, 0), (0, 2), 3])),
        "dilation": draw(st.sampled_from([1, 2, (1, 2)])),
        "bias": draw(st.booleans()),
        "padding_mode": draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    } | fixed
    counts = st.sampled_from([1, 2, 3] if multiple > 1 else [1, 2, 3, 4, 8])
    channels = (groups * multiple * draw(counts), groups * multiple * draw(counts))
    kernel = options.pop("kernel", None) or draw(st.sampled_from([3, 3, 5, 7]))
    conv = nn.Conv2d(*channels, kernel, **options)
    settled(conv, seed=draw(st.integers(0, 999)))
    try:
        return conv, site_of(conv, size)
    except RuntimeError:  # the map is too small for this convolution
        assume(False)
        raise


def started(name: str, conv: nn.Conv2d, site: Site) -> nn.Module:
    module = build_operator(name, site)
    start_operator(name, site, module, conv)
    return module.eval()


# What an operator refuses although it would give the right shape: reasons of meaning, not of arithmetic.
MEANING = ("pooling has no padding mode", "it is the site's own convolution", "cannot have the site's stride")


@settings(max_examples=40)
@given(drawn=convolutions())
def test_an_operator_is_legal_exactly_where_it_fits(drawn: tuple[nn.Conv2d, Site]) -> None:
    conv, site = drawn
    x = images(2, *site.input_shape)
    for name in BUILT_IN:
        reason = refusal(site, name)
        if reason is None:
            with torch.no_grad():
                found = started(name, conv, site)(x)
            assert found.shape == conv(x).shape and found.isfinite().all(), (name, site)
            continue
        assert len(reason) > 10
        if reason.startswith(MEANING) or (site.padding_mode != "zeros" and "no padding gives" in reason):
            continue  # a negative padding with a mode would cut the map
        with torch.no_grad(), pytest.raises((RuntimeError, UsageError, AssertionError)):
            assert build_operator(name, site).eval()(x).shape == conv(x).shape, (name, site)


@settings(max_examples=40)
@given(drawn=convolutions())
def test_costs_equal_a_count_on_the_built_module(drawn: tuple[nn.Conv2d, Site]) -> None:
    conv, site = drawn
    assert operator_cost(site, "base") == measure(conv, site.input_shape)
    for name in BUILT_IN:
        if refusal(site, name) is None:
            counted = measure(nn.Sequential(build_operator(name, site)), site.input_shape)
            assert operator_cost(site, name) == counted, (name, site)


@pytest.mark.parametrize(
    ("options", "size", "refused"),
    [
        ({"padding": 1}, 8, {}),
        ({"padding": 0}, 8, {}),
        ({"padding": 1, "stride": 2}, 8, {}),
        ({"padding": 1, "groups": 2, "bias": False}, 8, {}),
        ({"padding": 2, "dilation": 2}, 8, {}),
        ({"padding": 1, "dilation": 2}, 8, {}),
        ({"padding": 0, "dilation": 2}, 8, {"maxpool3x3": "cannot be padded", "avgpool3x3": "cannot be padded"}),
        ({"padding": 2}, 8, {"maxpool3x3": "cannot be padded", "avgpool3x3": "cannot be padded"}),
        (
            {"padding": 1, "padding_mode": "reflect"},
            8,
            {"maxpool3x3": "padding mode 'reflect'", "avgpool3x3": "padding mode 'reflect'"},
        ),
        (
            {"padding": 1, "padding_mode": "circular"},
            8,
            {"maxpool3x3": "padding mode 'circular'", "avgpool3x3": "padding mode 'circular'"},
        ),
        (
            {"padding": 1, "padding_mode": "reflect"},
            2,
            {"conv5x5": "reflect padding", "dwsep5x5": "reflect padding", "maxpool3x3": "mode", "avgpool3x3": "mode"},
        ),
        (
            {"padding": 1, "padding_mode": "circular"},
            1,
            {"conv5x5": "circular", "dwsep5x5": "circular", "maxpool3x3": "mode", "avgpool3x3": "mode"},
        ),
    ],
)
def test_refusals(options: dict[str, Any], size: int, refused: dict[str, str]) -> None:
    site = site_of(nn.Conv2d(4, 4, 3, **options), (size, size))
    reasons = {name: refusal(site, name) for name in PAPER}
    assert {name for name, reason in reasons.items() if reason} == set(refused)
    for name, words in refused.items():
        assert words in str(reasons[name])


def test_reflection_is_judged_in_each_direction() -> None:
    """Padding 3 of a map 3 wide cannot be reflected, although the map is high enough for padding 1."""
    site = site_of(nn.Conv2d(4, 4, 3, padding=(0, 2), padding_mode="reflect"), (8, 3))
    assert refusal(site, "dwsep3x3") is None
    assert refusal(site, "dwsep5x5") is not None


def test_parameters_of_the_operators_by_hand() -> None:
    site = site_of(nn.Conv2d(8, 12, 3, padding=1, groups=2, bias=True), (5, 7))
    params = {name: operator_cost(site, name)["params"] for name in (*PAPER, "conv1x1")}
    pointwise = 8 // 2 * 12 + 12
    assert params == {
        "dwsep3x3": 9 * 8 + pointwise,
        "maxpool3x3": pointwise,
        "avgpool3x3": pointwise,
        "conv5x5": 25 * 8 // 2 * 12 + 12,
        "dwsep5x5": 25 * 8 + pointwise,
        "conv1x1": pointwise,
    }
    assert operator_cost(site, "conv1x1")["macs"] == 8 // 2 * 12 * 35
    wide = site_of(nn.Conv2d(8, 16, 3, padding=1, groups=2, bias=True), (5, 7))
    assert operator_cost(wide, "grouped3x3") == {"params": 9 * 8 // 8 * 16 + 16, "macs": 9 * 8 // 8 * 16 * 35}
    assert operator_cost(site, "dwsep3x3")["macs"] == (9 * 8 + 8 // 2 * 12) * 35


@pytest.mark.parametrize(
    ("name", "options", "size", "words"),
    [
        ("grouped3x3", {"in_channels": 6}, 8, "its 6 input channels cannot be split into 4 groups"),
        ("grouped3x3", {"out_channels": 6}, 8, "its 6 output channels cannot be split into 4 groups"),
        ("grouped3x3", {"groups": 4}, 8, "into 4 groups within each of the site's 4"),
        ("grouped3x3", {"padding": 0, "kernel_size": 5}, 8, "no padding gives a 3x3 kernel"),
        ("conv1x1", {"padding": 0}, 8, "no padding gives a 1x1 kernel"),
        ("conv3x3", {}, 8, "the site's own convolution"),
        ("conv5x5", {"padding": 2, "kernel_size": 5}, 8, "the site's own convolution"),
        ("identity", {"stride": 2}, 8, "stride of 2x2"),
        ("identity", {"stride": 2}, 1, "stride of 2x2"),
        ("identity", {"out_channels": 12}, 8, "turn 8x8x8 into 12x8x8"),
        ("identity", {"padding": 0}, 8, "turn 8x8x8 into 8x6x6"),
        ("avgpool3x3", {"padding": 0, "kernel_size": 5}, 8, "cannot be padded"),
    ],
)
def test_reasons_of_the_further_operators(name: str, options: dict[str, Any], size: int, words: str) -> None:
    settings = {"in_channels": 8, "out_channels": 8, "kernel_size": 3, "padding": 1} | options
    assert words in str(refusal(site_of(nn.Conv2d(**settings), (size, size)), name))


@pytest.mark.parametrize("kernel", [5, 7])
def test_every_operator_stands_at_a_plain_site_of_a_large_kernel(kernel: int) -> None:
    for stride in (1, 2):
        site = site_of(nn.Conv2d(8, 8, kernel, padding=kernel // 2, stride=stride), (12, 12))
        legal = {name for name in BUILT_IN if refusal(site, name) is None}
        own = {f"conv{kernel}x{kernel}"} & set(BUILT_IN)
        assert legal == set(BUILT_IN) - own - ({"identity"} if stride == 2 else set())


def make_separable(conv: nn.Conv2d, seed: int, kernel: int = 3) -> None:
    """Give the convolution a kernel that is a depthwise kernel and then a 1x1 of its groups, zero around the middle."""
    around = [(conv.kernel_size[0] - kernel) // 2] * 4
    taps = nn.functional.pad(images(conv.in_channels, kernel, kernel, seed=seed), around)
    mix = images(conv.out_channels, conv.in_channels // conv.groups, seed=seed + 1)
    per_group = taps.reshape(conv.groups, -1, *conv.kernel_size).repeat_interleave(conv.out_channels // conv.groups, 0)
    with torch.no_grad():
        conv.weight.copy_(mix[:, :, None, None] * per_group)


@given(drawn=convolutions(), name=st.sampled_from(["dwsep3x3", "dwsep5x5"]), seed=st.integers(0, 99))
def test_a_separable_kernel_is_reproduced(drawn: tuple[nn.Conv2d, Site], name: str, seed: int) -> None:
    conv, site = drawn
    assume(refusal(site, name) is None)
    make_separable(conv, seed)
    x = images(2, *site.input_shape)
    with torch.no_grad():
        assert torch.allclose(started(name, conv, site)(x), conv(x), rtol=1e-4, atol=1e-5)


def confine(conv: nn.Conv2d, kernel: int) -> None:
    """Set the taps around the middle ``kernel`` to zero."""
    around = max((conv.kernel_size[0] - kernel) // 2, 0)
    end = conv.kernel_size[0] - around
    mask = torch.zeros(conv.kernel_size)
    mask[around:end, around:end] = 1
    with torch.no_grad():
        conv.weight.mul_(mask)


@given(drawn=convolutions(padding_mode="zeros"), name=st.sampled_from(["conv3x3", "conv5x5"]))
def test_another_kernel_starts_as_the_middle_of_the_sites_own(drawn: tuple[nn.Conv2d, Site], name: str) -> None:
    conv, site = drawn
    assume(refusal(site, name) is None)
    confine(conv, int(name[-1]))
    x = images(2, *site.input_shape)
    with torch.no_grad():
        assert torch.allclose(started(name, conv, site)(x), conv(x), rtol=1e-5, atol=1e-5)


@given(drawn=convolutions(padding_mode="zeros"))
def test_a_1x1_starts_as_a_kernel_that_is_its_middle(drawn: tuple[nn.Conv2d, Site]) -> None:
    conv, site = drawn
    assume(refusal(site, "conv1x1") is None)
    confine(conv, 1)
    x = images(2, *site.input_shape)
    with torch.no_grad():
        assert torch.allclose(started("conv1x1", conv, site)(x), conv(x), rtol=1e-5, atol=1e-5)


def test_a_1x1_starts_as_the_sum_over_the_taps() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    module = started("conv1x1", conv, site_of(conv, (6, 6)))
    assert torch.allclose(part(module, "").weight, conv.weight.sum((2, 3), keepdim=True), atol=1e-7)


@given(drawn=convolutions(multiple=4))
def test_a_kernel_without_other_blocks_is_grouped_already(drawn: tuple[nn.Conv2d, Site]) -> None:
    conv, site = drawn
    assume(refusal(site, "grouped3x3") is None)
    groups = 4 * conv.groups
    with torch.no_grad():
        owner = torch.arange(conv.out_channels) // (conv.out_channels // groups)
        reader = torch.arange(conv.in_channels) // (conv.in_channels // groups)
        per_group = reader.reshape(conv.groups, -1).repeat_interleave(conv.out_channels // conv.groups, 0)
        conv.weight.mul_((owner[:, None] == per_group)[:, :, None, None])
    confine(conv, 3)
    x = images(2, *site.input_shape)
    with torch.no_grad():
        assert torch.allclose(started("grouped3x3", conv, site)(x), conv(x), rtol=1e-5, atol=1e-5)


def test_an_identity_is_exact_and_a_tensor_of_its_own() -> None:
    module = build_operator("identity", site_of(nn.Conv2d(4, 4, 3, padding=1), (3, 3)))
    odd = torch.tensor([0.0, -0.0, 1e-45, 3e38, -3e38, float("inf"), float("-inf"), float("nan"), 1 / 3])
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = odd.reshape(1, 1, 3, 3).to(dtype)
        found = module(x)
        assert torch.allclose(found, x, rtol=0, atol=0, equal_nan=True) and found.data_ptr() != x.data_ptr()


class Basic(nn.Module):
    """torchvision's BasicBlock without its norms: an in-place activation stands right behind the first site."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.resnet import BasicBlock

        self.stem = nn.Conv2d(3, 8, 1)
        self.block = BasicBlock(8, 8, norm_layer=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.block(self.stem(x))
        return found


@pytest.mark.parametrize("vector", [(1, 0), (0, 1), (1, 1)])
def test_an_identity_before_an_in_place_activation_spares_the_residual_branch(
    vector: tuple[int, int], tmp_path: Path
) -> None:
    model = settled(Basic())
    net = narfx.Supernet(narfx.trace(model, input=(3, 6, 6), operators=("base", "identity")))
    lowered = narfx.lower(net, vector)
    net.set_vector(vector)
    x = images(2, 3, 6, 6)
    with torch.no_grad():
        trunk = part(model, "stem")(x)
        inner = torch.relu(trunk if vector[0] else part(model, "block.conv1")(trunk))
        expected = torch.relu((inner if vector[1] else part(model, "block.conv2")(inner)) + trunk)
        assert torch.equal(lowered(x), expected) and torch.equal(net(x), expected)
    lowered(x).sum().backward()  # nor does autograd find a tensor overwritten
    if vector == (1, 1):
        report = narfx.export(lowered, tmp_path / "out", input=(3, 6, 6))
        assert report["parity"]["passed"] and report["source"] is None


@given(seed=st.integers(0, 99), groups=st.sampled_from([1, 2]))
def test_the_depthwise_start_is_the_nearest_separable_kernel(seed: int, groups: int) -> None:
    """No other pair of factors comes nearer (Eckart and Young 1936)."""
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=groups, bias=False)
    settled(conv, seed)
    module = started("dwsep3x3", conv, site_of(conv, (6, 6)))

    def kernel(depthwise: Tensor, pointwise: Tensor) -> Tensor:
        per_group = depthwise.reshape(groups, -1, 3, 3).repeat_interleave(6 // groups, 0)
        return pointwise.reshape(6, 4 // groups, 1, 1) * per_group

    depthwise, pointwise = part(module, "depthwise").weight.detach(), part(module, "pointwise").weight.detach()
    error = (conv.weight - kernel(depthwise, pointwise)).norm()
    assert error < conv.weight.norm()
    # The sign and the size could be split in many ways: taps that add up, and factors of one size.
    assert (depthwise.sum((1, 2, 3)) >= 0).all()
    columns = pointwise.reshape(groups, 6 // groups, 4 // groups).transpose(1, 2).reshape(4, -1)
    assert torch.allclose(depthwise.flatten(1).norm(dim=1), columns.norm(dim=1), rtol=1e-4)
    for step in (1e-3, 1e-1):
        moved = kernel(
            depthwise + step * images(*depthwise.shape, seed=seed), pointwise + step * images(*pointwise.shape)
        )
        assert error <= (conv.weight - moved).norm() + 1e-6


@pytest.mark.parametrize("name", ["avgpool3x3", "maxpool3x3"])
@given(drawn=convolutions(padding_mode="zeros", dilation=1, kernel=3))
def test_a_pooling_start_is_exact_on_constant_maps(name: str, drawn: tuple[nn.Conv2d, Site]) -> None:
    conv, site = drawn
    assume(refusal(site, name) is None)
    x = images(2, site.in_channels, 1, 1).expand(2, *site.input_shape)
    with torch.no_grad():
        expected, found = conv(x), started(name, conv, site)(x)
    # Where the kernel touches the padding, the map is not constant under it.
    edge = [slice(p, (None if p == 0 else -p)) for p in site.padding]
    inside = (..., *edge)
    assert torch.allclose(found[inside], expected[inside], rtol=1e-4, atol=1e-5)


def test_the_average_counts_the_border_as_zeros() -> None:
    site = site_of(nn.Conv2d(1, 1, 3, padding=1), (3, 3))
    assert part(build_operator("avgpool3x3", site), "pool").count_include_pad


def test_biases_are_kept() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    settled(conv)
    site = site_of(conv, (6, 6))
    assert conv.bias is not None
    for name in {*BUILT_IN} - {"conv3x3", "identity"}:
        with torch.no_grad():
            constant = started(name, conv, site)(torch.zeros(1, 4, 6, 6))
        assert torch.equal(constant, conv.bias[None, :, None, None].expand(1, 4, 6, 6))


def test_a_kernel_of_zeros_starts_as_zeros() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    nn.init.zeros_(conv.weight)
    x = images(1, 4, 6, 6)
    for name in {*BUILT_IN} - {"identity"}:
        assert not started(name, conv, site_of(conv, (6, 6)))(x).any()


def test_an_unknown_operator_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match=r"unknown operator 'dwsep4x4': choose from base, dwsep3x3") as caught:
        narfx.trace(Chain(), input=(3, 8, 8), operators=("base", "dwsep4x4"))
    assert caught.value.kind == "unknown_operator"


@pytest.fixture
def half() -> Iterator[Operator]:
    """An operator of the user's own: the 1x1 in the middle of the kernel."""

    def start(module: nn.Module, conv: nn.Conv2d) -> None:
        module.weight.copy_(conv.weight[:, :, 1:2, 1:2])  # type: ignore[operator]

    operator = Operator(
        "middle",
        lambda site: nn.Conv2d(site.in_channels, site.out_channels, 1, stride=site.stride, bias=False),
        lambda site: None if site.padding == (1, 1) and not site.bias else "it wants padding 1 and no bias",
        lambda site: {
            "params": site.in_channels * site.out_channels,
            "macs": site.in_channels * site.out_channels * site.output_shape[1] * site.output_shape[2],
        },
        start,
    )
    register_operator(operator)
    yield operator
    unregister_operator("middle")


def test_an_operator_of_the_users_own(half: Operator) -> None:
    assert operator_names()[-1] == "middle"
    model = settled(Chain())
    traced = narfx.trace(model, input=(3, 8, 8), operators=("base", "middle"))
    assert [slot.legal for slot in traced.space.slots] == [(0, 1), (0, 1)]
    lowered = narfx.lower(narfx.Supernet(traced), (1, 0))
    assert torch.equal(part(lowered, "body.0").weight, part(model, "body.0").weight[:, :, 1:2, 1:2])
    assert measure(lowered, (3, 8, 8)) == traced.space.cost((1, 0))


@pytest.mark.parametrize("name", ["base", "dwsep3x3", "middle"])
def test_a_name_is_taken_once(half: Operator, name: str) -> None:
    with pytest.raises(UsageError, match=f"there is already an operator '{name}'"):
        register_operator(Operator(name, half.build, half.refuse, half.cost, half.start))


def test_a_name_is_an_identifier(half: Operator) -> None:
    with pytest.raises(UsageError, match="must be an identifier, not 'my op'"):
        register_operator(Operator("my op", half.build, half.refuse, half.cost, half.start))
