"""Networks that others published: modes, blocks, dictionaries of outputs, backbones; many more: docs/coverage.md."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torchvision
from sample_networks import images
from torch import Tensor, nn

import narfx
from narfx.space.sampling import FeasibleSampler
from narfx.support.seeds import numpy_generator


def built(name: str, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of initialisations that will change one day
        torch.manual_seed(0)
        model: nn.Module = torchvision.models.get_model(name, weights=None, weights_backbone=None, **options).eval()
    return model


def plain(name: str, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model: nn.Module = torchvision.models.get_model(name, weights=None, **options).eval()
    return model


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_what_the_mode_changes_and_what_the_trace_drops_is_named(name: str) -> None:
    model = plain(name, aux_logits=True)
    side = 96 if name == "googlenet" else 128
    traced = narfx.trace(model, input=(3, side, side))
    assert traced.dropped and all(key.lower().startswith("aux") for key in traced.dropped)
    assert any("in training mode" in note for note in traced.notes)
    lowered = narfx.lower(narfx.Supernet(traced), traced.space.base).eval()
    assert lowered.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(lowered(images(2, 3, side, side)), model(images(2, 3, side, side)))


def test_stochastic_depth_follows_the_mode() -> None:
    model = plain("efficientnet_v2_s", stochastic_depth_prob=0.9)
    traced = narfx.trace(model, input=(3, 64, 64))
    assert not any("mode" in note for note in traced.notes)
    lowered = narfx.lower(narfx.Supernet(traced), traced.space.base)
    x = images(2, 3, 64, 64)
    for training in (False, True):
        model.train(training)
        lowered.train(training)
        torch.manual_seed(1)
        wanted = model(x)
        torch.manual_seed(1)
        assert torch.equal(lowered(x), wanted)


@pytest.mark.parametrize(
    ("name", "slots", "falls_back"),
    [
        ("resnet34", 16, False),
        ("resnext50_32x4d", 16, False),
        ("wide_resnet50_2", 16, False),
        ("vgg11_bn", 7, True),
        ("densenet121", 58, True),
    ],
)
def test_blocks_come_from_the_graph(name: str, slots: int, falls_back: bool) -> None:
    traced = narfx.trace(plain(name), input=(3, 64, 64), granularity="block")
    assert len(traced.space) == slots
    assert any("no residual add" in note for note in traced.notes) == falls_back


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_segmentation_is_refined_whole_and_keeps_its_dictionary(name: str) -> None:
    model = built(name, num_classes=4, aux_loss=True)
    traced = narfx.trace(model, input=(3, 64, 64))
    vector = FeasibleSampler(traced.space).draw(numpy_generator(0, name))
    lowered = narfx.lower(narfx.Supernet(traced), vector).eval()
    x = images(2, 3, 64, 64)
    with torch.no_grad():
        found, wanted = lowered(x), model(x)
    assert type(found) is type(wanted)
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in wanted.items()}


def test_a_detection_backbone_is_refined_in_place() -> None:
    model = built("fasterrcnn_resnet50_fpn", num_classes=3, min_size=64, max_size=64)
    assert isinstance(model.backbone, nn.Module)
    before: Any = model([torch.rand(3, 64, 64)])
    traced = narfx.trace(model.backbone, input=(3, 64, 64))
    net = narfx.Supernet(traced)
    model.backbone = narfx.lower(net, traced.space.base).eval()
    after: Any = model([torch.rand(3, 64, 64)])
    assert before[0].keys() == after[0].keys()
    refined = narfx.lower(net, FeasibleSampler(traced.space).draw(numpy_generator(0, "detection"))).eval()
    model.backbone = refined
    found: Any = model([torch.rand(3, 64, 64)])[0]
    assert {"boxes", "labels", "scores"} == found.keys()
    features: dict[str, Tensor] = refined(images(1, 3, 64, 64))
    assert list(features) == ["0", "1", "2", "3", "pool"]


def test_a_model_that_only_detects_says_which_parts_can_be_refined() -> None:
    with pytest.raises(narfx.errors.UsageError, match="MODEL#backbone") as caught:
        narfx.trace(built("ssdlite320_mobilenet_v3_large", num_classes=3), input=(3, 64, 64))
    assert caught.value.kind == "untraceable"
