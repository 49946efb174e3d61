"""``arch.json``: what is refused, and how an architecture finds its model and its weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from sample_networks import images
from torch import Tensor, nn

import narfx
from narfx.compiler.open import Lowered, NetworkOptions, open_architecture, open_base
from narfx.errors import UsageError
from narfx.inputs.model_ref import load_model
from narfx.space.architecture import Preprocessing

NET = """
import torch
from torch import nn

INPUT_SHAPE = (3, 8, 8)


class Net(nn.Module):
    def __init__(self, channels=8):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.one = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = nn.Linear(channels, 5)
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.norm(self.one(x))) + x
        return self.head(self.two(x).mean((2, 3)))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def written(folder: Path, **values: Any) -> Path:
    path = folder / "arch.json"
    path.write_text(json.dumps({"model": "net.py", "vector": [1, 0], **values}))
    return path


def opened(path: Path, **options: Any) -> Lowered:
    return open_architecture(narfx.Architecture.load(path), relative_to=path.parent, **options)


def refused(path: Path, kind: str, **options: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        opened(path, **options)
    assert (caught.value.kind, caught.value.exit_code) == (kind, 2)
    return caught.value


def test_a_model_and_a_vector_are_enough(folder: Path) -> None:
    lowered = opened(written(folder))
    assert lowered.traced.input == (3, 8, 8)
    assert lowered.traced.options.granularity == "conv"
    assert lowered.weights == "none given: the base as net.py builds it; operators at 1 slot warm-started, not trained"
    assert [name for name, _ in lowered.network.get_submodule("one").named_children()] == ["depthwise", "pointwise"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2",
        '{"model": "net.py", "vector": [1, 0],}',
        "\x00",
        "[" * 100_000,
        '{"metrics": {"a": 1e999}}',
        '{"model": NaN}',
        "{'a': 1}",
    ],
)
def test_what_is_no_json_is_refused(folder: Path, text: str) -> None:
    path = folder / "arch.json"
    path.write_text(text)
    assert "is not valid JSON" in str(refused(path, "malformed_json"))


def test_bytes_that_are_no_text_are_refused(folder: Path) -> None:
    path = folder / "arch.json"
    path.write_bytes(b"\xff\xfe\x00")
    refused(path, "malformed_json")


def test_a_missing_file_and_a_folder_are_refused(folder: Path) -> None:
    assert "there is no file" in str(refused(folder / "none.json", "missing_file"))
    refused(folder, "unreadable_file")


def test_operators_may_stand_by_name(folder: Path) -> None:
    for values in (
        {"vector": ["dwsep3x3", "base"]},
        {"vector": ["avgpool3x3", 0], "operators": ["base", "avgpool3x3"]},
    ):
        path = written(folder, **values)
        lowered = opened(path)
        assert narfx.Architecture.load(path).check(lowered.traced.space) == (1, 0)
        assert lowered.weights.endswith("operators at 1 slot warm-started, not trained")
    for vector, said in ((["1", 0], "slot 0 (one) has no choice '1': its choices are 0 base, 1 dwsep3x3, 2 maxpool3x3"),
                         (["base"], "the vector has 1 entry, but the model has 2 slots")):  # fmt: skip
        with pytest.raises(UsageError, match=re.escape(said)):
            opened(written(folder, vector=vector))


def test_candidates_of_a_cell_may_stand_by_name(folder: Path) -> None:
    model = "narfx:darts_search?cells=3&channels=2&operators=s2"
    path = written(folder, model=model, input=[3, 8, 8], vector=["skip_connect"] * 14 + [0] * 14)
    space = opened(path).traced.space
    assert (
        narfx.Architecture.load(path).check(space) == (space.slots[0].choices.index("skip_connect"),) * 14 + (0,) * 14
    )


