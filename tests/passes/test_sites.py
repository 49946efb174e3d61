"""Which convolutions make a site, and the reason for each that does not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sample_networks import Chain, Shared, part
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import narfx
from narfx.errors import NothingToRefineError, UsageError
from narfx.graph.cost import shapes_and_cost
from narfx.graph.tracing import trace_graph
from narfx.passes import find_sites
from narfx.space.records import Site, Skipped


def find(model: nn.Module, side: int = 12, **options: Any) -> tuple[list[Site], dict[str, Skipped]]:
    graph_module = trace_graph(model).graph_module
    sites, skipped = find_sites(graph_module, shapes_and_cost(graph_module, (3, side, side)).shapes, **options)
    return sites, {entry.name: entry for entry in skipped}


def behind_stem(*layers: nn.Module) -> nn.Module:
    """Layers of eight channels behind a stem: the first layer has the name ``1``."""
    return nn.Sequential(nn.Conv2d(3, 8, 1), *layers)


def with_weight_norm(conv: nn.Conv2d) -> nn.Conv2d:
    parametrizations.weight_norm(conv)
    return conv


def with_spectral_norm(conv: nn.Conv2d) -> nn.Conv2d:
    return nn.utils.spectral_norm(conv)


def with_hook(conv: nn.Conv2d) -> nn.Conv2d:
    conv.register_forward_hook(lambda *_: None)
    return conv


def with_pre_hook(conv: nn.Conv2d) -> nn.Conv2d:
    conv.register_forward_pre_hook(lambda *_: None)
    return conv


class Standardised(nn.Conv2d):
    """A subclass that computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        output: Tensor = self._conv_forward(input, weight, self.bias)
        return output


class OnlyAName(nn.Conv2d):
    """A subclass that computes what its base computes."""


class Functional(nn.Module):
    """A convolution without a module; ``kind`` is what makes it no site."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.ones(8, 8, 3, 3))
        self.fixed: Tensor
        self.register_buffer("fixed", torch.ones(8, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.fixed if self.kind == "buffer" else self.weight
        if self.kind == "computed":
            weight = weight - weight.mean()
        y = nn.functional.conv2d(x, weight, padding=1)
        if self.kind == "two":
            y = nn.functional.conv2d(y, self.weight, padding=2, dilation=2)
        return y + self.weight.mean() if self.kind == "read" else y


def with_old_weight_norm(conv: nn.Conv2d) -> nn.Conv2d:
    return nn.utils.weight_norm(conv)


class Gated(nn.Module):
    """Control flow over values: opaque to a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


def conv3(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, **options)


@pytest.mark.parametrize(
    ("make", "name", "code"),
    [
        (lambda: nn.Conv2d(8, 8, 1), "1", "kernel"),
        (lambda: nn.Conv2d(8, 8, 5), "1", "kernel"),
        (lambda: nn.Conv2d(8, 8, 7), "1", "kernel"),
        (lambda: nn.Conv2d(8, 8, (3, 1)), "1", "kernel"),
        (lambda: conv3(groups=8), "1", "depthwise"),
        (lambda: nn.Conv2d(8, 16, 3, groups=8), "1", "depthwise"),
        (lambda: Standardised(8, 8, 3), "1", "subclass"),
        (lambda: with_old_weight_norm(conv3()), "1", "hooks"),
        (lambda: with_spectral_norm(conv3()), "1", "hooks"),
        (lambda: with_hook(conv3()), "1", "hooks"),
        (lambda: with_pre_hook(conv3()), "1", "hooks"),
        (lambda: nn.ConvTranspose2d(8, 8, 3), "1", "not_conv2d"),
        (lambda: Functional("computed"), "conv2d", "functional_call"),
        (lambda: Functional("buffer"), "conv2d", "functional_call"),
        (lambda: Functional("two"), "conv2d_1", "functional_call"),
        (lambda: Functional("read"), "conv2d", "functional_call"),
        (Gated, "1.conv", "opaque"),
    ],
)
def test_what_is_no_site_has_a_reason(make: Callable[[], nn.Module], name: str, code: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, that these norms are old
        sites, skipped = find(behind_stem(make()))
    assert sites == []
    assert skipped[name].code == code
    assert len(skipped[name].reason) > 10


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: OnlyAName(8, 8, 3), "1"),
        (lambda: with_weight_norm(conv3()), "1"),
        (lambda: parametrizations.spectral_norm(conv3()), "1"),
        (lambda: parametrizations.orthogonal(conv3(groups=2)), "1"),
        (Functional, "1.weight_conv"),
    ],
)
def test_a_convolution_is_a_site_however_it_is_written(make: Callable[[], nn.Module], name: str) -> None:
    sites, skipped = find(behind_stem(make()))
    assert [site.name for site in sites] == [name]
    assert list(skipped) == ["0"]


