"""The results of all comparisons of an ONNX file with its network, and the error if one fails."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from narfx.bundle.onnx.marks import remove_from, remove_marks
from narfx.bundle.onnx.parts import Parts
from narfx.bundle.onnx.write import OnnxFile, Translation
from narfx.bundle.proof.first_difference import Difference, first_difference
from narfx.bundle.proof.nodes import Nodes, compare_nodes
from narfx.bundle.proof.parity import Parity, Reference, compare_outputs
from narfx.bundle.proof.random_norms import random_norms
from narfx.errors import ParityError
from narfx.support.text import first_line

__all__ = ["Proof"]

_SECOND = "a second file, with random BatchNorm statistics,"
_HALVED = 64  # the shortest side of an image that is halved: the last maps of a network must not become single values
Shape = tuple[int, int, int]


@dataclass
class Proof:
    """The proof of one ONNX file.

    Attributes:
        file: The file as it was read back.
        parity: The comparison of outputs.
        nodes: The result of comparing nodes one by one.
        random_norms: The same of a second file with random BatchNorm statistics.
        difference: The first node that differs, if a comparison failed.
        said: A clause about that node, for the error message.
    """

    file: OnnxFile | None = None
    parity: Parity | None = None
    nodes: Nodes | None = None
    random_norms: Nodes | None = None
    difference: Difference | None = None
    said: str = ""

    @property
    def passed(self) -> bool:
        """Whether outputs were compared and agree, and no single node differs."""
        nodes = (self.nodes, self.random_norms)
        return self.parity is not None and self.parity.passed and all(n is None or n.difference is None for n in nodes)

    def add(self, reference: Reference, path: Path) -> None:
        """Compare the outputs of a network and a file; if they differ, find the first node that differs.

        Raises:
            ParityError: onnxruntime cannot run the file.
        """
        self.parity = compare_outputs(reference, path)
        if not self.parity.passed:
            self._blame(reference, path)

    def add_nodes(self, reference: Reference, path: Path, *, just_written: bool = False) -> None:
        """Compare each node by itself on random values, which finds faults that no output shows.

        Does nothing if the first node that differs is already known. In a file that was ``just_written``, marks that
        the exporter put at another node's value are removed; in any other file every mark must be right.

        Raises:
            ParityError: The network or the file cannot be run node by node.
        """
        if self.difference is not None:
            return
        self.nodes = self._compare(reference.network, path, reference)
        if self.nodes is not None and self.nodes.misplaced and just_written:
            remove_marks(path, self.nodes.misplaced)
            self.nodes = self._compare(reference.network, path, reference)
        if self.nodes is not None and self.nodes.difference is not None:
            self.difference = self.nodes.difference
            self.said = str(self.difference)

    def add_random_norms(self, reference: Reference, path: Path, translation: Translation) -> None:
        """Compare each node of a second file, in which BatchNorm has random statistics before it is fused.

        Fresh statistics (mean 0, variance 1) would hide a wrong fusion. A wrong one shows at every size, so first one
        image of half the side is tried. If the network does not take that, or anything differs, two images of the full
        size decide. Marks that they show to be at another node's value are removed from the first file, which is at
        ``path``.

        Raises:
            ParityError: The second file cannot be made, or not be run node by node.
        """
        if self.difference is not None:
            return
        for shape, images in _smaller(reference.input_shape):
            with contextlib.suppress(Exception):  # the full size says why
                changed, second = _second(reference, translation, shape, images)
                found = compare_nodes(changed, second, shape, images=images, seed=reference.seed) if second else None
                if found is None or found.difference is None:
                    self.random_norms = found
                    return
        changed, second = _second(reference, translation, reference.input_shape, 2)
        if second is None:
            return
        self.random_norms = self._compare(changed, second, reference, _SECOND)
        if self.random_norms is not None and self.random_norms.misplaced:
            remove_from(second.model, self.random_norms.misplaced)
            remove_marks(path, self.random_norms.misplaced)
            self.random_norms = self._compare(changed, second, reference, _SECOND)
            self.add_nodes(reference, path)
        if self.difference is None and self.random_norms is not None:
            self.difference = self.random_norms.difference
            self.said = str(self.difference or "")

    def _compare(self, network: nn.Module, file: Path | Parts, reference: Reference, name: str = "") -> Nodes | None:
        try:
            return compare_nodes(network, file, reference.input_shape, seed=reference.seed)
        except Exception as error:
            if not self.passed:  # the difference of the outputs is reported
                return None
            name = name or getattr(file, "name", "")
            raise ParityError(
                f"the nodes of {name} cannot be compared one by one ({type(error).__name__}: {first_line(error)})",
                where=str(file) if isinstance(file, Path) else name,
                kind="nodes",
            ) from error

    def to_json(self) -> dict[str, Any] | None:
        """The parity, with the results of single nodes; ``None`` if nothing was compared.

        ``nodes`` is about the file, ``random_norms`` about its second writing with random BatchNorm statistics
        (``None`` if that was not made: for a network without BatchNorm, or by ``check``).
        """
        if self.parity is None:
            return None
        nodes = {"nodes": self.nodes, "random_norms": self.random_norms}
        told = {name: found.to_json() if found is not None else None for name, found in nodes.items()}
        return {**self.parity.to_json(), "passed": self.passed, **told}

    def _blame(self, reference: Reference, path: Path) -> None:
        try:
            self.difference = first_difference(reference.network, path, reference.images.values())
        except Exception as error:  # report that the file is wrong even if its nodes cannot run one by one
            self.said = f"the first node that differs could not be found ({type(error).__name__}: {first_line(error)})"
        else:
            alone = "no node differs when onnxruntime runs the file without its own optimisations"
            self.said = str(self.difference or alone)

    def error(self, what: str, where: str) -> ParityError:
        """The error of a failed proof; ``what`` names the file, ``where`` is used if no node is known to differ."""
        assert self.parity is not None
        found = self.difference
        size = self.parity.max_rel_error
        by = f"differs from the network by {size:.2e} of the largest output (tolerance {self.parity.tolerance:g})"
        if size == float("inf"):
            by = "has outputs that cannot be compared with the network's"
        elif self.parity.passed and found is not None and self.random_norms is not None:
            by = f"computes the same as the network with its present weights, but {_SECOND} does not"
        elif self.parity.passed:
            by = "has the same outputs as the network, but its nodes differ on random values"
        return ParityError(
            f"{what} {by}; {self.said}",
            where=found.node if found is not None else where,
        )


def _smaller(shape: Shape) -> list[tuple[Shape, int]]:
    """Smaller sizes of the second comparison, and how many images: the cheapest first."""
    channels, height, width = shape
    half = [((channels, -(-height // 2), -(-width // 2)), 1)] if min(height, width) >= _HALVED else []
    return [*half, (shape, 1)]


def _second(
    reference: Reference, translation: Translation, shape: Shape, images: int
) -> tuple[nn.Module, Parts | None]:
    """The network with random BatchNorm statistics, and its file; ``None`` for a network without BatchNorm."""
    x = torch.randn(images, *shape, generator=torch.Generator().manual_seed(reference.seed))
    changed, tensors = random_norms(reference.network, x, reference.seed)
    weights = {key: value for keys in tensors for key, value in translation.held(keys).items()}
    return changed, translation.with_weights(weights) if weights else None
