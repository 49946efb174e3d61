"""The records of a site."""

from __future__ import annotations

from small_spaces import site


def test_a_site_names_later_calls_of_its_module() -> None:
    assert (site("conv").name, site("conv", occurrence=2).name) == ("conv", "conv@2")
