"""The supernet of a search as a file of its run, so that other vectors can be lowered from it later."""

from __future__ import annotations

from pathlib import Path

from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.inputs.weights import open_weights, write_weights
from narfx.support.files import read_json

__all__ = ["SUPERNET", "load_supernet", "open_supernet", "save_supernet"]

SUPERNET = "supernet.safetensors"


def save_supernet(net: Supernet, run: Path) -> None:
    """Write the weights of all operators into a run directory."""
    write_weights(net, run / SUPERNET)


def open_supernet(run: Path, traced: Traced) -> Supernet:
    """The supernet of this trace with the weights in a run directory; errors as for :func:`load_supernet`."""
    config = read_json(run / "config.json")
    net = Supernet(traced, separate_norms=isinstance(config, dict) and config.get("norms") == "separate")
    load_supernet(net, run)
    return net


def load_supernet(net: Supernet, run: Path) -> None:
    """Load the weights in a run directory into a supernet.

    Raises:
        UsageError: The folder has none, or they do not fit the supernet.
    """
    path = run / SUPERNET
    if not path.is_file():
        raise UsageError(
            f"{run} has no {SUPERNET}: name the run of a finished search with --strategy solve",
            where=str(run),
            kind="no_supernet",
        )
    open_weights(path).load(net)
