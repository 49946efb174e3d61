"""The base networks that narfx brings along."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import fx, nn

from narfx.errors import UsageError
from narfx.models import MODELS, ModelEntry
from narfx.models.resnet_cifar import BasicBlock, resnet18_cifar, resnet20, resnet_cifar, resnet_digits


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


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_entry_maps_its_input_to_logits(name: str) -> None:
    entry = MODELS[name]
    model = entry.factory().eval()
    images = torch.randn(2, *entry.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert model(images).shape == (2, 10)
        assert torch.equal(fx.symbolic_trace(model)(images), model(images))
    assert entry.summary.endswith(".")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_entry_takes_classes_and_channels(name: str) -> None:
    entry = MODELS[name]
    model = entry.factory(num_classes=7, in_channels=2).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 2, *entry.input_shape[1:])).shape == (1, 7)


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
    lots = [lot for _ in range(5) for lot in torch.split(train[torch.randperm(len(train))], 64)]
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
