"""Weights from files: forms, prefixes, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes
from safetensors.torch import save_file
from torch import nn

from narfx.errors import UsageError
from narfx.inputs.weights import apply_weights, read_weights, write_state


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.alias = self.conv


@pytest.fixture
def model() -> Tied:
    return Tied()


def state(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """A state dict of another ``Tied`` whose batch norm has run, with some keys changed or, by ``None``, left out."""
    other = Tied()
    other.bn(torch.randn(8, 4, 2, 2))
    values = {key: value.clone() for key, value in other.state_dict().items()}
    values["alias.weight"], values["alias.bias"] = values["conv.weight"].clone(), values["conv.bias"].clone()
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def test_weights_from_safetensors_and_from_torch(model: Tied, tmp_path: Path) -> None:
    for name, save in (("w.safetensors", save_file), ("w.pt", torch.save), ("w.pth", torch.save)):
        values = state()
        save(values, tmp_path / name)
        assert apply_weights(model, tmp_path / name) is None
        loaded = model.state_dict()
        assert all(torch.equal(loaded[key], values[key]) for key in values)


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda s: {"state_dict": s, "epoch": 3}, "taken from 'state_dict'"),
        (lambda s: {"model": s, "optimizer": {"lr": 0.1}}, "taken from 'model'"),
        (lambda s: {f"module.{key}": value for key, value in s.items()}, "prefix 'module.' removed"),
        (lambda s: {"state_dict": {f"module.{key}": value for key, value in s.items()}},
         "taken from 'state_dict', prefix 'module.' removed"),
        (lambda s: {key: nn.Parameter(v) if v.is_floating_point() else v for key, v in s.items()}, None),
    ],
)  # fmt: skip
def test_the_habits_of_checkpoints_are_undone(
    model: Tied, tmp_path: Path, wrap: Callable[[dict[str, torch.Tensor]], dict[str, object]], note: str | None
) -> None:
    values = state()
    torch.save(wrap(values), tmp_path / "w.pt")
    assert apply_weights(model, tmp_path / "w.pt") == note
    assert torch.equal(model.conv.weight, values["conv.weight"])


def test_a_model_whose_own_keys_have_the_prefix_keeps_them(tmp_path: Path) -> None:
    wrapped = nn.ModuleDict({"module": nn.Linear(2, 2)})
    torch.save(nn.ModuleDict({"module": nn.Linear(2, 2)}).state_dict(), tmp_path / "w.pt")
    assert apply_weights(wrapped, tmp_path / "w.pt") is None


def test_aliases_and_batch_counters_may_be_missing(model: Tied, tmp_path: Path) -> None:
    missing = {"alias.weight": None, "alias.bias": None, "bn.num_batches_tracked": None}
    values = state(**missing)
    save_file(values, tmp_path / "w.safetensors")
    apply_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model.alias.weight, values["conv.weight"])


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"bn.weight": None, "bn.bias": None}, "weights_mismatch", ["2 missing (bn.weight, bn.bias)"]),
        (
            {f"x{i}": torch.zeros(1) for i in range(5)},
            "weights_mismatch",
            ["5 not in the model (x0, x1, x2 and 2 more)"],
        ),
        ({"conv.weight": torch.zeros(4, 3, 5, 5)}, "weights_mismatch", ["1 of another shape", "4x3x5x5", "4x3x3x3"]),
        ({"bn.weight": torch.zeros(4, dtype=torch.int8)}, "weights_mismatch", ["integers", "bn.weight"]),
        ({"bn.bias": torch.tensor([0.0, float("nan"), 0.0, 0.0])}, "weights_not_finite", ["bn.bias"]),
        ({"bn.running_var": torch.full((4,), float("inf"))}, "weights_not_finite", ["bn.running_var"]),
    ],
)
def test_weights_that_do_not_fit_change_nothing(
    model: Tied, tmp_path: Path, changes: dict[str, torch.Tensor | None], kind: str, told: list[str]
) -> None:
    save_file(state(**changes), tmp_path / "w.safetensors")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        apply_weights(model, tmp_path / "w.safetensors")
    assert caught.value.kind == kind
    assert all(part in str(caught.value) for part in [*told, "w.safetensors"])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class Hostile:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path(str(Path.cwd() / "was_run")).touch, ()  # type: ignore[return-value]


@pytest.mark.parametrize(
    "content", [Hostile(), nn.Linear(2, 2), {"weight": Hostile()}, [torch.zeros(2)], {"epoch": 3}, {}, torch.zeros(3)]
)
def test_a_pt_file_that_is_no_state_dict_is_refused_and_not_run(
    model: Tied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UsageError) as caught:
        apply_weights(model, tmp_path / "w.pt")
    assert caught.value.kind == "weights_unreadable"
    assert "save model.state_dict()" in str(caught.value)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_file_that_is_missing_or_damaged_is_refused(model: Tied, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(UsageError, match="there is no weights file"):
        apply_weights(model, path)
    (save_file if name == "w.safetensors" else torch.save)(state(), path)
    for content in (b"", b"garbage", path.read_bytes()[:-50]):
        path.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            apply_weights(model, path)
        assert caught.value.kind == "weights_unreadable"


def test_written_weights_have_the_bytes_of_safetensors(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 4), 'ä"\\\n': torch.arange(5), "s": torch.tensor(3.0), "none": torch.empty(0, 3)}
    tensors |= {"half": torch.randn(3).half(), "mask": torch.tensor([True, False]), "byte": torch.arange(3).byte()}
    write_state(tensors, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert (tmp_path / "w.safetensors").read_bytes() == safetensors_bytes(tensors, metadata=file.metadata())
    read_weights(tmp_path / "w.safetensors")  # checks the digest
