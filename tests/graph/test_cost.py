"""Parameters and MACs of what a trace does not look into: layers of the user's own class, and functions kept whole."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
import torchvision
from sample_networks import Chain
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.utils.flop_counter import FlopCounterMode

import narfx
from narfx.graph.cost import measure
from narfx.graph.tracing import trace_graph
from narfx.inputs.model_ref import load_model
from narfx.operators import unregister_operator
from narfx.space.records import Site

MAPS = (8, 10, 10)
CONV = 10 * 10 * 8 * 8 * 9  # MACs of one 3x3 convolution of 8 maps of 10 by 10


class Opaque(nn.Module):
    """Two calls of functions and two of layers, behind a question about values that no trace can answer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.up = nn.Parameter(torch.randn(8, 8, 3, 3)), nn.Parameter(torch.randn(8, 4, 2, 2))
        self.conv, self.head = nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            return x
        x = F.conv_transpose2d(F.conv2d(x, weight=self.weight, padding=1), self.up, stride=2)
        result: Tensor = self.head(self.conv(x))
        return result


OPAQUE = CONV + 10 * 10 * 8 * 4 * 4 + 20 * 20 * 8 * 2 * 9 + 8 * 20 * 20 * 5


class Twice(nn.Conv2d):
    """A convolution by class that computes two."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(super().forward(x), self.weight, padding=1)


class Plain(nn.Conv2d):
    """A convolution by class and by what it computes."""


class Foreign(nn.Conv2d):
    """Computes by an operator that is no function of torch's: its size says what it costs."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten.convolution(x, self.weight, self.bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        return result


@fx.wrap
def kept_whole(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return kept_whole(x, self.weight)


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (Opaque(), OPAQUE),
        (Twice(8, 8, 3, padding=1), 2 * CONV),
        (Plain(8, 8, 3, padding=1), CONV),
        (Foreign(8, 8, 3, padding=1), CONV),
        (Wrapped(), CONV),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_a_leaf_calls_is_counted_once(layer: nn.Module, macs: int) -> None:
    network = nn.Sequential(layer, nn.Identity())
    counted = measure(network, MAPS)
    assert counted == {"params": sum(p.numel() for p in layer.parameters()), "macs": macs}
    with_call = measure(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), layer), MAPS)
    assert with_call["macs"] == macs + CONV


def test_an_opaque_part_of_a_network_counts_in_its_trace() -> None:
    class Net(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.opaque = nn.Conv2d(3, 8, 1), Opaque()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = super().forward(x) + self.opaque(self.before(x)).mean((2, 3, 1))[:, None]
            return result

    alone, whole = (narfx.trace(net, input=(3, 10, 10)).cost for net in (Chain().eval(), Net().eval()))
    assert whole["macs"] - alone["macs"] == OPAQUE + 10 * 10 * 3 * 8


@pytest.fixture
def own_operator() -> Iterator[str]:
    class Build(nn.Module):
        def __init__(self, site: Site) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(site.out_channels, site.in_channels, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            if bool((x > 1e9).any()):
                raise ValueError("too large")
            return F.conv2d(x, self.weight)

    narfx.register_operator(
        narfx.Operator(
            "asks_values", Build, refuse=lambda s: None if s.input_shape == s.output_shape else "of one shape"
        )
    )
    yield "asks_values"
    unregister_operator("asks_values")


def test_an_operator_that_stays_a_leaf_costs_what_its_functions_cost(own_operator: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False))
    space = narfx.trace(model, input=(3, 10, 10), operators=("base", own_operator)).space
    base, own = (space.cost((entry,)) for entry in (0, 1))
    assert base["macs"] - own["macs"] == CONV - 10 * 10 * 8 * 8
    assert base["params"] - own["params"] == 8 * 8 * 8


@pytest.mark.parametrize("name", ["swin_t", "vit_b_16"])
def test_windows_and_attention_cost_what_is_published(name: str) -> None:
    """Swin lays the windows of an image along the batch axis before its linear layers."""
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"] * 1e9  # to three digits
    assert measure(model, (3, 224, 224))["macs"] == pytest.approx(published, rel=1e-3)


def _torch_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """What torch's own counter says of one sample."""
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape, device=device))
    return int(counter.get_total_flops()) // 2


