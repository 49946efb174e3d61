"""What has been shown of an ONNX file, and the error where it is not what its network is."""

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

__all__ = ["Proof"]

Shape = tuple[int, int, int]


@dataclass
class Proof:
    """The file as it was read back, the worst of the comparisons so far, and where a failed one begins."""

    file: OnnxFile | None = None
    parity: Parity | None = None
    nodes: Nodes | None = None
    difference: Difference | None = None
    said: str = ""

    @property
    def passed(self) -> bool:
        """Whether there was a comparison and all agreed, outputs and single nodes."""
        return self.parity is not None and self.parity.passed and (self.nodes is None or self.nodes.difference is None)

    def add(self, network: nn.Module, path: Path, shape: Shape, *, seed: int = 0) -> None:
        """Compare a network and a file; where they differ, find the first node that does.

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
        """Compare each node by itself on random values, which shows what no output shows.

        Where outputs differ and the first node that does is known, nothing is left to find. In a file that was just
        written, a mark that the exporter put at another node's value is taken out; later each mark must be true.

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
            if not self.passed:  # what is known to be wrong is told by its outputs
                return
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ParityError(
                f"the nodes of {path.name} cannot be compared one by one ({type(error).__name__}: {reason})",
                where=str(path),
                kind="nodes",
            ) from error
        if self.nodes.difference is not None:
            self.difference = self.nodes.difference
            self.said = str(self.difference)

    def to_json(self) -> dict[str, Any] | None:
        """The parity with what was found at single nodes under ``nodes``."""
        if self.parity is None:
            return None
        nodes = self.nodes.to_json() if self.nodes is not None else None
        return {**self.parity.to_json(), "passed": self.passed, "nodes": nodes}

    def _blame(self, network: nn.Module, path: Path, batches: Iterator[Tensor]) -> None:
        try:
            self.difference = first_difference(network, path, batches)
        except Exception as error:  # that the file is wrong must be said, even where its nodes cannot be run one by one
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.said = f"which node is the first could not be found ({type(error).__name__}: {reason})"
        else:
            alone = "no node differs when onnxruntime runs the file without its own optimisations"
            self.said = str(self.difference or alone)

    def add_randomised(
        self, network: fx.GraphModule, shape: Shape, write: Callable[[fx.GraphModule, Shape, Path], OnnxFile]
    ) -> None:
        """Compare a copy with random BatchNorm statistics and a file of it, which ``write`` makes."""
        (images,) = input_batches(shape, (NORM_IMAGES,))
        changed = randomise_norms(network, images)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.onnx"
            try:
                write(changed, shape, path)
                self.add(changed, path, shape, seed=1)
            except ParityError as error:  # it names a folder that is no more
                second = "a second file, with random BatchNorm statistics"
                raise ParityError(str(error).replace(str(path), second), where=second, kind=error.kind) from error

    def error(self, what: str, where: str) -> ParityError:
        """The error of a proof that failed; ``what`` and ``where`` are the file in words, if no node is to blame."""
        assert self.parity is not None
        found = self.difference
        size = self.parity.max_rel_error
        by = f"differs from the network by {size:.2e} of the largest output (tolerance {self.parity.tolerance:g})"
        if size == float("inf"):
            by = "gives outputs that cannot be compared with the network's"
        elif self.parity.passed:
            by = "gives the network's outputs, but its nodes differ on random values"
        return ParityError(
            f"{what} {by}; {self.said}",
            where=found.node if found is not None else where,
        )
