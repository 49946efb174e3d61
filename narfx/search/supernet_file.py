"""The supernet of a search as a file of its run, so that other vectors can be lowered from it later."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.inputs.weights import load_state, open_weights, write_weights
from narfx.support.files import read_json

__all__ = ["SUPERNET", "load_supernet", "open_supernet", "save_supernet"]

SUPERNET = "supernet.safetensors"


def save_supernet(net: Supernet, head: nn.Module, run: Path) -> None:
    """Write the weights of all operators, and those of the task's head, into a run directory."""
    write_weights(nn.ModuleDict({"net": net, "head": head}), run / SUPERNET)


def open_supernet(run: Path, traced: Traced) -> Supernet:
    """The supernet of this trace with the weights in a run directory; errors as for :func:`load_supernet`."""
    _check(run)
    config = read_json(run / "config.json")
    net = Supernet(traced, separate_norms=isinstance(config, dict) and config.get("norms") == "separate")
    load_supernet(net, None, run)
    return net


def load_supernet(net: Supernet, head: nn.Module | None, run: Path) -> None:
    """Load the weights in a run directory into a supernet and, where it is given, the head of its task.

    Raises:
        UsageError: The folder has none, or they do not fit.
    """
    _check(run)
    state = open_weights(run / SUPERNET).entries[0].state
    for name, module in (("net", net), ("head", head)):
        if module is not None and module.state_dict():
            own = {key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{name}.")}
            load_state(module, own, source=str(run / SUPERNET))


def _check(run: Path) -> None:
    if not (run / SUPERNET).is_file():
        raise UsageError(
            f"{run} has no {SUPERNET}: name the run of a finished search with --strategy solve (for compare with "
            "--prepared)",
            where=str(run),
            kind="no_supernet",
        )
