"""Settings and fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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


torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or _cores()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that fork ranks come first (see :mod:`rank_processes`)."""
    items.sort(key=lambda item: not hasattr(getattr(item, "module", None), "rank_processes_first"))


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
