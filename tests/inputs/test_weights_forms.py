"""Weights in the forms that training scripts save: under any usual name, with prefixes, averaged or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import narfx
from narfx.compiler.open import NetworkOptions, open_base
from narfx.errors import UsageError
from narfx.inputs.model_ref import load_model
from narfx.inputs.weights import apply_weights
from narfx.verbs.target import load_target

State = dict[str, Tensor]


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 3)))


def state(value: float = 0.0) -> State:
    return {key: torch.full_like(tensor, value) for key, tensor in net().state_dict().items()}


def prefixed(prefix: str, value: float = 0.0) -> State:
    return {prefix + key: tensor for key, tensor in state(value).items()}


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "w.pt")
    return folder / "w.pt"


PARAMS = "taken from 'params', not from 'params_ema', which fits as well"
AVERAGED = "prefix 'module.' removed, 'n_averaged' left out"


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (prefixed("_orig_mod.module.", 1), "prefix '_orig_mod.module.' removed"),
        ({"state_dict": prefixed("model.", 1), "epoch": 3}, "taken from 'state_dict', prefix 'model.' removed"),
        (prefixed("net.", 1), "prefix 'net.' removed"),
        ({"params": state(1)}, "taken from 'params'"),
        ({"params_ema": state(1)}, "taken from 'params_ema'"),
        ({"params_ema": state(2), "params": state(1)}, PARAMS),
        ({"state_dict_ema": state(1), "epoch": 3}, "taken from 'state_dict_ema'"),
        ({"net": state(1), "acc": 93.5}, "taken from 'net'"),
        ({"generator": state(1), "discriminator": {"w": torch.ones(1)}}, "taken from 'generator'"),
        ({"weights": state(1)}, "taken from 'weights'"),
        ({"checkpoint": {"model": {"state_dict": state(1)}}}, "taken from 'checkpoint.model.state_dict'"),
        ({"n_averaged": torch.tensor(7), **prefixed("module.", 1)}, AVERAGED),
        (
            {**state(1), "total_ops": torch.zeros(1), "2.0.total_params": torch.zeros(1)},
            "'total_ops' left out, 'total_params' left out",
        ),
        ({key.replace("2.0", "2._orig_mod.0"): value for key, value in state(1).items()},
         "'_orig_mod' taken out of the keys"),
        # A tree of parts: what is saved part by part.
        ({str(i): part.state_dict() for i, part in enumerate(net())}, None),
        # An optimizer's averages have the keys and shapes of weights too.
        ({"optimizer": {"exp_avg": state(2)}, "exp_avg": state(2), "net": state(1)}, "taken from 'net'"),
    ],
)  # fmt: skip
def test_a_common_form_is_read_and_what_was_done_is_said(tmp_path: Path, content: Any, note: str | None) -> None:
    model = net()
    assert apply_weights(model, saved(tmp_path, content)) == note
    if note is not None:
        assert all(bool((tensor == 1).all()) for tensor in model.state_dict().values())


@pytest.mark.parametrize(
    "content",
    [
        {**prefixed("model."), "loss.weight": torch.zeros(1)},  # not all keys have the prefix
        {"optimizer": {"exp_avg": state()}},
        {"state_dict": prefixed("a."), "params": {"0.weight": torch.zeros(4, 3, 5, 5)}} | {"state_dict": {}},
        {"backbone": {k: v for k, v in state().items() if k != "1.weight"}},
    ],
)
def test_what_does_not_fit_exactly_is_refused(tmp_path: Path, content: Any) -> None:
    model = net()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        apply_weights(model, saved(tmp_path, content))
    assert caught.value.kind in ("weights_mismatch", "weights_unreadable")
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


names = st.sampled_from(["state_dict", "model", "net", "params", "weights", "ema", "my_model", "checkpoint"])
prefixes = st.sampled_from(["module.", "_orig_mod.", "model.", "net.", "a.b."])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names, max_size=3, unique=True), st.lists(prefixes, max_size=3), st.integers(1, 9))
def test_any_nesting_with_any_prefixes_gives_the_same_weights(
    tmp_path: Path, path: list[str], prefix: list[str], value: int
) -> None:
    content: Any = prefixed("".join(prefix), value)
    for name in reversed(path):
        content = {name: content, "epoch": 3}
    model = net()
    note = apply_weights(model, saved(tmp_path, content)) or ""
    assert all(bool((tensor == value).all()) for tensor in model.state_dict().values())
    assert (".".join(path) in note) and (not prefix or f"prefix {''.join(prefix)!r} removed" in note)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), prefixes)
def test_a_damaged_state_dict_never_loads_in_part(tmp_path: Path, data: st.DataObject, prefix: str) -> None:
    content = prefixed(prefix, 5)
    key = data.draw(st.sampled_from([key for key in content if not key.endswith("num_batches_tracked")]))
    change: Callable[[], object] = data.draw(
        st.sampled_from([lambda: content.pop(key), lambda: content.update({key: torch.zeros(1, 9)})])
    )
    change()
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        apply_weights(model, saved(tmp_path, content))
    assert caught.value.kind == "weights_mismatch"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_entry_is_said_wherever_weights_are_named(tmp_path: Path) -> None:
    reference = "narfx:resnet20"
    content = {"state_dict": load_model(reference).state_dict(), "state_dict_ema": load_model(reference).state_dict()}
    path, said = str(saved(tmp_path, content)), "taken from 'state_dict', not from 'state_dict_ema', which fits as well"
    traced = open_base(NetworkOptions(model=reference, weights=path))
    assert any(said in note for note in traced.notes), traced.notes
    assert load_target(reference, weights=path).weights == f"w.pt ({said})"
    vector = [1] + [0] * (len(traced.space) - 1)
    (tmp_path / "arch.json").write_text(json.dumps({"model": reference, "vector": vector}))
    report = narfx.apply(tmp_path / "arch.json", tmp_path / "out", weights=path)
    assert report["weights"].startswith(f"w.pt ({said}): the base's")
