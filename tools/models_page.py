"""``python tools/models_page.py``: the base networks with their defaults and costs, as a Markdown table."""

from __future__ import annotations

import inspect
import sys

import torch

import narfx
from narfx.models import MODELS

__all__ = ["table"]


def table() -> str:
    """A row for each base: name, options with defaults, sample, parameters, MACs, and slots by granularity.

    The networks are built on the meta device, so that nothing is computed.
    """
    rows = [
        ("name", "options", "sample", "parameters", "MACs", "slots: conv", "block"),
        ("---", "---", "---", "---:", "---:", "---:", "---:"),
    ]
    for name, entry in sorted(MODELS.items()):
        with torch.device("meta"):
            model = entry.factory()
        conv, block = (narfx.trace(model, entry.input_shape, granularity) for granularity in ("conv", "block"))
        options = ", ".join(
            f"`{key}={_plain(p.default)}`" for key, p in inspect.signature(entry.factory).parameters.items()
        )
        sample = "x".join(map(str, entry.input_shape))
        costs = (f"{conv.cost['params']:,}", f"{conv.cost['macs']:,}")
        rows.append((f"`{name}`", options, sample, *costs, str(len(conv.space)), str(len(block.space))))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _plain(value: object) -> str:
    """A default as it is written after the question mark of a reference."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