def test_the_first_convolution_is_left_out_unless_asked_for() -> None:
    sites, skipped = find(Chain())
    assert [site.name for site in sites] == ["body.0", "body.3"]
    assert skipped["stem"].code == "first"
    assert [site.name for site in find(Chain(), include_first=True)[0]] == ["stem", "body.0", "body.3"]


def test_a_functional_convolution_counts_as_the_first() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.conv = nn.Parameter(torch.ones(8, 3, 3, 3)), conv3()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(nn.functional.conv2d(x, self.weight))
            return y

    sites, skipped = find(Model())
    assert [site.name for site in sites] == ["conv"]
    assert {entry.name: entry.code for entry in skipped.values()} == {"weight_conv": "first"}


@pytest.mark.parametrize(
    ("options", "padding", "size"),
    [
        ({}, (0, 0), 10),
        ({"padding": 1}, (1, 1), 12),
        ({"padding": (1, 0)}, (1, 0), 12),
        ({"padding": 1, "stride": 2}, (1, 1), 6),
        ({"padding": "same", "dilation": 2}, (2, 2), 12),
        ({"padding": "valid"}, (0, 0), 10),
        ({"padding": 1, "groups": 4, "bias": False}, (1, 1), 12),
        ({"padding": 1, "padding_mode": "reflect"}, (1, 1), 12),
        ({"padding": 1, "padding_mode": "circular"}, (1, 1), 12),
    ],
)
def test_a_site_records_the_geometry(options: dict[str, Any], padding: tuple[int, int], size: int) -> None:
    (site,), _ = find(behind_stem(nn.Conv2d(8, 16, 3, **options)))
    assert (site.target, site.occurrence, site.name, site.kind) == ("1", 0, "1", "conv3x3")
    assert (site.in_channels, site.out_channels, site.kernel) == (8, 16, (3, 3))
    assert site.padding == padding
    assert site.stride == (options.get("stride", 1),) * 2
    assert site.dilation == (options.get("dilation", 1),) * 2
    assert (site.groups, site.bias) == (options.get("groups", 1), options.get("bias", True))
    assert site.padding_mode == options.get("padding_mode", "zeros")
    assert site.input_shape == (8, 12, 12)
    assert site.output_shape[:2] == (16, size)


def test_other_kernels_are_sites_on_request() -> None:
    model = behind_stem(nn.Conv2d(8, 8, 5), conv3())
    assert [(s.name, s.kind) for s in find(model, kernels=(5,))[0]] == [("1", "conv5x5")]
    assert [s.name for s in find(model, kernels=(3, 5))[0]] == ["1", "2"]


def test_every_call_of_a_shared_module_is_a_site() -> None:
    sites, skipped = find(Shared())
    assert [site.name for site in sites] == ["again", "again@1", "again@2"]
    assert [site.occurrence for site in sites] == [0, 1, 2]
    assert [site.output_shape for site in sites] == [(8, 12, 12), (8, 12, 12), (8, 6, 6)]
    assert list(skipped) == ["stem"]


def test_an_alias_is_the_same_module() -> None:
    model = Chain(1)
    model.alias = model.body[0]
    assert [site.name for site in find(model)[0]] == ["body.0"]


def test_a_site_knows_its_source_line() -> None:
    (first, *_), _ = find(Shared())
    file, line = first.where.rsplit(":", 1)
    assert file.endswith("sample_networks.py")
    with open(file) as lines:  # noqa: PTH123
        assert "self.again(" in lines.read().splitlines()[int(line) - 1]


def test_weights_that_something_else_uses_are_left_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two, self.free = nn.Conv2d(3, 8, 3), conv3(), conv3(), conv3(padding=1)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.free(self.two(self.one(self.stem(x))))
            return y

    sites, skipped = find(Tied())
    assert [site.name for site in sites] == ["free"]
    assert (skipped["one"].code, skipped["two"].code) == ("shared_weight", "shared_weight")
    assert "two" in skipped["one"].reason and "one" in skipped["two"].reason


