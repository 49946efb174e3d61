"""What is said where an operator of the user's own is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Run
from own_operators import CACHED, SMALL, own_folder, refused
from sample_networks import Chain, images, settled
from torch import nn

import narfx
from narfx.errors import UsageError
from narfx.operators import (
    operator_names,
    unregister_operator,
)

OWN = operator_names()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return own_folder(capfd, tmp_path, monkeypatch)


def raising(*_: Any) -> Any:
    raise KeyError("gone")


_CACHE: dict[str, nn.Module] = {}


class PairsOnly(nn.Module):
    """It reshapes for a batch of two."""

    def __init__(self, channels: int, *, view: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.view = view

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y.view(2, *x.shape[1:]) if self.view else y.reshape(2, -1, *x.shape[2:])


class Doubling(nn.Module):
    """Its batch is not that of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x])


def conv(site: Any) -> nn.Module:
    return nn.Conv2d(site.in_channels, site.out_channels, 1)


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"build": lambda site: nn.MaxPool2d(2)}, "operator_shape", "maps 8x8x8 to 8x4x4 at body.0, where 8x8x8"),
        ({"build": lambda site: nn.Linear(8, 3)}, "operator_shape", "maps 8x8x8 to 8x8x3 at body.0"),
        ({"build": lambda site: nn.Linear(9, 3)}, "operator_failed", "cannot be run at body.0: RuntimeError"),
        (
            {"build": raising},
            "operator_failed",
            r"cannot be built at body.0: KeyError at .*faulty_operators.py:\d+",
        ),
        (
            {"build": lambda site: None},
            "operator_result",
            "builds a NoneType at body.0: .* must return a torch.nn.Module",
        ),
        ({"build": lambda site: nn.Identity()}, "operator_in_place", "returns its own input at body.0"),
        ({"build": lambda site: nn.Hardtanh(inplace=True)}, "operator_in_place", "changes its input at body.0"),
        ({"build": lambda site: nn.MaxPool2d(1, return_indices=True)}, "operator_shape", "to a tuple at body.0"),
        (
            {"build": conv, "refuse": raising},
            "operator_failed",
            "refuse.site. of operator .* fails at body.0: KeyError",
        ),
        (
            {"build": conv, "refuse": lambda site: False},
            "operator_refuse",
            "returns False at body.0: it must return a reason",
        ),
        ({"build": conv, "cost": raising}, "operator_failed", "cost.site. of operator .* fails at body.0: KeyError"),
        (
            {"build": conv, "cost": lambda site: 7},
            "operator_cost",
            "returns 7 at body.0: .* two numbers from 0 to 2..53",
        ),
        ({"build": conv, "cost": lambda site: {"params": 1}}, "operator_cost", "params and macs"),
        ({"build": conv, "cost": lambda site: {"params": 1, "macs": float("nan")}}, "operator_cost", "params and macs"),
        ({"build": conv, "cost": lambda site: {"params": 1, "macs": 10**400}}, "operator_cost", "'macs': 1000"),
        (
            {"build": conv, "cost": lambda site: {"params": 1, "macs": 10**9999}},
            "operator_cost",
            "a dict that cannot be printed",
        ),
        ({"build": conv, "cost": lambda site: {"params": True, "macs": 0}}, "operator_cost", "{'params': True"),
        ({"build": conv, "start": raising}, "operator_failed", "cannot start from the weights of body.0: KeyError"),
        ({"build": lambda site: _CACHE.setdefault("one", conv(site))}, "operator_shared", "a new module at each call"),
        ({"build": lambda site: PairsOnly(8)}, "operator_shape", "maps 8x8x8 to 4x8x8 at body.0 on a batch of 1"),
        ({"build": lambda site: PairsOnly(8, view=True)}, "operator_failed", "body.0 on a batch of 1: RuntimeError at"),
        ({"build": lambda site: Doubling()}, "operator_shape", "returns a batch of 4 for a batch of 2 at body.0"),
        ({"build": lambda site: conv(site).half()}, "operator_failed", "at body.0: RuntimeError: [^/]*same"),
    ],
)
def test_what_an_operator_does_wrong_names_it_and_the_site(fields: dict[str, Any], kind: str, words: str) -> None:
    narfx.register_operator(narfx.Operator("mine", **fields))
    with pytest.raises(UsageError, match=words) as caught:
        narfx.Supernet(narfx.trace(settled(Chain()), input=(3, 8, 8), operators=("base", "mine")))
    assert "operator mine" in str(caught.value) and caught.value.kind == kind and caught.value.exit_code == 2


