"""``front.json``: the architectures of a run that no other one beats, with accuracies, costs and weights."""

from __future__ import annotations

import math
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictInt, field_validator, model_validator

from narfx.errors import UsageError
from narfx.support.files import read_json
from narfx.support.schema import validated
from narfx.support.seals import SEAL, damaged, sealed, write_sealed

__all__ = ["FRONT", "Front", "FrontPoint", "PointWeights", "is_front", "standard_error"]

FRONT = "front.json"

Accuracy = Annotated[FiniteFloat, Field(ge=0, le=1)]
Cost = Annotated[FiniteFloat, Field(ge=0)]


def standard_error(accuracy: float, images: int) -> float:
    """The standard error of an accuracy on so many images; one more wrong image than there is counts, as elsewhere."""
    return math.sqrt(images * accuracy * (1 - accuracy) + 1) / images


class PointWeights(BaseModel):
    """Where the weights of a point are: a ``file`` beside ``front.json``, with its SHA-256.

    ``entry`` is the point's name in a file that holds several state dicts (:mod:`narfx.inputs.weight_sets`); without it
    the file is one state dict.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    digest: str
    entry: str | None = None

    @field_validator("file")
    @classmethod
    def _beside(cls, file: str) -> str:
        path = PurePath(file)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"the file lies in the folder of {FRONT}, which {file!r} does not")
        return file


class FrontPoint(BaseModel):
    """One architecture: ``vector`` and ``skips`` as in ``arch.json``, accuracy, and costs by name.

    ``accuracy`` and ``loss`` are those on the validation part; they are ``None`` for a base that was never trained.
    ``standard_error`` is the accuracy's, over the images. A point without ``weights`` was evaluated, but its weights
    were not kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vector: tuple[Annotated[StrictInt, Field(ge=0)], ...]
    skips: tuple[tuple[StrictInt, StrictInt], ...] | None = None
    accuracy: Accuracy | None
    standard_error: Cost | None = None
    loss: FiniteFloat | None = None
    costs: dict[str, Cost]
    weights: PointWeights | None = None

    def record(self) -> dict[str, Any]:
        """As :func:`narfx.space.front.front` and the hypervolume take it: accuracy and costs beside the vector."""
        return {**self.described(), "accuracy": self.accuracy, **self.costs}

    def described(self) -> dict[str, Any]:
        """``vector``, and ``skips`` where there are any given."""
        skips = {} if self.skips is None else {"skips": [list(pair) for pair in self.skips]}
        return {"vector": list(self.vector), **skips}


class Front(BaseModel):
    """The points of a run, the cheapest in the first of ``costs`` first; point 1 is the first.

    No point has at least the accuracy of another one at no more of each of ``costs``. ``base`` is not a point, but what
    they are compared with; ``base_by`` says whose weights gave its accuracy: its ``own`` before the search, or the
    ``shared`` ones of the search. ``architecture`` is an ``arch.json`` beside this file, of the same model and space.
    ``archive`` counts the vectors that the search tried, ``evaluated`` those that were evaluated on ``images``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    metric: str
    costs: tuple[str, ...] = Field(min_length=1)
    budget: str = "none"
    architecture: str = "arch.json"
    images: Annotated[StrictInt, Field(ge=1)]
    archive: Annotated[StrictInt, Field(ge=0)] = 0
    evaluated: Annotated[StrictInt, Field(ge=1)]
    base: FrontPoint
    base_by: Literal["own", "shared"] | None = None
    points: tuple[FrontPoint, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _complete(self) -> Front:
        for name, point in (("base", self.base), *((f"point {n}", p) for n, p in enumerate(self.points, 1))):
            missing = [cost for cost in self.costs if cost not in point.costs]
            if missing:
                raise ValueError(f"{name} has no {missing[0]}, which is one of the costs {', '.join(self.costs)}")
            if len(point.vector) != len(self.base.vector):
                raise ValueError(
                    f"{name} has a vector of {len(point.vector)} entries, and the base one of {len(self.base.vector)}"
                )
            if point.accuracy is None and name != "base":
                raise ValueError(f"{name} has no accuracy")
        return self

    @classmethod
    def load(cls, path: Path | str) -> Front:
        """Read and validate a ``front.json``.

        Raises:
            UsageError: There is no such file, it was changed, or an older version of narfx wrote it.
        """
        path = Path(path)
        values = read_json(path)
        if not isinstance(values, dict) or "version" not in values:
            raise UsageError(
                f"{path} is not a front that this version of narfx reads: an older one wrote it; delete the run's "
                "result.json and resume it (narfx search --resume --out RUN), and the front is written again",
                where=str(path),
                kind="old_front",
            )
        rest = {key: value for key, value in values.items() if key != SEAL}
        found = validated(cls, rest, str(path), kind="malformed_front")
        if sealed(rest).get(SEAL) != values.get(SEAL):
            raise damaged(path, "restore it from a copy, or search again")
        return found

    def summary(self) -> dict[str, Any]:
        """``costs``, and the numbers of ``points`` and of those ``with_weights``."""
        kept = sum(point.weights is not None for point in self.points)
        return {"costs": list(self.costs), "points": len(self.points), "with_weights": kept}

    def save(self, path: Path) -> None:
        """Write the file whole or not at all, with its digest."""
        write_sealed(path, self.model_dump(mode="json", exclude_none=True) | {"base": _point(self.base)})


def _point(point: FrontPoint) -> dict[str, Any]:
    return {"accuracy": None, **point.model_dump(mode="json", exclude_none=True)}


def is_front(path: Path) -> bool:
    """Whether a JSON file holds a front, of this version or another one, and no architecture."""
    if path.suffix != ".json" or not path.is_file():
        return False
    values = read_json(path)
    return isinstance(values, dict) and "vector" not in values and bool({"points", "front"} & values.keys())