@pytest.mark.parametrize("value", [[], "text", 3, None])
def test_a_value_that_is_no_object_is_refused(folder: Path, value: Any) -> None:
    path = folder / "arch.json"
    path.write_text(json.dumps(value))
    refused(path, "malformed_architecture")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"vectors": [1]}, "there is no key vectors"),
        ({"version": 2}, "version must be 1, not 2"),
        ({"vector": [1.0, 0]}, "vector.0 must be a whole number"),
        ({"vector": [0.5, 0]}, "vector.0 must be a whole number"),
        ({"vector": [True, 0]}, "vector.0 must be a whole number"),
        ({"vector": [None, 0]}, "vector.0 must be a whole number"),
        ({"vector": "10"}, "vector must be a list"),
        ({"vector": {"0": 1}}, "vector must be a list"),
        ({"model": 3}, "model must be a text, not 3"),
        ({"granularity": "cell"}, "granularity must be 'conv' or 'block', not 'cell'"),
        ({"input": [3, 8]}, "input.2 is missing"),
        ({"input": [3, 8, 8.0]}, "input.2 must be a whole number"),
        ({"max_candidate_params": 0}, "max_candidate_params must be above 0"),
        ({"max_candidate_params": "much"}, "max_candidate_params must be a number"),
        ({"preprocessing": {"mean": [0.5]}}, "preprocessing.std is missing"),
        ({"preprocessing": {"mean": [0.5], "std": [0]}}, r"preprocessing.std.0 must be above 0"),
        ({"preprocessing": {"mean": [True], "std": [1]}}, r"preprocessing.mean.0 must be a number"),
        ({"preprocessing": {"mean": [0.5], "std": [-1]}}, r"preprocessing.std.0 must be above 0"),
        (
            {"preprocessing": {"mean": [], "std": []}},
            "preprocessing: mean and std have one value for each channel, but there are 0 of mean and 0 of std",
        ),
        (
            {"preprocessing": {"mean": [0.5, 0.5], "std": [1]}},
            "preprocessing: mean and std have one value for each channel, but there are 2 of mean and 1 of std",
        ),
        (
            {"input": [1, 8, 8], "preprocessing": {"mean": [0.5] * 2, "std": [1, 1]}},
            "preprocessing: mean and std are of 2 channels, but the input has 1",
        ),
    ],
)
def test_wrong_values_are_refused_by_their_key(folder: Path, values: dict[str, Any], said: str) -> None:
    error = refused(written(folder, **values), "malformed_architecture")
    assert f"arch.json: {said}" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_mean_that_is_not_finite_is_refused(key: str, number: float) -> None:
    with pytest.raises(ValueError, match=rf"{key}.0\n  Input should be"):
        Preprocessing(**{"mean": (0.5,), "std": (0.5,), key: (number,)})


