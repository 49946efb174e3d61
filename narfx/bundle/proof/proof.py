"""The results of all comparisons of an ONNX file with its network, and the error if one fails."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn

from narfx.bundle.onnx.marks import remove_marks
from narfx.bundle.onnx.write import OnnxFile
from narfx.bundle.proof.first_difference import Difference, first_difference
from narfx.bundle.proof.nodes import Nodes, compare_nodes
from narfx.bundle.proof.parity import NORM_IMAGES, Parity, compare_onnx, input_batches, randomise_norms, worst
from narfx.errors import ParityError
from narfx.support.text import first_line

__all__ = ["Proof"]

Shape = tuple[int, int, int]


@dataclass
class Proof:
    """The proof of one ONNX file.

    Attributes:
        file: The file as it was read back.
        parity: The worst of the comparisons so far.
        nodes: The result of comparing nodes one by one.
        difference: The first node that differs, if a comparison failed.
        said: A clause about that node, for the error message.
    """

    file: OnnxFile | None = None
    parity: Parity | None = None
    nodes: Nodes | None = None
    difference: Difference | None = None
    said: str = ""

    @property
    def passed(self) -> bool:
        """Whether outputs were compared and agree, and no single node differs."""
        return self.parity is not None and self.parity.passed and (self.nodes is None or self.nodes.difference is None)

    def add(self, network: nn.Module, path: Path, shape: Shape, *, seed: int = 0) -> None:
        """Compare the outputs of a network and a file; if they differ, find the first node that differs.

        Raises:
            ParityError: onnxruntime cannot run the file.
        """
        found = compare_onnx(network, path, shape, seed=seed)
        if not found.passed and not self.said:
            self._blame(network, path, input_batches(shape, seed=seed))
        self.parity = found if self.parity is None else worst(self.parity, found)

    def add_nodes(
        self, network: nn.Module, path: Path, shape: Shape, *, seed: int = 0, just_written: bool = False
    ) -> None:
        """Compare each node by itself on random values, which finds faults that no output shows.

        Does nothing if the first node that differs is already known. In a file that was ``just_written``, marks that
        the exporter put at another node's value are removed; in any other file every mark must be right.

        Raises:
            ParityError: The network or the file cannot be run node by node.
        """
        if self.difference is not None:
            return
        try:
            self.nodes = compare_nodes(network, path, shape, seed=seed)
            if just_written and self.nodes.misplaced:
                remove_marks(path, self.nodes.misplaced)
                self.nodes = compare_nodes(network, path, shape, seed=seed)
        except Exception as error:
            if not self.passed:  # the difference of the outputs is reported
                return
            raise ParityError(
                f"the nodes of {path.name} cannot be compared one by one ({type(error).__name__}: {first_line(error)})",
                where=str(path),
                kind="nodes",
            ) from error
        if self.nodes.difference is not None:
            self.difference = self.nodes.difference
            self.said = str(self.difference)

    def to_json(self) -> dict[str, Any] | None:
        """The parity, with the results of single nodes under ``nodes``; ``None`` if nothing was compared."""
        if self.parity is None:
            return None
        nodes = self.nodes.to_json() if self.nodes is not None else None
        return {**self.parity.to_json(), "passed": self.passed, "nodes": nodes}

    def _blame(self, network: nn.Module, path: Path, batches: Iterator[Tensor]) -> None:
        try:
            self.difference = first_difference(network, path, batches)
        except Exception as error:  # report that the file is wrong even if its nodes cannot run one by one
            self.said = f"the first node that differs could not be found ({type(error).__name__}: {first_line(error)})"
        else:
            alone = "no node differs when onnxruntime runs the file without its own optimisations"
            self.said = str(self.difference or alone)

    def add_randomised(
        self, network: fx.GraphModule, shape: Shape, write: Callable[[fx.GraphModule, Shape, Path], OnnxFile]
    ) -> None:
        """Compare a copy of the network with random BatchNorm statistics and its file, which ``write`` makes."""
        (images,) = input_batches(shape, (NORM_IMAGES,))
        changed = randomise_norms(network, images)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.onnx"
            try:
                write(changed, shape, path)
                self.add(changed, path, shape, seed=1)
            except ParityError as error:  # it names a folder that is gone
                second = "a second file, with random BatchNorm statistics"
                raise ParityError(str(error).replace(str(path), second), where=second, kind=error.kind) from error

    def error(self, what: str, where: str) -> ParityError:
        """The error of a failed proof; ``what`` names the file, ``where`` is used if no node is known to differ."""
        assert self.parity is not None
        found = self.difference
        size = self.parity.max_rel_error
        by = f"differs from the network by {size:.2e} of the largest output (tolerance {self.parity.tolerance:g})"
        if size == float("inf"):
            by = "has outputs that cannot be compared with the network's"
        elif self.parity.passed:
            by = "has the same outputs as the network, but its nodes differ on random values"
        return ParityError(
            f"{what} {by}; {self.said}",
            where=found.node if found is not None else where,
        )
