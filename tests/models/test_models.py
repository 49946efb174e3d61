"""The base networks that narfx brings along."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from models_page import table
from sklearn.datasets import load_digits
from torch import fx, nn

import narfx
from narfx.errors import UsageError
from narfx.inputs.model_ref import default_input, load_model
from narfx.models import MODELS, ModelEntry
from narfx.models.chain import chain12
from narfx.models.lresnet_ir import ImprovedUnit, LResNetIR, lresnet10e_ir, lresnet_ir
from narfx.models.resnet_cifar import BasicBlock, resnet18_cifar, resnet20, resnet_cifar, resnet_digits
from narfx.space.records import Site


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def by_hand(blocks: int, channels: tuple[int, ...], in_channels: int, num_classes: int) -> int:
    """Parameters of a network with ``blocks`` basic blocks a stage and projections where the width changes."""
    total = 9 * in_channels * channels[0] + 2 * channels[0]
    for width_in, width in zip((channels[0], *channels), channels, strict=False):
        first = 9 * width_in * width + 9 * width * width + 4 * width
        projection = width_in * width + 2 * width if width_in != width else 0
        total += first + projection + (blocks - 1) * (18 * width * width + 4 * width)
    return total + channels[-1] * num_classes + num_classes


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # The counts of the usual PyTorch models: ResNet-20 of option B, ResNet-18 with a 3x3 stem.
        ("resnet20", 272_474),
        ("resnet18_cifar", 11_173_962),
        ("resnet8", by_hand(1, (16, 32, 64), 3, 10)),
        ("resnet20_wide", by_hand(3, (64, 128, 256), 3, 10)),
        ("resnet_digits", by_hand(2, (16, 32, 64), 1, 10)),
    ],
)
def test_parameter_counts(name: str, count: int) -> None:
    assert parameters(MODELS[name].factory()) == count


def test_the_hand_count_agrees_with_the_published_one() -> None:
    assert by_hand(3, (16, 32, 64), 3, 10) == 272_474
    assert by_hand(2, (64, 128, 256, 512), 3, 10) == 11_173_962


# Seconds each on one core: what needs no numbers is asked of them on the meta device.
LARGE = {"lresnet50e_ir", "lresnet_ir"}


@pytest.mark.parametrize("name", sorted(MODELS.keys() - LARGE))
def test_every_entry_traces_to_what_it_computes(name: str) -> None:
    entry = MODELS[name]
    model = entry.factory().eval()
    images = torch.randn(2, *entry.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(fx.symbolic_trace(model)(images), model(images))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_entry_maps_its_input_to_logits_or_embeddings(name: str) -> None:
    entry = MODELS[name]
    options = inspect.signature(entry.factory).parameters
    with torch.device("meta"):
        model = entry.factory().eval()
        images = torch.empty(2, *entry.input_shape)
    length = options["num_classes" if "num_classes" in options else "embedding"].default
    assert model(images).shape == (2, length)
    assert entry.summary.endswith(".")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_entry_takes_an_output_length_and_channels(name: str) -> None:
    entry = MODELS[name]
    length = "num_classes" if "num_classes" in inspect.signature(entry.factory).parameters else "embedding"
    with torch.device("meta"):
        model = entry.factory(in_channels=2, **{length: 7}).eval()
        images = torch.empty(1, 2, *entry.input_shape[1:])
    assert model(images).shape == (1, 7)


def test_the_page_holds_the_table_that_its_command_makes() -> None:
    page = Path(__file__).parents[2] / "docs" / "models.md"
    assert table() in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("depth", "blocks"), [(8, 1), (14, 2), (20, 3), (32, 5)])
def test_a_depth_counts_the_layers_on_the_main_path(depth: int, blocks: int) -> None:
    model = resnet_cifar(depth, width=4)
    found = [m for m in model.modules() if isinstance(m, BasicBlock)]
    assert len(found) == 3 * blocks
    assert depth == 2 * len(found) + 2
    assert [b.conv2.out_channels for b in found] == [4] * blocks + [8] * blocks + [16] * blocks


@pytest.mark.parametrize(
    "options", [{"depth": 18}, {"depth": 2}, {"depth": 21}, {"channels": (16, 32)}, {"channels": (8, 8, 8, 8)}]
)
def test_a_shape_that_is_no_cifar_resnet_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        resnet_cifar(**options)  # type: ignore[arg-type]
    assert caught.value.kind == "model_arguments"


@pytest.mark.parametrize("options", [{"width": 0}, {"width": "a"}, {"num_classes": 0}, {"in_channels": 1.5}])
def test_sizes_that_are_no_positive_integers_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="positive integers"):
        resnet_digits(**options)  # type: ignore[arg-type]


def test_shortcuts_are_identities_but_where_shapes_differ() -> None:
    blocks = [m for m in resnet18_cifar().modules() if isinstance(m, BasicBlock)]
    assert [b.shortcut is None for b in blocks] == [True, True, False, True, False, True, False, True]


def test_convolutions_are_drawn_with_the_variance_of_he() -> None:
    torch.manual_seed(0)
    conv = resnet18_cifar().stages[3][1].conv1  # type: ignore[index]
    weight = conv.weight
    assert isinstance(weight, nn.Parameter)
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


def test_channels_replace_the_width() -> None:
    assert parameters(resnet_cifar(20, channels=(16, 32, 64))) == parameters(resnet20())


def test_an_entry_is_a_factory_and_a_shape() -> None:
    entry = ModelEntry(resnet_digits, (1, 8, 8))
    assert entry == MODELS["resnet_digits"]


def test_digits_has_at_least_six_sites_and_maps_of_two_by_two() -> None:
    model = resnet_digits().eval()
    sizes: list[tuple[int, ...]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and name != "conv1":
            module.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[2:])))
    with torch.no_grad():
        model(torch.zeros(1, 1, 8, 8))
    assert len(sizes) >= 6
    assert min(sizes) == (2, 2)


def test_digits_learns_the_digits_in_seconds() -> None:
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(digits.target)
    images = (images - images.mean()) / images.std()
    torch.manual_seed(0)
    model, order = resnet_digits(), torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[360:], order[:360]
    lots = [lot for _ in range(8) for lot in torch.split(train[torch.randperm(len(train))], 64)]
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(lots))
    for lot in lots:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[lot]), labels[lot]).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
    assert accuracy >= 0.97


# --- LResNet-E-IR


def test_units_of_the_face_networks() -> None:
    model = lresnet_ir(units=(1, 2, 1, 3), width=4, embedding=8, size=32)
    units = [[m for m in stage.modules() if isinstance(m, ImprovedUnit)] for stage in model.stages]
    assert [len(stage) for stage in units] == [1, 2, 1, 3]
    assert [stage[-1].conv2.out_channels for stage in units] == [4, 8, 16, 32]
    # The stride is in the second convolution, and every stage has it, the first too.
    assert [stage[0].conv1.stride + stage[0].conv2.stride for stage in units] == [(1, 1, 2, 2)] * 4
    for stage in units:
        assert [unit.shortcut is None for unit in stage] == [False] + [True] * (len(stage) - 1)
    kinds = [type(part).__name__ for part in units[1][1].children()]
    assert kinds == ["BatchNorm2d", "Conv2d", "BatchNorm2d", "PReLU", "Conv2d", "BatchNorm2d"]


@pytest.mark.parametrize(("size", "side"), [(112, 7), (64, 4), (32, 2), (100, 7), (8, 1), (1, 1)])
def test_the_linear_layer_is_made_for_the_image_size(size: int, side: int) -> None:
    model = lresnet10e_ir(width=2, embedding=4, size=size).eval()
    assert model.fc.in_features == 16 * side * side
    with torch.no_grad():
        assert model(torch.zeros(1, 3, size, size)).shape == (1, 4)


def test_units_are_written_with_commas_or_dashes() -> None:
    references = [f"narfx:lresnet_ir?units={units}&width=2&size=32" for units in ("1,2,1,1", "1-2-1-1", "(1,2,1,1)")]
    with torch.device("meta"):
        shapes = [[p.shape for p in load_model(ref).parameters()] for ref in references]
        assert shapes == [[p.shape for p in lresnet_ir([1, 2, 1, 1], width=2, size=32).parameters()]] * 3


def test_a_size_option_is_the_default_input() -> None:
    assert default_input("narfx:lresnet50e_ir") == (3, 112, 112)
    assert default_input("narfx:lresnet10e_ir?size=64") == (3, 64, 64)
    assert default_input("narfx:lresnet10e_ir?size=32&in_channels=1") == (1, 32, 32)


def test_a_face_network_is_traced_alike_in_both_modes() -> None:
    torch.manual_seed(0)
    model = lresnet_ir((1, 1, 2, 1), width=4, embedding=8, size=32)
    traced = narfx.trace(model, (3, 32, 32), "block")
    assert traced.notes == ()
    assert [skip.code for skip in traced.skipped] == ["first"] + ["kernel"] * 4
    assert list(traced.graph_module.state_dict()) == list(model.state_dict())
    images = torch.randn(4, 3, 32, 32)
    for mode in (False, True):
        model.train(mode)
        traced.graph_module.train(mode)
        torch.manual_seed(1)  # of the dropout
        ours = traced.graph_module(images)
        torch.manual_seed(1)
        assert torch.equal(ours, model(images))
    assert model.dropout.p == 0.4


def test_the_initial_weights_of_a_face_network_follow_from_the_seed() -> None:
    reference = "narfx:lresnet10e_ir?size=32"
    first, second, other = (load_model(reference, seed=seed) for seed in (3, 3, 4))
    assert isinstance(first, LResNetIR) and isinstance(second, LResNetIR) and isinstance(other, LResNetIR)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert not torch.equal(first.fc.weight, other.fc.weight)
    assert first.fc.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.01)
    assert first.fc.bias.abs().max() == 0
    assert first.prelu.weight.tolist() == [0.25] * 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": (3, 4, 14)}, "units must be 4 positive integers, for example 3-4-14-3, not \\(3, 4, 14\\)"),
        ({"units": (3, 4, 14, 0)}, "units must be 4 positive integers"),
        ({"units": (1, 1, 1, 1.0)}, "units must be 4 positive integers"),
        ({"units": "1-1-x-1"}, "units must be 4 positive integers, for example 3-4-14-3, not '1-1-x-1'"),
        ({"units": 50}, "units must be 4 positive integers, for example 3-4-14-3, not 50"),
        ({"width": 0}, "width must be a positive integer, not 0"),
        ({"embedding": "many"}, "embedding must be a positive integer, not 'many'"),
        ({"size": 112.0}, r"size must be a positive integer, not 112\.0"),
        ({"in_channels": True}, "in_channels must be a positive integer, not True"),
        ({"dropout": 1}, "dropout must be a number of at least 0 and less than 1, not 1"),
        ({"dropout": "0,4"}, "dropout must be a number of at least 0 and less than 1, not '0,4'"),
        ({"dropout": float("nan")}, "dropout must be a number of at least 0 and less than 1, not nan"),
    ],
)
def test_options_that_make_no_face_network_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        lresnet_ir(**options)
    assert caught.value.kind == "model_arguments"


# --- the chain

SIX = ("base", "dwsep3x3", "maxpool3x3", "avgpool3x3", "conv5x5", "dwsep5x5")


def test_the_chain_is_the_ground_of_the_macro_space() -> None:
    traced = narfx.trace(chain12(), (3, 32, 32), operators=SIX, max_candidate_params=3)
    space = traced.space
    assert [slot.name for slot in space.slots] == [f"chain.node{j}.conv" for j in range(1, 13)]
    assert all(slot.legal == (0, 1, 2, 3, 4, 5) for slot in space.slots)
    assert space.size == 6**12
    assert [skip.name for skip in traced.skipped] == ["stem.conv"]
    assert traced.notes == ()
    assert [site.output_shape for site in space.sites] == [(36, 32, 32)] * 4 + [(36, 16, 16)] * 4 + [(36, 8, 8)] * 4
    assert [j for j, site in enumerate(space.sites, 1) if isinstance(site, Site) and site.stride == (2, 2)] == [5, 9]


def test_without_room_for_more_parameters_the_chain_has_no_conv5x5() -> None:
    traced = narfx.trace(chain12(), (3, 32, 32), operators=SIX)
    assert all(slot.legal == (0, 1, 2, 3, 5) for slot in traced.space.slots)


def test_parameters_of_the_chain() -> None:
    stem, node, head = 27 * 36 + 2 * 36, 9 * 36 * 36 + 2 * 36, 36 * 10 + 10
    assert parameters(chain12()) == stem + 12 * node + head


@pytest.mark.parametrize(("nodes", "halved"), [(3, [2, 3]), (4, [2, 3]), (6, [3, 5]), (12, [5, 9]), (24, [9, 17])])
def test_the_chain_is_halved_after_each_third(nodes: int, halved: list[int]) -> None:
    model = chain12(channels=2, nodes=nodes)
    assert [j for j, node in enumerate(model.chain, 1) if node.conv.stride == (2, 2)] == halved


def test_the_chain_takes_grey_images_of_28_pixels() -> None:
    with torch.no_grad():
        assert chain12(channels=4, in_channels=1).eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 2}, "a chain with two reductions needs at least 3 nodes, not 2"),
        ({"nodes": "12"}, "nodes must be a positive integer, not '12'"),
        ({"channels": -36}, "channels must be a positive integer, not -36"),
        ({"num_classes": 0}, "num_classes must be a positive integer, not 0"),
        ({"in_channels": 1.5}, r"in_channels must be a positive integer, not 1\.5"),
    ],
)
def test_options_that_make_no_chain_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        chain12(**options)
    assert caught.value.kind == "model_arguments"


# --- both, to the end


@pytest.mark.parametrize(
    ("reference", "granularity", "vector"),
    [
        ("narfx:lresnet_ir?units=1-1-1-1&width=4&embedding=8&size=32", "block", (1, 2, 3, 0)),
        ("narfx:chain12?channels=6&nodes=6&in_channels=1", "conv", (1, 2, 3, 4, 5, 0)),
    ],
)
def test_a_small_one_is_lowered_and_exported(
    reference: str, granularity: str, vector: tuple[int, ...], tmp_path: Path
) -> None:
    shape = default_input(reference)
    assert shape is not None
    model = load_model(reference, seed=0)
    traced = narfx.trace(model, shape, granularity, operators=SIX, max_candidate_params=3)
    lowered = narfx.lower(narfx.Supernet(traced), vector)
    report = narfx.export(lowered, tmp_path / "out", input=shape)
    assert report["parity"]["passed"]
    assert {"params": report["params"], "macs": report["macs"]} == traced.space.cost(vector)
    assert (tmp_path / "out" / "model.py").is_file()
