"""Arguments of a wrong kind, given from Python: one sentence each, never Python's own TypeError or AttributeError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_networks import Chain
from torch import nn

import narfx
from narfx.errors import UsageError

SHAPE = (3, 8, 8)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("torchvision:resnet18", "load_model('torchvision:resnet18')"),
        (None, "not None"),
        (Chain, "give the module that it builds"),
        ({"weight": torch.zeros(3)}, "not a dict"),
    ],
)
def test_what_is_no_module(model: Any, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        narfx.trace(model, input=SHAPE)
    assert raised.value.kind == "not_a_module" and said in str(raised.value)


@pytest.mark.parametrize("input", [16, None, "3,16,16", "abc", (3, 16), (3.0, 16, 16), (3, True, 16), {3, 16, 32}])
def test_what_is_no_shape(input: Any) -> None:
    with pytest.raises(UsageError) as raised:
        narfx.trace(Chain(), input=input)
    assert raised.value.kind == "input_shape"


@pytest.mark.parametrize(
    "options",
    [
        {"kernels": 3},
        {"kernels": None},
        {"kernels": [[3]]},
        {"kernels": "3"},
        {"operators": "base"},
        {"operators": None},
        {"operators": [1, 2]},
        {"operator_files": "my_ops.py"},
        {"operator_files": Path("my_ops.py")},
        {"max_candidate_params": None},
        {"max_candidate_params": "x"},
        {"granularity": None},
        {"include_first": "perhaps"},
    ],
)
def test_options_of_a_wrong_kind(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as raised:
        narfx.trace(Chain(), input=SHAPE, **options)
    assert raised.value.kind == "bad_option" and next(iter(options)) in str(raised.value)


def test_lists_of_any_kind_are_lists() -> None:
    found = narfx.trace(Chain(), input=SHAPE, operators=iter(["base", "dwsep3x3"]), kernels={3})  # type: ignore[arg-type]
    assert found.space.operators == ("base", "dwsep3x3")
    for vector in ([1, 0], (1, 0), np.array([1, 0]), torch.tensor([1, 0])):
        assert found.space.validate(vector) == (1, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("vector", "kind"),
    [
        (None, "vector_entry"),
        (1, "vector_entry"),
        ("01", "vector_entry"),
        ([None, 0], "vector_entry"),
        ([], "vector_length"),
    ],
)
def test_what_is_no_vector(vector: Any, kind: str) -> None:
    net = narfx.Supernet(narfx.trace(Chain(), input=SHAPE))
    for use in (net.set_vector, net.space.validate, lambda wrong: narfx.lower(net, wrong)):
        with pytest.raises(UsageError) as raised:
            use(vector)
        assert raised.value.kind == kind
    assert net.vector == net.space.base


def test_a_step_that_was_left_out() -> None:
    model: Any = Chain()
    traced: Any = narfx.trace(model, input=SHAPE)
    with pytest.raises(UsageError, match=r"Supernet takes what narfx.trace gives, not a Chain"):
        narfx.Supernet(model)
    with pytest.raises(UsageError, match=r"lower takes a narfx.Supernet, not a Traced"):
        narfx.lower(traced, traced.space.base)
    with pytest.raises(UsageError, match="reference="):
        traced.architecture(traced.space.base)


def test_a_network_that_is_no_graph_is_not_exported(tmp_path: Path) -> None:
    wrong: Any = nn.Conv2d(3, 3, 1)
    with pytest.raises(UsageError) as raised:
        narfx.export(wrong, tmp_path / "out")
    assert raised.value.kind == "not_a_graph" and not (tmp_path / "out").exists()