class Frames(nn.Module):
    """Four frames of a clip, folded into the batch axis; the middle is opaque if asked for."""

    def __init__(self, opaque: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.middle = Opaque() if opaque else nn.ConvTranspose2d(8, 8, 2, 2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = self.b(F.relu(self.a(x.view(n * (c // 3), 3, h, w))))
        x = F.interpolate(self.middle(x).flatten(2), size=8)[:, :8]
        result: Tensor = self.fc(x.mean(2)).view(n, -1, 5).mean(1)
        return result


class Pairs(nn.Module):
    """Two views of an image, stacked along the batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.relu(self.a(torch.cat([x, x.flip(3)]))))
        first, second = x.chunk(2)
        result: Tensor = (first - second).mean((2, 3))
        return result


@pytest.mark.parametrize("model", [Frames(), Frames(opaque=True), Pairs()], ids=["frames", "opaque", "pairs"])
def test_images_folded_into_the_batch_axis_all_count(model: nn.Module) -> None:
    shape = (3, 10, 10) if isinstance(model, Pairs) else (12, 10, 10)
    traced = narfx.trace(model, input=shape)
    assert traced.cost["macs"] == _torch_macs(model, shape)
    space = traced.space
    for index in space.slots[0].legal:
        vector = (index,) + (0,) * (len(space) - 1)
        lowered = narfx.lower(narfx.Supernet(traced), vector)
        assert space.cost(vector)["macs"] == measure(lowered, shape)["macs"] == _torch_macs(lowered, shape)


def test_an_operator_of_the_users_costs_what_all_folded_images_cost(own_operator: str) -> None:
    shape = (12, 10, 10)
    narfx.register_operator(
        narfx.Operator(
            "own_cost",
            lambda site: nn.Conv2d(site.in_channels, site.out_channels, 1),
            cost=lambda site: {"params": 8 * 8 + 8, "macs": 8 * 8 * 10 * 10},
        )
    )
    traced = narfx.trace(Frames(), input=shape, operators=("base", "own_cost", own_operator))
    assert traced.space.slots[0].legal == (0, 1, 2)
    for vector in ((1,), (2,)):
        lowered = narfx.lower(narfx.Supernet(traced), vector)
        assert traced.space.cost(vector)["macs"] == measure(lowered, shape)["macs"]


class Products(nn.Module):
    """Products of one kind of 36 tokens with 8 channels, beside a convolution."""

    def __init__(self, kind: str, reads: bool = False) -> None:
        super().__init__()
        self.conv, self.kind, self.reads = nn.Conv2d(3, 8, 3, padding=1), kind, reads
        self.weight, self.inner = nn.Parameter(torch.randn(8, 8)), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.reads and x.sum() > 1e9:  # a question about values: this part stays opaque and runs on a CPU
            return x
        x = self.conv(x).flatten(2).transpose(1, 2)
        heads = x.view(-1, 36, 2, 4).transpose(1, 2)
        if self.kind == "matmul":
            x = torch.softmax(x @ x.transpose(1, 2), -1) @ x
        elif self.kind == "einsum":
            x = torch.einsum("blm,bmc->blc", torch.einsum("blc,bmc->blm", x, x), x)
        elif self.kind == "baddbmm":
            x = torch.bmm(torch.baddbmm(torch.zeros(1, 1, 1, device=x.device), x, x.transpose(1, 2)), x)
        elif self.kind == "sdpa":
            x = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        elif self.kind == "grouped":
            x = F.scaled_dot_product_attention(heads, heads[:, :1], heads[:, :1], enable_gqa=True).flatten(1, 2)
        elif self.kind == "layer":
            x = self.inner(x, x, x)[0]
        elif self.kind == "weights":
            x = x @ self.weight + torch.einsum("blc,cd->bld", x, self.weight.t() * 2)
        elif self.kind == "weights alone":
            x = x * (self.weight @ self.weight).mean()
        return x.mean(1)


ATTENTION = 2 * 36 * 36 * 8
PRODUCTS = {
    "matmul": ATTENTION, "einsum": ATTENTION, "baddbmm": ATTENTION, "sdpa": ATTENTION, "grouped": ATTENTION,
    "layer": ATTENTION + 36 * 4 * 8 * 8, "weights": 36 * 2 * 8 * 8, "weights alone": 8 * 8 * 8,
}  # fmt: skip


@pytest.mark.parametrize("kind", PRODUCTS)
def test_products_of_any_form_count_alike_on_every_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = 36 * 3 * 9 * 8 + PRODUCTS[kind]
    shape = (3, 6, 6)
    opaque = nn.Sequential(Products(kind, reads=True), nn.Identity())
    assert measure(Products(kind), shape)["macs"] == measure(opaque, shape)["macs"] == expected
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)  # torch does not count that path
    assert _torch_macs(Products(kind).to("meta"), shape) == expected


class LowRank(nn.Module):
    """A weight of 8x8x3x3 made of two factors of rank 2."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.randn(2, 72))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


@pytest.mark.parametrize("kind", ["low_rank", "weight_norm", "spectral_norm", "orthogonal"])
def test_what_computes_a_weight_counts_at_its_site_as_in_the_network(kind: str) -> None:
    """It goes with the convolution, so costs of two vectors differ as torch counts them."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    if kind == "low_rank":
        parametrize.register_parametrization(model[1], "weight", LowRank())
    else:
        getattr(parametrizations, kind)(model[1])
    shape = (3, 10, 10)
    traced = narfx.trace(model, input=shape)
    assert traced.cost["macs"] == _torch_macs(model, shape)
    supernet = narfx.Supernet(traced)
    for index in traced.space.slots[0].legal:
        lowered = narfx.lower(supernet, (index,))
        assert traced.space.cost((index,))["macs"] == measure(lowered, shape)["macs"] == _torch_macs(lowered, shape)
    assert (traced.cost["macs"] > 100 * (27 * 8 + 72 * 8)) == (kind in ("low_rank", "orthogonal"))


@pytest.mark.parametrize(
    "name",
    [
        "densenet121", "googlenet", "lraspp_mobilenet_v3_large", "mnasnet0_5", "regnet_y_400mf", "shufflenet_v2_x0_5",
        "squeezenet1_1", "swin_t", "timm:botnet26t_256", "timm:mobilevitv2_050",
    ],
)  # fmt: skip
def test_published_networks_cost_what_torch_counts(name: str) -> None:
    """At batch 1, two operations a MAC."""
    model = _published(name)
    shape = (3, 256, 256) if name.startswith("timm") else (3, 64, 64)
    assert measure(trace_graph(model).graph_module, shape)["macs"] == _torch_macs(model.to("meta"), shape) > 0


@pytest.mark.parametrize("name", ["convnext_tiny", "maxvit_t", "resnet18_fpn", "swin_v2_t", "vit_b_16"])
def test_networks_of_attention_and_detection_cost_what_torch_counts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)  # torch does not count that path
    model, shape = _on_meta(name), (3, 224, 224)
    assert measure(model, shape)["macs"] == _torch_macs(model, shape) > 0


def _published(name: str) -> nn.Module:
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is not installed")
        return load_model(name, seed=0).eval()
    weightless = {"weights_backbone": None} if name.startswith("lraspp") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of initialisations that will change one day
        model: nn.Module = torchvision.models.get_model(name, weights=None, **weightless).eval()
    return model


@pytest.mark.slow
def test_all_of_torchvision_costs_what_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)  # torch does not count that path
    models = torchvision.models
    for name in [*models.list_models(module=models), *models.list_models(module=models.segmentation)]:
        model = _on_meta(name)
        side = 299 if name == "inception_v3" else 224
        assert measure(model, (3, side, side))["macs"] == _torch_macs(model, (3, side, side)), name


def _on_meta(name: str) -> nn.Module:
    if name.endswith("_fpn"):
        with torch.device("meta"):
            pyramid: nn.Module = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
                backbone_name=name.removesuffix("_fpn"), weights=None
            )
        return pyramid.eval()
    weightless = {"weights_backbone": None} if name.startswith(("deeplab", "fcn", "lraspp")) else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                model: nn.Module = torchvision.models.get_model(name, weights=None, **weightless).eval()
        except NotImplementedError:  # RegNet computes its widths with tensors
            model = torchvision.models.get_model(name, weights=None, **weightless).eval().to("meta")
    return model
