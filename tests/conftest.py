"""Settings and fixtures that all tests share."""

from __future__ import annotations

import copy
import gc
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from narfx.operators import operator_names, unregister_operator

# Examples follow from the test alone, so that a failure is repeated by running it again.
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow],
)
# For hunting: HYPOTHESIS_PROFILE=thorough make test
settings.register_profile("thorough", deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Graphs are many objects that refer to each other: the default spends an eighth of the time on looking for garbage.
gc.set_threshold(10_000)
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or _cores()))


_QUICK = {"data", "graph", "inputs", "latency", "models", "operators", "passes", "runs", "space", "support"}
"""The folders whose files take a few seconds each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that fork ranks come first (see :mod:`rank_processes`), the quick folders last."""

    def place(item: pytest.Item) -> int:
        if hasattr(getattr(item, "module", None), "rank_processes_first"):
            return 0
        return 2 if item.path.parent.name in _QUICK else 1

    items.sort(key=place)


def pytest_runtest_setup() -> None:
    """Let torch.onnx read its five hundred translations once, as soon as a test has imported it.

    It parses them again for each export, which is half of the time of a small one.
    """
    module = sys.modules.get("torch.onnx._internal.exporter._registration")
    registry = getattr(module, "ONNXRegistry", None)
    read = getattr(registry, "from_torchlib", None)
    if read is None or read is _translations:
        return
    _read_once[:] = [cache(read)]
    registry.from_torchlib = staticmethod(_translations)  # type: ignore[union-attr]


_read_once: list[Callable[..., Any]] = []


def _translations(**options: Any) -> Any:
    """A registry of its own for each export, which may add to it."""
    found = copy.copy(_read_once[0](**options))
    found.functions = {name: [*entries] for name, entries in found.functions.items()}
    return found


@pytest.fixture(autouse=True)
def _no_operator_stays_behind() -> Iterator[None]:
    """A test that registers operators, itself or by a file, leaves none to the tests behind it."""
    known = operator_names()
    yield
    for name in operator_names():
        if name not in known:
            unregister_operator(name)


@pytest.fixture(scope="session", autouse=True)
def _trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests write files and run them: they trust their own code, and leave the user's record alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARFX_TRUST", "1")
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real images, where there is one: ``$NARFX_TEST_DATA``, else ``../shared/data`` of the project."""
    named = os.environ.get("NARFX_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data: {folder} is not a folder (NARFX_TEST_DATA names another)")
    return folder
