"""Linear operators of a mixture are one convolution, which gives their weighted sum and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mixed_calls import Calls, assert_the_weighted_sum, weighted
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from narfx.errors import UsageError
from narfx.operators import build_operator, operator_names, refusal
from narfx.operators.dispatch import Dispatch
from narfx.operators.one_convolution import as_linear, merged
from narfx.space.records import Site

C = 4
PAIRS = st.sampled_from([(1, 1), (2, 2), (1, 2)])


@st.composite
def sites(draw: st.DrawFn) -> tuple[nn.Conv2d, Site]:
    """A convolution of any geometry with zero padding, and its site on a map of 13 x 12."""
    groups = draw(st.sampled_from([1, 1, 2]))
    inputs, outputs = (4 * groups * draw(st.sampled_from([1, 2])) for _ in range(2))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (5, 5)]))
    padding = draw(st.sampled_from([(1, 1), (2, 2), (0, 1), (2, 1)]))
    stride, dilation = draw(PAIRS), draw(PAIRS)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    with torch.no_grad():
        shape = conv(torch.zeros(1, inputs, 13, 12)).shape[1:]
    site = Site(
        "conv", 0, f"conv{kernel[0]}x{kernel[1]}", inputs, outputs, kernel, stride, padding, dilation, groups,
        conv.bias is not None, "zeros", (inputs, 13, 12), tuple(shape),
    )  # fmt: skip
    return conv, site


@settings(max_examples=50)
@given(drawn=sites(), seed=st.integers(0, 9))
def test_all_operators_of_a_site_give_their_weighted_sum_with_its_gradients(
    drawn: tuple[nn.Conv2d, Site], seed: int
) -> None:
    conv, site = drawn
    torch.manual_seed(seed)
    legal = [name for name in operator_names() if name != "base" and refusal(site, name) is None]
    built = {name: build_operator(name, site) for name in legal}
    assert_the_weighted_sum({"base": conv, **built}, site.input_shape, seed)


AXES = st.tuples(st.integers(1, 5), st.integers(0, 4), st.integers(1, 3))
"""The size, padding and dilation of taps along an axis."""


@st.composite
def operators_of_one_size(draw: st.DrawFn) -> dict[str, nn.Module]:
    """Linear operators that a user could write: any kernels, of which some lie inside the first and others do not."""
    groups, bias = draw(st.sampled_from([1, 2])), draw(st.booleans())
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    host = draw(AXES), draw(AXES)
    span = [size - 1 for size, _, _ in host]
    operators: dict[str, nn.Module] = {}
    for index in range(draw(st.integers(2, 5))):
        taps = [host[0], host[1]]
        if index:
            # The kernel's size shrinks by any number of taps, and the padding by what keeps the output's size, so that
            # the centres agree for even differences of sizes only; or the dilation is another one.
            for axis, (size, padding, dilation) in enumerate(host):
                less = draw(st.integers(0, span[axis]))
                other = draw(st.sampled_from([dilation, dilation, 1, 2]))
                padded = 2 * padding - dilation * (size - 1) + other * (size - less - 1)
                assume(padded >= 0)
                taps[axis] = (size - less, padded // 2, other)
        sizes, paddings, dilations = zip(*taps, strict=True)
        form = draw(st.sampled_from(["dense", "dense", "depthwise", "pool"])) if index else "dense"
        last = nn.Conv2d(C, C, 1, groups=groups, bias=bias)
        if form == "dense":
            operators[str(index)] = nn.Conv2d(C, C, sizes, stride, paddings, dilations, groups, bias)
        elif form == "depthwise":
            operators[str(index)] = nn.Sequential(
                nn.Conv2d(C, C, sizes, stride, paddings, dilations, C, bias=False), last
            )
        else:
            assume(all(2 * padding <= size for size, padding in zip(sizes, paddings, strict=True)))
            operators[str(index)] = nn.Sequential(nn.AvgPool2d(sizes, stride, paddings), last)
    return operators


@settings(max_examples=200)
@given(operators=operators_of_one_size(), seed=st.integers(0, 9))
def test_any_linear_operators_give_their_weighted_sum_with_its_gradients(
    operators: dict[str, nn.Module], seed: int
) -> None:
    images, shapes = torch.zeros(1, C, 14, 13), set()
    try:
        shapes = {operator(images).shape for operator in operators.values()}
    except RuntimeError:  # the map is too small for one of them
        assume(False)
    assume(len(shapes) == 1)
    assert_the_weighted_sum(operators, (C, 14, 13), seed)


@pytest.mark.parametrize(
    ("stride", "dilation", "padding_mode", "inside"),
    [
        (1, 1, "zeros", ["base", "dwsep3x3", "avgpool3x3", "conv1x1"]),
        (2, 1, "zeros", ["base", "dwsep3x3", "avgpool3x3", "conv1x1"]),
        (1, 2, "zeros", ["base", "dwsep3x3", "conv1x1"]),  # a pool has no dilation
        (1, 1, "reflect", []),
    ],
)
def test_what_one_convolution_computes(stride: int, dilation: int, padding_mode: Any, inside: list[str]) -> None:
    conv = nn.Conv2d(C, C, 3, stride, dilation, dilation, bias=False, padding_mode=padding_mode)
    site = Site(
        "conv", 0, "conv3x3", C, C, (3, 3), (stride, stride), (dilation, dilation), (dilation, dilation), 1, False,
        padding_mode, (C, 8, 8), (C, 8 // stride, 8 // stride),
    )  # fmt: skip
    names = ["dwsep3x3", "maxpool3x3", "avgpool3x3", "conv1x1", "grouped3x3", "identity"]
    legal = [name for name in names if refusal(site, name) is None]
    built = [conv, *(build_operator(name, site) for name in legal)]
    assert [["base", *legal][index] for index in sorted(merged(built, torch.zeros(1, C, 8, 8)))] == inside


def _separable(**options: object) -> nn.Sequential:
    depthwise = nn.Conv2d(C, C, 3, **{"padding": 1, "groups": C, "bias": False} | options)  # type: ignore[arg-type]
    return nn.Sequential(depthwise, nn.Conv2d(C, C, 1))


def _hooked() -> nn.Module:
    operator = _separable()
    operator[0].register_forward_hook(lambda module, inputs, output: output.clamp(min=0))
    return operator


def _replaced() -> nn.Module:
    conv = nn.Conv2d(C, C, 3, padding=1)
    conv.forward = lambda input: nn.Conv2d.forward(conv, input).relu()  # type: ignore[method-assign]
    return conv


class _Own(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "a max pool": lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(C, C, 1)),
    "a pool that counts no zeros": lambda: nn.Sequential(
        nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Conv2d(C, C, 1)
    ),
    "a pool with a divisor": lambda: nn.Sequential(nn.AvgPool2d(3, 1, 1, divisor_override=2), nn.Conv2d(C, C, 1)),
    "a pool that rounds up": lambda: nn.Sequential(nn.AvgPool2d(3, 1, 1, ceil_mode=True), nn.Conv2d(C, C, 1)),
    "a padded 1x1 at the end": lambda: nn.Sequential(nn.AvgPool2d(3, 1, 0), nn.Conv2d(C, C, 1, padding=1)),
    "a bias before the 1x1": lambda: _separable(bias=True),
    "a replicated border": lambda: _separable(padding_mode="replicate"),
    "groups that are no channels": lambda: _separable(groups=2),
    "padding as a word": lambda: nn.Conv2d(C, C, 3, padding="same"),
    "a norm at the end": lambda: nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)),
    "a ReLU between": lambda: nn.Sequential(nn.Conv2d(C, C, 3, padding=1), nn.ReLU(), nn.Conv2d(C, C, 1)),
    "a hook": _hooked,
    "a convolution of one's own": lambda: _Own(C, C, 3, padding=1),
    "a forward of its own": _replaced,
    "a parametrization": lambda: weight_norm(nn.Conv2d(C, C, 3, padding=1)),
    "an empty sequence": nn.Sequential,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_convolution_is_called_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    other = OTHERS[name]()
    assert as_linear(other) is None
    node = Dispatch({"base": nn.Conv2d(C, C, 3, padding=1), "pool": _separable(), "other": other}).double().eval()
    x = torch.randn(2, C, 6, 6).double()
    weights = torch.tensor([0.5, 0.3, -0.7], requires_grad=True)
    node.select("base", "pool", "other", weights=[*weights])
    torch.testing.assert_close(node(x), weighted(node, weights, x))


def test_a_large_kernel_is_not_put_together_for_small_images() -> None:
    operators = [nn.Conv2d(C, C, 3, padding=1), _separable()]
    assert [*merged(operators, torch.zeros(1, C, 4, 4))] == [0, 1]
    wide = [nn.Conv2d(300, 300, 3, padding=1), nn.Conv2d(300, 300, 1)]
    assert not merged(wide, torch.zeros(64, 300, 3, 3)) and merged(wide, torch.zeros(1, 300, 8, 8))
    assert not merged(operators[1:], torch.zeros(1, C, 4, 4)), "no convolution that could take the others in"


@pytest.mark.parametrize(
    ("host", "other"),  # the kernel's size, stride, padding and dilation; outputs of one size for 6x6
    [
        pytest.param((3, 2, 0, 1), (3, 3, 0, 1), id="stride"),
        pytest.param((3, 3, 1, 1), (3, 3, 1, 2), id="dilation"),
        pytest.param((3, 1, 1, 2), (2, 1, 0, 2), id="between taps"),
        pytest.param((3, 3, 0, 1), (1, 3, 0, 1), id="centre"),
        pytest.param(((3, 7), 1, (1, 3), 1), ((5, 1), 1, (2, 0), 1), id="size"),
        pytest.param((3, 1, 1, 1, 1), (3, 1, 1, 1, 2), id="groups"),
    ],
)
def test_what_does_not_lie_in_the_largest_kernel(host: Any, other: Any) -> None:
    torch.manual_seed(0)
    operators: dict[str, nn.Module] = {"host": nn.Conv2d(C, C, *host), "other": nn.Conv2d(C, C, *other)}
    assert not merged([*operators.values()], torch.zeros(1, C, 6, 6))
    assert_the_weighted_sum(operators, (C, 6, 6), 0)


def test_it_is_computed_once() -> None:
    pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(C, C, 1))
    node = Dispatch({"base": nn.Conv2d(C, C, 3, padding=1), "depthwise": _separable(), "pool": pool})
    node.select(*node.candidates, weights=[0.2, 0.3, 0.5])
    with Calls("convolution") as seen, torch.no_grad():
        node(torch.zeros(1, C, 6, 6))
    assert seen.count == 1


FAULTY: dict[str, Callable[[], nn.Module]] = {
    "more input channels": lambda: nn.Conv2d(C + 1, C, 1),
    "one input channel": lambda: nn.Conv2d(1, C, 1),
    "a larger kernel": lambda: nn.Conv2d(C + 1, C, 5, padding=2),
    "a wrong 1x1": lambda: nn.Sequential(nn.Conv2d(C, C, 3, padding=1, groups=C, bias=False), nn.Conv2d(1, C, 1)),
    "more depthwise channels": lambda: nn.Sequential(
        nn.Conv2d(2 * C, 2 * C, 3, padding=1, groups=2 * C, bias=False), nn.Conv2d(2 * C, C, 1)
    ),
    "a wrong depthwise": lambda: nn.Sequential(
        nn.Conv2d(2 * C, 2 * C, 3, padding=1, groups=2 * C, bias=False), nn.Conv2d(C, C, 1)
    ),
    "another type": lambda: nn.Conv2d(C, C, 1).double(),
}


@pytest.mark.parametrize("name", FAULTY)
def test_an_operator_of_the_user_that_fails_is_named(name: str) -> None:
    node = Dispatch({"base": nn.Conv2d(C, C, 3, padding=1), "mine": FAULTY[name]()}, site="body.3")
    node.select("base", "mine", weights=[0.5, 0.5])
    with pytest.raises(UsageError, match=r"operator mine fails at body\.3 on 2x4x5x5"):
        node(torch.zeros(2, C, 5, 5))


def test_calls_other_than_with_a_batch_of_images() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, input: Tensor, factor: float = 2) -> Tensor:
            return super().forward(input) * factor

    pool = nn.Sequential(nn.AvgPool2d((3,), 1, 1), nn.Conv2d(C, C, 1))  # type: ignore[arg-type]
    node = Dispatch({"base": nn.Conv2d(C, C, 3, padding=1), "pool": pool, "own": Doubled(C, C, 1)})
    weights = torch.tensor([0.5, 0.3, -0.2])
    node.select(*node.candidates, weights=weights.tolist())
    x = torch.randn(2, C, 6, 6)
    for images in (x, x[:0], x[0]):
        torch.testing.assert_close(node(images), weighted(node, weights, images))
    torch.testing.assert_close(node(input=x), node(x))
    node.select("own", "base", weights=[1.0, 0.0])
    with pytest.raises(TypeError):
        node(x, 3.0)  # each is called as the site is, and a convolution takes no second argument