def test_a_weight_that_the_graph_reads_is_left_alone() -> None:
    class Reader(nn.Module):
        """Encodes and decodes with one weight."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.coder, self.free = nn.Conv2d(3, 8, 3), conv3(), conv3(padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.coder(self.free(self.stem(x)))
            return nn.functional.conv_transpose2d(y, self.coder.weight)

    model = Reader()
    sites, skipped = find(model)
    assert [site.name for site in sites] == ["free"]
    assert skipped["coder"].code == "shared_weight"
    net = narfx.Supernet(narfx.trace(model, input=(3, 12, 12)))
    assert narfx.lower(net, (1,))(torch.zeros(1, 3, 12, 12)).shape == (1, 8, 10, 10)


def test_a_convolution_that_an_opaque_part_may_use_too_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.gated = nn.Conv2d(3, 8, 3, padding=1), Gated()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.gated(self.gated.conv(self.stem(x)))
            return y

    sites, skipped = find(Twice())
    assert sites == []
    assert skipped["gated.conv"].code == "opaque"
    assert "gated" in skipped["gated.conv"].reason


def test_a_weight_that_a_module_and_a_function_use_says_so() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mid = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(conv3(padding=1))

        def forward(self, x: Tensor) -> Tensor:
            x = self.mid(self.stem(x))
            weight = part(self, "mid.0").weight
            return nn.functional.conv2d(x, weight)

    sites, skipped = find(Twins())
    assert sites == []
    reasons = {name: (entry.code, entry.reason) for name, entry in skipped.items() if name != "stem"}
    assert reasons["mid.0"][0] == "shared_weight"
    (twin,) = (value for name, value in reasons.items() if name != "mid.0")
    assert twin == ("shared_weight", "its weights are also used by the calls of mid.0, which a swap would not change")


def test_integer_weights_are_no_site() -> None:
    conv = conv3()
    conv.weight = nn.Parameter(torch.ones(8, 8, 3, 3, dtype=torch.int8), requires_grad=False)
    graph_module = trace_graph(behind_stem(conv)).graph_module
    shapes = dict.fromkeys(graph_module.graph.nodes, (1, 8, 12, 12))
    sites, skipped = find_sites(graph_module, shapes)
    assert sites == []
    assert {entry.name: entry.code for entry in skipped}["1"] == "dtype"


class Coded(nn.Conv2d):
    """Whole numbers and a scale, as quantised weights are stored; ``forward`` says how they are used."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)
        self.weight = nn.Parameter(torch.ones(outputs, inputs, 3, 3, dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(0.1))


class CodedLayer(Coded):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.float() * self.scale, padding=1)


class CodedCall(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.ones(outputs, inputs, 3, 3, dtype=torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, weight=self.code.to(x.dtype) * 0.1, padding=1)


class Casting(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x.to(torch.int8))
        return x


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(Coded(3, 8), Coded(8, 8)),
        lambda: Casting(Coded(3, 8), Coded(8, 8)),
        lambda: nn.Sequential(CodedLayer(3, 8), CodedLayer(8, 8)),
        lambda: nn.Sequential(CodedCall(3, 8), CodedCall(8, 8)),
        lambda: nn.Sequential(CodedLayer(3, 8)),
    ],
    ids=["no cast", "cast input", "cast weight in a layer", "cast weight in a call", "the first alone"],
)
def test_integer_weights_have_one_answer_however_they_are_used(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(UsageError, match=r"which is torch\.int8|is torch\.int8") as caught:
        narfx.trace(make(), input=(3, 8, 8))
    assert caught.value.kind == "weights_not_float"
    assert str(caught.value.where).startswith(("0", "conv2d"))


def test_the_float_part_of_a_model_with_integer_weights_is_refined() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), CodedLayer(8, 8), CodedCall(8, 8))
    traced = narfx.trace(model, input=(3, 8, 8))
    assert [site.name for site in traced.space.sites] == ["1"]
    assert [entry.code for entry in traced.skipped] == ["first", "dtype", "dtype"]


def test_a_weight_computed_from_the_image_is_no_integer_weight() -> None:
    class Expert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x)
            return F.conv2d(y, y.mean((0, 2, 3)).reshape(1, 8, 1, 1))

    with pytest.raises(NothingToRefineError, match="its weight is computed, not a parameter"):
        narfx.trace(Expert(), input=(3, 8, 8))
