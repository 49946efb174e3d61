"""The operators: legality with a reason, cost by formula, and the weights that they start from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sample_networks import Chain, images, part, settled
from torch import Tensor, nn

import narfx
from narfx import operators
from narfx.cost import measure
from narfx.errors import UsageError
from narfx.operators import Operator, get_operator, operator_names, register_operator
from narfx.space import Site

BUILT_IN = ("dwsep3x3", "maxpool3x3", "avgpool3x3", "conv5x5", "dwsep5x5")


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
def convolutions(draw: st.DrawFn, /, **fixed: Any) -> tuple[nn.Conv2d, Site]:
    """A 3x3 convolution of any geometry that fits its map, and its site."""
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
    channels = (groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4)))
    conv = nn.Conv2d(*channels, 3, **options)
    settled(conv, seed=draw(st.integers(0, 999)))
    try:
        return conv, site_of(conv, size)
    except RuntimeError:  # the map is too small for this convolution
        assume(False)
        raise


def started(name: str, conv: nn.Conv2d, site: Site) -> nn.Module:
    operator = get_operator(name)
    module = operator.build(site)
    operator.start(module, conv)
    return module.eval()


@given(drawn=convolutions(), name=st.sampled_from(BUILT_IN))
def test_an_operator_fits_its_site_or_says_why_not(drawn: tuple[nn.Conv2d, Site], name: str) -> None:
    conv, site = drawn
    reason = get_operator(name).refuse(site)
    if reason is not None:
        assert len(reason) > 10
        return
    x = images(2, *site.input_shape)
    with torch.no_grad():
        assert started(name, conv, site)(x).shape == conv(x).shape


@given(drawn=convolutions(), name=st.sampled_from(BUILT_IN))
def test_costs_equal_a_count_on_the_built_module(drawn: tuple[nn.Conv2d, Site], name: str) -> None:
    conv, site = drawn
    assume(get_operator(name).refuse(site) is None)
    assert get_operator(name).cost(site) == measure(get_operator(name).build(site), site.input_shape)
    assert operators.operator_cost(site, "base") == measure(conv, site.input_shape)


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
            {"conv5x5": "reflection", "dwsep5x5": "reflection", "maxpool3x3": "mode", "avgpool3x3": "mode"},
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
    reasons = {name: get_operator(name).refuse(site) for name in BUILT_IN}
    assert {name for name, reason in reasons.items() if reason} == set(refused)
    for name, words in refused.items():
        assert words in str(reasons[name])


def test_reflection_is_judged_in_each_direction() -> None:
    """Padding 3 of a map 3 wide cannot be reflected, although the map is high enough for padding 1."""
    site = site_of(nn.Conv2d(4, 4, 3, padding=(0, 2), padding_mode="reflect"), (8, 3))
    assert get_operator("dwsep3x3").refuse(site) is None
    assert get_operator("dwsep5x5").refuse(site) is not None


def test_parameters_of_the_operators_by_hand() -> None:
    site = site_of(nn.Conv2d(8, 12, 3, padding=1, groups=2, bias=True), (5, 7))
    params = {name: get_operator(name).cost(site)["params"] for name in BUILT_IN}
    pointwise = 8 // 2 * 12 + 12
    assert params == {
        "dwsep3x3": 9 * 8 + pointwise,
        "maxpool3x3": pointwise,
        "avgpool3x3": pointwise,
        "conv5x5": 25 * 8 // 2 * 12 + 12,
        "dwsep5x5": 25 * 8 + pointwise,
    }
    assert get_operator("dwsep3x3").cost(site)["macs"] == (9 * 8 + 8 // 2 * 12) * 35


def make_separable(conv: nn.Conv2d, seed: int) -> None:
    """Give the convolution a kernel that is a depthwise kernel and then a 1x1 of its groups."""
    taps = images(conv.in_channels, 3, 3, seed=seed)
    mix = images(conv.out_channels, conv.in_channels // conv.groups, seed=seed + 1)
    per_group = taps.reshape(conv.groups, -1, 3, 3).repeat_interleave(conv.out_channels // conv.groups, 0)
    with torch.no_grad():
        conv.weight.copy_(mix[:, :, None, None] * per_group)


@given(drawn=convolutions(), name=st.sampled_from(["dwsep3x3", "dwsep5x5"]), seed=st.integers(0, 99))
def test_a_separable_kernel_is_reproduced(drawn: tuple[nn.Conv2d, Site], name: str, seed: int) -> None:
    conv, site = drawn
    assume(get_operator(name).refuse(site) is None)
    make_separable(conv, seed)
    x = images(2, *site.input_shape)
    with torch.no_grad():
        assert torch.allclose(started(name, conv, site)(x), conv(x), rtol=1e-4, atol=1e-5)


@given(drawn=convolutions(padding_mode="zeros"))
def test_a_larger_kernel_starts_as_the_small_one(drawn: tuple[nn.Conv2d, Site]) -> None:
    conv, site = drawn
    assume(get_operator("conv5x5").refuse(site) is None)
    x = images(2, *site.input_shape)
    with torch.no_grad():
        assert torch.allclose(started("conv5x5", conv, site)(x), conv(x), rtol=1e-5, atol=1e-6)


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
@given(drawn=convolutions(padding_mode="zeros", dilation=1))
def test_a_pooling_start_is_exact_on_constant_maps(name: str, drawn: tuple[nn.Conv2d, Site]) -> None:
    conv, site = drawn
    assume(get_operator(name).refuse(site) is None)
    x = images(2, site.in_channels, 1, 1).expand(2, *site.input_shape)
    with torch.no_grad():
        expected, found = conv(x), started(name, conv, site)(x)
    # Where the kernel touches the padding, the map is not constant under it.
    edge = [slice(p, (None if p == 0 else -p)) for p in site.padding]
    inside = (..., *edge)
    assert torch.allclose(found[inside], expected[inside], rtol=1e-4, atol=1e-5)


def test_the_average_counts_the_border_as_zeros() -> None:
    site = site_of(nn.Conv2d(1, 1, 3, padding=1), (3, 3))
    assert part(get_operator("avgpool3x3").build(site), "pool").count_include_pad


def test_biases_are_kept() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    settled(conv)
    site = site_of(conv, (6, 6))
    assert conv.bias is not None
    for name in BUILT_IN:
        with torch.no_grad():
            constant = started(name, conv, site)(torch.zeros(1, 4, 6, 6))
        assert torch.equal(constant, conv.bias[None, :, None, None].expand(1, 4, 6, 6))


def test_a_kernel_of_zeros_starts_as_zeros() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    nn.init.zeros_(conv.weight)
    x = images(1, 4, 6, 6)
    for name in BUILT_IN:
        assert not started(name, conv, site_of(conv, (6, 6)))(x).any()


def test_an_unknown_operator_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match=r"unknown operator 'dwsep4x4': there are base, dwsep3x3") as caught:
        narfx.trace(Chain(), input=(3, 8, 8), operators=("base", "dwsep4x4"))
    assert caught.value.kind == "unknown_operator"


@pytest.fixture
def half() -> Iterator[Operator]:
    """An operator of the user's own: the 1x1 in the middle of the kernel."""

    def start(module: nn.Module, conv: nn.Conv2d) -> None:
        with torch.no_grad():
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
    del operators._REGISTRY["middle"]


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
    with pytest.raises(UsageError, match=f"there is an operator '{name}' already"):
        register_operator(Operator(name, half.build, half.refuse, half.cost, half.start))


def test_a_name_is_an_identifier(half: Operator) -> None:
    with pytest.raises(UsageError, match="must be an identifier, not 'my op'"):
        register_operator(Operator("my op", half.build, half.refuse, half.cost, half.start))
