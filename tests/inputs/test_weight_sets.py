"""Several networks in one file: what they share stands once, and each is read as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from narfx.errors import UsageError
from narfx.inputs.weight_sets import WeightSet, read_weight_set


def network(mean: float) -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    assert norm.running_mean is not None
    norm.running_mean.fill_(mean)
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm)


def test_what_networks_share_stands_once_and_each_is_read_as_it_was(tmp_path: Path) -> None:
    kept, networks = WeightSet(), {"1": network(0.5), "2": network(2.0)}
    for name, each in networks.items():
        kept.add(name, each)
    next(networks["1"].parameters()).data.zero_()  # what was added is a copy
    kept.write(tmp_path / "set.safetensors")
    assert (
        len(load_file(tmp_path / "set.safetensors")) == 7
    )  # of 14: the means differ, and weight and variance are ones
    first, second = (read_weight_set(tmp_path / "set.safetensors", name) for name in ("1", "2"))
    assert first.keys() == second.keys() == networks["2"].state_dict().keys()
    for key, tensor in networks["2"].state_dict().items():
        assert torch.equal(second[key], tensor), key
    assert torch.equal(first["0.weight"], second["0.weight"]) and float(first["1.running_mean"][0]) == 0.5


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    with pytest.raises(UsageError, match="there is no weights file"):
        read_weight_set(path, "1")
    kept = WeightSet()
    kept.add("1", network(1.0))
    kept.write(path)
    with pytest.raises(UsageError, match="has no weights of point 2"):
        read_weight_set(path, "2")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UsageError, match="has no weights of point 1"):
        read_weight_set(path, "1")
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="has no weights of point 1"):
        read_weight_set(path, "1")
