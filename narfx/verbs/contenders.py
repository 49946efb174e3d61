"""The networks of a comparison: architectures, their bases, and random vectors of equal cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import fx

from narfx.compiler.lowering import lower
from narfx.compiler.open import NetworkOptions, open_architecture, open_base
from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.inputs.image_size import Images
from narfx.inputs.reference import ModelRef
from narfx.search.supernet_file import open_supernet
from narfx.space.architecture import Architecture
from narfx.space.budget import bounded_metrics
from narfx.space.records import Vector
from narfx.space.sampling import equal_costs, sample_equal
from narfx.support.seeds import numpy_generator

__all__ = ["Contender", "Entrant", "labels", "open_contender"]

Shape = tuple[int, int, int]

_SHAPES = re.compile(r" shape \S+->\S+")


@dataclass(frozen=True)
class Contender:
    """One architecture: the trace of its base, its vector, and random vectors of equal cost.

    ``label`` is its name in the results, ``base_of`` is equal for architectures of one base. ``weights`` says where the
    weights of the trace come from, ``equal`` in which costs the random vectors are equal to the architecture.
    ``prepared`` is the supernet of a search, whose operators have learnt something.
    """

    label: str
    architecture: Architecture
    traced: Traced
    vector: Vector
    randoms: tuple[Vector, ...]
    base_of: str
    weights: str
    equal: tuple[str, ...]
    prepared: Supernet | None = None

    def network(self, vector: Vector) -> fx.GraphModule:
        """The lowered network of a vector, with the prepared supernet's weights where there is one, or the trace's."""
        return lower(self.prepared or Supernet(self.traced), vector)

    @property
    def model(self) -> str:
        """The reference of its model without folders, which does not depend on the working folder."""
        return ModelRef.parse(self.architecture.model).plain

    @property
    def kind(self) -> str:
        """What differs from the base: ``operators``, ``skips``, ``operators and skips``, or ``base`` for nothing."""
        slots = self.traced.space.slots
        changed = [slot.skip for slot, entry in zip(slots, self.vector, strict=True) if entry]
        kinds = [name for name, found in (("operators", None in changed), ("skips", any(changed))) if found]
        return " and ".join(kinds) or "base"


@dataclass(frozen=True)
class Entrant:
    """One network to train: a vector of a contender's space, and the ``name`` of its row."""

    name: str
    contender: Contender
    vector: Vector

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for entrants that are the same network: a base shared by architectures, a vector drawn twice."""
        space = self.contender.traced.space
        if self.vector == space.base:
            return (self.contender.base_of,)
        return (self.contender.base_of, space.fingerprint(), space.operators, self.vector)

    @property
    def folder(self) -> str:
        """The first part of the names of its run directories."""
        return self.name.replace(": ", "-").replace(" ", "-")

    def network(self) -> fx.GraphModule:
        """The lowered network with the weights that it starts from."""
        return self.contender.network(self.vector)


def labels(paths: Sequence[Path], names: Sequence[str | None]) -> tuple[str, ...]:
    """The names of architectures in the results: the given name, else the file's; for ``arch.json`` the folder's.

    Raises:
        UsageError: Two have the same name, or one has the name of a row that narfx adds.
    """
    chosen: list[str] = []
    for path, name in zip(paths, names, strict=True):
        label = name or (path.resolve().parent.name if path.stem == "arch" else path.stem)
        if label in chosen or re.match(r"base\b", label) or re.search(r"[ -]random[ -]\d+$", label):
            reason = "two architectures" if label in chosen else "another row of the table"
            raise UsageError(
                f"{reason} would also be called {label!r}: give {path} another name, as in mine={path}",
                where=str(path),
                kind="architecture_name",
            )
        chosen.append(label)
    return tuple(chosen)


def open_contender(
    architecture: Architecture,
    label: str,
    *,
    randoms: int,
    seed: int,
    place: Path | None,
    weights: str | None = None,
    outputs: int | None = None,
    input: Shape | None = None,
    images: Images | None = None,
    prepared: Path | None = None,
) -> Contender:
    """Trace an architecture's base and draw random vectors of equal cost (98 to 100 % of its own).

    The cost is MACs, and what the budget of the search bounded, as far as the trace knows it.

    Args:
        architecture: Its model, vector and skips; its weights are not used.
        label: See :class:`Contender`.
        randoms: How many random vectors; fewer if there are not so many.
        seed: Seed of the random vectors and of initial weights.
        place: The folder at which the architecture's paths start.
        weights: Weights of the base.
        outputs: The number of outputs that the base gets; without it the base keeps its own.
        input: (C, H, W) of one image, instead of the architecture's.
        images: What the networks are trained on; they decide the input where neither says it.
        prepared: The run directory of a search with ``--strategy solve``, whose supernet all networks start from.

    Raises:
        UsageError: The architecture, its weights, the outputs or the input do not fit the model.
    """
    base = architecture.as_base()
    if input is not None and input != architecture.input:
        base = base.model_copy(update={"input": input, "fingerprint": None, "sites": ()})
    if outputs is None:
        opened = open_architecture(base, relative_to=place, weights=weights, seed=seed, images=images)
        traced, origin = opened.traced, opened.weights
    else:
        options = NetworkOptions(model=base.model, input=base.input, **base.of_space())
        traced = open_base(options, relative_to=place, seed=seed, outputs=outputs, images=images)
        origin = "none given"
    if base.sites != architecture.sites:
        _check_geometry(architecture, traced)
    vector = architecture.model_copy(update={"fingerprint": base.fingerprint}).check(traced.space)
    bounded = bounded_metrics(str(architecture.metrics.get("budget", "none")))
    drawn = sample_equal(traced.space, vector, randoms, numpy_generator(seed, "compare"), bounded)
    model = ModelRef.parse(architecture.model).beside(Path.cwd(), relative_to=place)
    net = None if prepared is None else open_supernet(prepared, traced)
    if prepared is not None:
        origin = f"the prepared operators of {prepared.name}"
    return Contender(
        label,
        architecture,
        traced,
        vector,
        tuple(drawn),
        f"{model} {traced.input} {outputs or ''}",
        origin,
        equal_costs(traced.space, bounded),
        net,
    )


def _check_geometry(architecture: Architecture, traced: Traced) -> None:
    """Raise ``UsageError`` if the sites at another input differ from those of the architecture."""
    found = [[_SHAPES.sub("", line) for line in lines if " operators " in line] for lines in (
        architecture.sites, traced.space.lines()
    )]  # fmt: skip
    if found[0] != found[1]:
        raise UsageError(
            f"with the input {'x'.join(map(str, traced.input))} the sites of {architecture.model} differ from those "
            "that the architecture was made for: leave out --input",
            where="--input",
            kind="fingerprint",
        )
