"""Networks timed whole against their predicted latency."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_tables import SETTING, small_network

from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.latency.check import check_latency


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    return small_network(tmp_path)


def test_the_check_needs_the_metric(traced: Traced) -> None:
    with pytest.raises(UsageError, match="--latency") as caught:
        check_latency(traced, SETTING)
    assert caught.value.kind == "latency_missing"