@pytest.mark.parametrize("key", ["model", "vector"])
def test_what_is_needed_is_named(folder: Path, key: str) -> None:
    path = written(folder)
    values = json.loads(path.read_text())
    del values[key]
    path.write_text(json.dumps(values))
    assert f"{key} is missing" in str(refused(path, "malformed_architecture"))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(folder: Path, number: str) -> None:
    path = folder / "arch.json"
    path.write_text('{"model": "net.py", "vector": [1, 0], "max_candidate_params": ' + number + "}")
    with pytest.raises(UsageError):
        opened(path)


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ({"vector": []}, "vector_length", "has 0 entries, but the model has 2 slots"),
        ({"vector": [0, 0, 0]}, "vector_length", "has 3 entries, but the model has 2 slots"),
        (
            {"vector": [0, 4]},
            "vector_index",
            "entry 4 at slot 1 (two) is out of range: there are 4 choices, 0 base, 1 ",
        ),
        ({"vector": [-1, 0]}, "vector_index", "entry -1 at slot 0 (one) is out of range"),
        ({"vector": [10**30, 0]}, "vector_index", "is out of range"),
        (
            {"operators": ["base", "conv5x5", "dwsep3x3"], "vector": [2, 1]},
            "vector_illegal",
            "entry 1 (conv5x5) is not legal at slot 1 (two): it has 1,608 parameters, more than 1 times",
        ),
        ({"operators": ["base", "conv4x4"], "vector": [0, 0]}, "unknown_operator", "unknown operator 'conv4x4'"),
        ({"operators": [], "vector": [0, 0]}, "malformed_architecture", "starts with base"),
        ({"input": [3, 0, 8]}, "input_shape", "three positive integers"),
        ({"input": [1, 8, 8]}, "input_shape", "does not accept an input of 1,8,8"),
        ({"model": "other.py"}, "missing_file", "there is no model file other.py"),
        ({"model": "narfx:resnet9"}, "unknown_model", "did you mean"),
        ({"weights": "none.safetensors"}, "missing_file", "there is no weights file"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(folder: Path, values: dict[str, Any], kind: str, said: str) -> None:
    assert said in str(refused(written(folder, **values), kind))


def test_a_fingerprint_of_the_same_sites_passes(folder: Path) -> None:
    traced = open_base(NetworkOptions(model="net.py"), relative_to=folder)
    path = folder / "arch.json"
    traced.architecture((0, 2)).save(path)
    values = json.loads(path.read_text())
    assert values["fingerprint"] == traced.space.fingerprint()
    assert values["model"] == "net.py"
    assert opened(path).traced.space.fingerprint() == traced.space.fingerprint()


def test_the_architecture_of_another_model_shows_the_difference(folder: Path) -> None:
    path = folder / "arch.json"
    open_base(NetworkOptions(model="net.py"), relative_to=folder).architecture((1, 0)).save(path)
    (folder / "net.py").write_text(NET.replace("self.two = nn.Conv2d(channels, channels", "self.two = nn.Conv2d(8, 16"))
    (folder / "net.py").write_text((folder / "net.py").read_text().replace("nn.Linear(channels", "nn.Linear(16"))
    error = refused(path, "fingerprint")
    lines = [line.strip() for line in str(error).splitlines()]
    assert [line[:24] for line in lines if line.startswith(("-slot", "+slot"))] == [
        "-slot 1 two conv3x3 8->8",
        "+slot 1 two conv3x3 8->1",
    ]
    # Weights, names of unused parts and the rest of the file are not what an architecture was made for.
    (folder / "net.py").write_text(NET.replace("self.spare", "self.unused").replace("torch.relu", "torch.tanh"))
    opened(path)


@pytest.mark.parametrize(
    "other", [{"input": [3, 16, 16]}, {"operators": ["base", "dwsep3x3"]}, {"include_first": True}]
)
def test_the_fingerprint_knows_shapes_and_choices(folder: Path, other: dict[str, Any]) -> None:
    path = folder / "arch.json"
    open_base(NetworkOptions(model="net.py"), relative_to=folder).architecture((0, 0)).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **other}))
    refused(path, "fingerprint")


def test_saving_and_loading_loses_nothing(folder: Path) -> None:
    architecture = narfx.Architecture(
        model="net.py",
        vector=(0, 2),
        granularity="block",
        operators=("base", "dwsep3x3", "conv5x5"),
        input=(3, 16, 16),
        max_candidate_params=3.0,
        include_first=True,
        weights="model.safetensors",
        fingerprint="abc",
        sites=("a", "b"),
        metrics={"macs": 5},
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3),
        seed=7,
    )
    path = folder / "arch.json"
    architecture.save(path)
    assert narfx.Architecture.load(path) == architecture
    assert str(folder) not in path.read_text()


def test_a_model_path_starts_at_the_folder_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    path = written(elsewhere, model="../net.py")
    assert opened(path).traced.model == "../net.py"
    # Where it is not found there, the working folder counts.
    path = written(elsewhere)
    refused(path, "missing_file")
    monkeypatch.chdir(folder)
    opened(path)
    (elsewhere / "net.py").write_text(NET.replace("8, 8)", "4, 4)"))
    assert opened(path).traced.input == (3, 4, 4)


def saved(state: dict[str, Tensor], path: Path) -> str:
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return str(path)


def base(folder: Path) -> nn.Module:
    return load_model(str(folder / "net.py"), seed=5).eval()