class Small(nn.Module):
    """It takes no batch of more than three."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 3:
            raise ValueError("too many")
        y: torch.Tensor = self.conv(x)
        return y


def test_an_operator_that_fails_in_a_supernet_names_itself_and_its_site() -> None:
    narfx.register_operator(narfx.Operator("mine", lambda site: Small(site.in_channels)))
    net = narfx.Supernet(narfx.trace(settled(Chain()), input=(3, 8, 8), operators=("base", "mine")))
    net.set_vector((0, 1))
    assert net(images(3, 3, 8, 8)).shape == (3, 5)
    words = r"operator mine fails at body\.3 on 4x8x8x8: ValueError at .*test_faulty_operators\.py:\d+: too many"
    with pytest.raises(UsageError, match=words) as caught:
        net(images(4, 3, 8, 8))
    assert (caught.value.kind, caught.value.exit_code) == ("operator_failed", 2)
    # What is wrong with the user's call of the network is no fault of an operator.
    net.set_vector((0, 0))
    with pytest.raises(RuntimeError):
        net(images(2, 8, 8, 8))


def test_a_search_ends_in_a_sentence_where_an_operator_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(SMALL)
    for out, operators in (("a", "base,small.py"), ("b", "base,small.py:pairs")):
        quick = ["--epochs", "1", "--pretrain-epochs", "0", "--steps", "1", "--data-fraction", "0.2", "--out", out]
        error = refused(run, "search", "net.py", "--data", "digits", *quick, "--operators", operators)
        assert error["kind"] in ("operator_failed", "operator_shape")
        assert re.search(r"operator (small|pairs) .* at [ab] ", error["message"])


def test_a_builder_that_keeps_its_modules_is_told_so_by_every_command(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cached.py").write_text(CACHED)
    options = ["--operators", "base,cached.py"]
    error = refused(run, "search", "net.py", "--data", "digits", "--out", "s", *options)
    assert (
        error["kind"] == "operator_shared" and "operator cached returns the same module twice at a" in error["message"]
    )
    unregister_operator("cached")
    values = {"model": "net.py", "vector": [1, 0], "input": [1, 8, 8], "operators": ["base", "cached"]}
    (tmp_path / "arch.json").write_text(json.dumps(values | {"operator_files": ["cached.py"]}))
    assert refused(run, "apply", "arch.json", "--out", "bundle")["kind"] == "operator_shared"
    unregister_operator("cached")
    code, out, err = run("ops", "test", "cached.py", "--json")
    failed = [record for record in json.loads(out)["checks"] if not record["passed"]]
    assert code == 2 and "Traceback" not in err
    assert {record["check"] for record in failed} == {"build"}
    assert all("a new module at each call" in record["message"] for record in failed)


def test_a_builder_that_the_meta_device_cannot_run_is_run_on_the_cpu() -> None:
    class Values(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0] * channels))
            self.largest = float(self.scale.max())  # the meta device has no values

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale[:, None, None] / self.largest

    narfx.register_operator(narfx.Operator("mine", lambda site: Values(site.in_channels)))
    traced = narfx.trace(settled(Chain()), input=(3, 8, 8), operators=("base", "mine"))
    assert traced.space.slots[0].costs == {"params": (576, 8), "macs": (576 * 64, 0)}
