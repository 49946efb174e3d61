"""Several state dicts in one safetensors file, in which a tensor that several of them have stands once.

The networks of a front are lowered from one supernet: they share its convolutions, and differ in the statistics of
BatchNorm. So the file is hardly larger than the supernet, and holds each network exactly as it was evaluated, whereas
lowering it from the supernet again would need the model's code and the training images.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from narfx.errors import UsageError
from narfx.inputs.weights import tensor_digest
from narfx.support.files import check_regular, write_bytes

__all__ = ["WeightSet", "read_weight_set"]

_ENTRIES = "narfx.entries"


class WeightSet:
    """State dicts by name, collected one after another, so that each network may be dropped after it was added."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._names: dict[str, str] = {}
        self._entries: dict[str, dict[str, str]] = {}

    def add(self, name: str, network: nn.Module) -> None:
        """Add the state dict of a network."""
        entry = {}
        for key, tensor in network.state_dict().items():
            own = tensor.detach().cpu().contiguous()
            content = tensor_digest({"": own})
            if content not in self._names:
                self._names[content] = f"t{len(self._names)}"
                self._tensors[self._names[content]] = own.clone()
            entry[key] = self._names[content]
        self._entries[name] = entry

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        write_bytes(path, save(self._tensors, metadata={_ENTRIES: json.dumps(self._entries)}))


def read_weight_set(path: Path, name: str) -> dict[str, Tensor]:
    """One state dict of a file.

    Raises:
        UsageError: The file is missing or no such file, or has no state dict of this name.
    """
    check_regular(path, f"there is no weights file {path}: check the path")
    try:
        with safe_open(path, framework="pt") as file:
            entries = json.loads((file.metadata() or {})[_ENTRIES])
            return {key: file.get_tensor(tensor) for key, tensor in entries[name].items()}
    except Exception as error:  # safetensors has no common class for what a damaged file may raise
        raise UsageError(
            f"{path} has no weights of point {name} ({type(error).__name__}): restore it from a copy, or search again",
            where=str(path),
            kind="weights_unreadable",
        ) from error
