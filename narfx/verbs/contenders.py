"""What a comparison puts side by side: architectures, their bases, and random vectors of equal cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import fx

from narfx.compiler.lowering import lower
from narfx.compiler.open import NetworkOptions, open_architecture, open_base
from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.inputs.model_ref import ModelRef
from narfx.space.architecture import Architecture
from narfx.space.records import Vector
from narfx.space.sampling import sample_window
from narfx.support.seeds import numpy_generator

__all__ = ["Contender", "Entrant", "labels", "open_contender"]

WINDOW = 0.02
Shape = tuple[int, int, int]

_SHAPES = re.compile(r" shape \S+->\S+")


@dataclass(frozen=True)
class Contender:
    """One architecture: its trace (that of its base), its vector, and random vectors of equal MACs.

    ``label`` is how results call it, ``base_of`` the same text for architectures of one base. ``weights`` says where
    the trace's weights come from.
    """

    label: str
    architecture: Architecture
    traced: Traced
    vector: Vector
    randoms: tuple[Vector, ...]
    base_of: str
    weights: str

    @property
    def model(self) -> str:
        """The reference of its model, without folders: the same from wherever the comparison is seen."""
        ref = ModelRef.parse(self.architecture.model)
        return str(replace(ref, name=Path(ref.name).name) if ref.kind == "file" else ref)

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
        """Equal for entrants that are the same network: the base of several architectures, a vector drawn twice."""
        space = self.contender.traced.space
        if self.vector == space.base:
            return (self.contender.base_of,)
        return (self.contender.base_of, space.fingerprint(), space.operators, self.vector)

    @property
    def folder(self) -> str:
        """The first part of the names of its runs' directories."""
        return self.name.replace(": ", "-").replace(" ", "-")

    def network(self) -> fx.GraphModule:
        """The lowered network with the trace's weights."""
        return lower(Supernet(self.contender.traced), self.vector)


def labels(paths: Sequence[Path], names: Sequence[str | None]) -> tuple[str, ...]:
    """How results call architectures: the name given, else the file's, else for ``arch.json`` that of its folder.

    Raises:
        UsageError: Two are called alike, or one as narfx calls its own rows.
    """
    chosen: list[str] = []
    for path, name in zip(paths, names, strict=True):
        label = name or (path.resolve().parent.name if path.stem == "arch" else path.stem)
        if label in chosen or re.match(r"base\b", label) or re.search(r"[ -]random[ -]\d+$", label):
            reason = "two architectures" if label in chosen else "rows of narfx's own"
            raise UsageError(
                f"{reason} would be called {label!r}: give {path} another name, as in mine={path}",
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
) -> Contender:
    """Trace an architecture's base and draw its random vectors, uniform over those within 2 % below its MACs.

    Args:
        architecture: Of which only the base, the vector and the skips count, not the weights.
        label: See :class:`Contender`.
        randoms: How many vectors; there are fewer where the window holds fewer.
        seed: Of the draw, and of initial weights.
        place: The folder at which the architecture's paths start.
        weights: Of the base.
        outputs: How many outputs the base is given; without it those that it has.
        input: (C, H, W) of one sample, where it is another than the architecture's.

    Raises:
        UsageError: The architecture, its weights, the outputs or the input do not fit the model.
    """
    base = architecture.as_base()
    if input is not None and input != architecture.input:
        base = base.model_copy(update={"input": input, "fingerprint": None, "sites": ()})
    if outputs is None:
        opened = open_architecture(base, relative_to=place, weights=weights, seed=seed)
        traced, origin = opened.traced, opened.weights
    else:
        options = NetworkOptions(model=base.model, input=base.input, **base.of_space())
        traced = open_base(options, relative_to=place, seed=seed, outputs=outputs)
        origin = "none given"
    if base.sites != architecture.sites:
        _check_geometry(architecture, traced)
    vector = architecture.model_copy(update={"fingerprint": base.fingerprint}).check(traced.space)
    macs = traced.space.cost(vector)["macs"]
    drawn = sample_window(
        traced.space, randoms, (1 - WINDOW) * macs, macs, numpy_generator(seed, "compare"), exclude=frozenset({vector})
    )
    model = ModelRef.parse(architecture.model).beside(Path.cwd(), relative_to=place)
    return Contender(
        label, architecture, traced, vector, tuple(drawn), f"{model} {traced.input} {outputs or ''}", origin
    )


def _check_geometry(architecture: Architecture, traced: Traced) -> None:
    """Raise ``UsageError`` where another input makes other sites than those the architecture was found for."""
    found = [[_SHAPES.sub("", line) for line in lines if " operators " in line] for lines in (
        architecture.sites, traced.space.lines()
    )]  # fmt: skip
    if found[0] != found[1]:
        raise UsageError(
            f"with the input {'x'.join(map(str, traced.input))} the sites of {architecture.model} differ from those "
            "that the architecture was made for",
            where="--input",
            kind="fingerprint",
        )
