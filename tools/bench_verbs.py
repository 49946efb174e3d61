"""What the verbs take beside the work that they cannot do without: one export for ``apply``, nothing for ``--help``."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import narfx
from narfx.bundle.source import plain_copy
from narfx.compiler.front_end import trace
from narfx.compiler.open import open_architecture
from narfx.inputs.model_ref import load_model

__all__ = ["APPLIED", "QUICK_APPLIED", "Shape", "apply_calls", "help_seconds"]

Shape = tuple[int, int, int]
APPLIED: dict[str, Shape] = {
    "torchvision:resnet18": (3, 224, 224),
    "torchvision:resnet50": (3, 224, 224),
    "narfx:lresnet50e_ir": (3, 112, 112),
    "torchvision:densenet121": (3, 224, 224),
}
QUICK_APPLIED: dict[str, Shape] = {"narfx:resnet8": (3, 32, 32)}


def apply_calls(models: dict[str, Shape]) -> Iterator[tuple[str, Callable[[], object], Callable[[], object]]]:
    """For each model: its name, torch's export of its network to a file, and ``apply`` of its base vector."""
    for model, shape in models.items():
        traced = trace(load_model(model), input=shape)
        architecture = narfx.Architecture(model=model, vector=traced.space.base, input=shape)
        network = plain_copy(open_architecture(architecture).network)

        def export(network: torch.fx.GraphModule = network, shape: Shape = shape) -> object:
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.onnx.export(
                    network, (torch.zeros(2, *shape),), str(Path(folder) / "model.onnx"), dynamo=True,
                    dynamic_shapes=({0: "batch"},), verbose=False,
                )  # fmt: skip

        def apply(architecture: narfx.Architecture = architecture) -> object:
            with tempfile.TemporaryDirectory() as folder:
                return narfx.apply(architecture, Path(folder) / "out")

        yield model, export, apply


def help_seconds(rounds: int) -> tuple[list[float], list[float]]:
    """Processor seconds, with all child processes, of ``import torch`` and of ``narfx --help``, in turn."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for found, arguments in zip(taken, (["-c", "import torch"], ["-m", "narfx", "--help"]), strict=True):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return taken
