"""Parts of a model that its graph does not use: kept with their keys, free of cost, and not deployed."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import narfx
from narfx.graph.cost import measure
from narfx.inputs.model_ref import load_model
from narfx.passes import verify_lowered

MODEL = """
from torch import nn

class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.aside = nn.Linear(3, 3)

    def forward(self, x):
        return self.second(self.first(x).relu())

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = Body()
        self.spare = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.scale = nn.Parameter(nn.init.ones_(nn.Linear(2, 2).weight.data))
        self.register_buffer("mark", nn.Linear(2, 2).weight.data)
        self.alias, self.again = self.body.first, self.body
        self.bias = self.body.second.bias

    def forward(self, x):
        return self.body(self.stem(x)).mean((2, 3))

model = Net()
"""
SHAPE = (3, 8, 8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    return path


def built(file: Path) -> nn.Module:
    return load_model(str(file)).eval()


def images() -> Tensor:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_all_keys_stay_at_the_zero_vector(file: Path) -> None:
    model = built(file)
    traced = narfx.trace(model, input=SHAPE)
    assert {"scale", "mark", "spare.1.running_mean", "body.aside.weight"} <= set(traced.dropped)
    net = narfx.Supernet(traced)
    lowered = narfx.lower(net, traced.space.base)
    assert lowered.state_dict().keys() == model.state_dict().keys()
    lowered.load_state_dict(model.state_dict())
    assert torch.equal(lowered(images()), model(images()))
    assert verify_lowered(lowered.eval(), traced.dropped) == []
    aliases = {key for key in lowered.state_dict() if key.startswith(("alias", "bias"))}
    for network in (copy.deepcopy(lowered), pickle.loads(pickle.dumps(lowered))):  # torch's own leave out other names
        assert network.state_dict().keys() >= model.state_dict().keys() - aliases
    assert lowered.get_submodule("alias") is lowered.get_submodule("body.first")
    assert not any(key.startswith(("alias", "again.first")) for key in traced.dropped), "they are used, by another name"


def test_another_name_of_a_site_follows_its_choice_and_nothing_of_the_base_stays(file: Path) -> None:
    traced = narfx.trace(built(file), input=SHAPE)
    lowered = narfx.lower(narfx.Supernet(traced), (1, 1))
    assert lowered.get_submodule("alias") is lowered.get_submodule("body.first")
    assert {"alias.depthwise.weight", "again.first.depthwise.weight"} <= lowered.state_dict().keys()
    assert "alias.weight" not in lowered.state_dict()


def test_they_count_for_nothing(file: Path) -> None:
    model = built(file)
    traced = narfx.trace(model, input=SHAPE)
    used = sum(
        p.numel() for part in ("stem", "body.first", "body.second") for p in model.get_submodule(part).parameters()
    )
    assert traced.cost["params"] == traced.space.cost(traced.space.base)["params"] == used
    lowered = narfx.lower(narfx.Supernet(traced), (1, 0))
    assert measure(lowered, SHAPE)["params"] == traced.space.cost((1, 0))["params"]


@pytest.mark.parametrize("with_unused", [True, False])
def test_a_bundle_is_without_them_whatever_the_weights_hold(file: Path, with_unused: bool, tmp_path: Path) -> None:
    model = built(file)
    traced = narfx.trace(model, input=SHAPE, reference=str(file))
    own = set(model.state_dict()) - (set() if with_unused else set(traced.dropped))
    saved = {key: value.detach().clone() for key, value in model.state_dict().items() if key in own}
    save_file(saved, tmp_path / "base.safetensors")
    report = narfx.apply(traced.architecture((1, 0)), tmp_path / "bundle", weights=str(tmp_path / "base.safetensors"))
    assert "the base's" in report["weights"] and report["parity"]["passed"]
    keys = load_file(tmp_path / "bundle" / "model.safetensors").keys()
    assert keys and all(key.startswith(("stem.", "body.first.", "body.second.")) for key in keys)
    assert narfx.check(tmp_path / "bundle")["parity"]["passed"]
    again = narfx.apply(tmp_path / "bundle" / "arch.json", tmp_path / "again")
    assert "the lowered network's" in again["weights"]