def test_weights_with_the_keys_of_the_base(folder: Path) -> None:
    model = base(folder)
    file = saved(model.state_dict(), folder / "base.safetensors")
    path = written(folder)
    lowered = opened(path, weights=file)
    assert lowered.weights == "base.safetensors: the base's; operators at 1 slot warm-started, not trained"
    assert torch.equal(lowered.network.get_parameter("two.weight"), model.get_parameter("two.weight"))
    # The other operators start from these weights, not from those that the model was built with.
    net = narfx.Supernet(narfx.trace(model, input=(3, 8, 8)))
    started = narfx.lower(net, (1, 0)).state_dict()
    assert all(torch.equal(value, started[key]) for key, value in lowered.network.state_dict().items())


def test_weights_with_the_keys_of_the_trace(folder: Path) -> None:
    state = {key: value for key, value in base(folder).state_dict().items() if not key.startswith("spare")}
    lowered = opened(written(folder), weights=saved(state, folder / "traced.safetensors"))
    assert lowered.weights.startswith("traced.safetensors: the base's")


def test_weights_of_the_base_are_whole_where_the_vector_is_the_base(folder: Path) -> None:
    model = base(folder)
    file = saved(model.state_dict(), folder / "base.safetensors")
    lowered = opened(written(folder, vector=[0, 0]), weights=file)
    assert lowered.weights == "base.safetensors: the base's"
    with torch.no_grad():
        assert torch.equal(lowered.network(images(2, 3, 8, 8)), model(images(2, 3, 8, 8)))


def test_weights_with_the_keys_of_the_lowered_network(folder: Path) -> None:
    path = written(folder)
    state = {key: value + 1 for key, value in opened(path).network.state_dict().items()}
    file = saved(state, folder / "lowered.safetensors")
    for lowered in (opened(path, weights=file), opened(written(folder, weights="lowered.safetensors"))):
        assert lowered.weights == "lowered.safetensors: the lowered network's"
        assert all(torch.equal(value, state[key]) for key, value in lowered.network.state_dict().items())


def test_weights_that_are_named_on_the_command_come_first(folder: Path) -> None:
    path = written(folder, weights="none.safetensors")
    file = saved(base(folder).state_dict(), folder / "base.safetensors")
    assert opened(path, weights=file).weights.startswith("base.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_the_prefix_of_a_wrapper_is_taken_off(folder: Path, prefix: str) -> None:
    path = written(folder)
    for state in (base(folder).state_dict(), opened(path).network.state_dict()):
        wrapped = {f"{prefix}{key}": value for key, value in state.items()}
        plain = opened(path, weights=saved(state, folder / "plain.safetensors"))
        lowered = opened(path, weights=saved(wrapped, folder / "wrapped.safetensors"))
        assert lowered.weights.partition(":")[2] == plain.weights.partition(":")[2]
        expected = plain.network.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in lowered.network.state_dict().items())


def test_weights_that_fit_neither_are_refused_with_both_reasons(folder: Path) -> None:
    path = written(folder)
    state = dict(base(folder).state_dict())
    state["two.weight"] = torch.zeros(8, 8, 5, 5)
    error = refused(path, "weights_mismatch", weights=saved(state, folder / "wrong.safetensors"))
    assert "fit neither the base (1 key differs: two.weight has another shape)" in str(error)
    assert "nor the lowered network (" in str(error) and "one.depthwise.weight is missing" in str(error)
    del state["two.weight"]
    error = refused(path, "weights_mismatch", weights=saved(state, folder / "wrong.safetensors"))
    assert "two.weight is missing" in str(error)


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    state = dict(base(folder).state_dict())
    state["two.bias"] = torch.full((8,), float("nan"))
    refused(written(folder), "weights_not_finite", weights=saved(state, folder / "nan.safetensors"))


def test_a_bound_is_finite() -> None:
    with pytest.raises(ValidationError, match="finite number"):
        narfx.Architecture(model="net.py", vector=(0,), max_candidate_params=float("inf"))


def test_an_architecture_needs_a_reference(folder: Path) -> None:
    traced = narfx.trace(base(folder), input=(3, 8, 8))
    with pytest.raises(UsageError) as caught:
        traced.architecture((0, 0))
    assert caught.value.kind == "no_reference"
