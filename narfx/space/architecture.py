"""``arch.json``: a base model, an operator vector, and what is known of them. Nothing here imports torch."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (  # fmt: skip
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainValidator,
    StrictInt,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from narfx.errors import UsageError
from narfx.space.records import Vector
from narfx.space.space import SearchSpace
from narfx.support.files import read_json
from narfx.support.path_fields import ModelReference, UserPath
from narfx.support.schema import validated
from narfx.support.seals import unsealed, write_sealed
from narfx.support.text import count

__all__ = ["DEFAULT_OPERATORS", "Architecture", "Preprocessing", "SpaceOptions"]

DEFAULT_OPERATORS = ("base", "dwsep3x3", "maxpool3x3", "avgpool3x3")


def _index_or_name(entry: Any) -> int | str:
    if isinstance(entry, bool) or not isinstance(entry, (int, str)):
        raise PydanticKnownError("int_type")
    return entry


Entry = Annotated[int | str, PlainValidator(_index_or_name)]


class Preprocessing(BaseModel):
    """How an image becomes the network's input: ``(x / 255 - mean) / std``, one value of each for each channel."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[Annotated[FiniteFloat, Field(strict=True)], ...]
    std: tuple[Annotated[FiniteFloat, Field(strict=True, gt=0)], ...]

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> Preprocessing:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                f"mean and std have one value for each channel, but there are {len(self.mean)} of mean and "
                f"{len(self.std)} of std"
            )
        return self

    def check_channels(self, channels: int, where: str) -> None:
        """Refuse what is not made for images of so many channels.

        Raises:
            UsageError: Its ``where`` is the file or network that was given.
        """
        if len(self.mean) != channels:
            raise UsageError(
                f"{where}: preprocessing: mean and std are of {count(len(self.mean), 'channel')}, but the input has "
                f"{channels}",
                where=where,
                kind="malformed_architecture",
            )


class SpaceOptions(BaseModel):
    """What of a model may be refined; the same fields, with the same defaults, wherever a space is described.

    ``operator_files`` are the Python files that register the operators that are not narfx's own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    granularity: Literal["conv", "block"] = "conv"
    operators: tuple[str, ...] = DEFAULT_OPERATORS
    operator_files: tuple[UserPath, ...] = ()
    kernels: tuple[StrictInt, ...] = (3,)
    max_candidate_params: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    include_first: bool = False
    search_skips: bool = False
    skips_from_input: bool = True

    @field_validator("operators")
    @classmethod
    def _base_first(cls, operators: tuple[str, ...]) -> tuple[str, ...]:
        file = next((entry for entry in operators if ".py" in entry), None)
        if file is not None:
            raise ValueError(f"{file} names a file: put it into operator_files, and the names of its operators here")
        if not operators or operators[0] != "base" or len(set(operators)) != len(operators):
            raise ValueError(
                f"the list starts with base and names each operator once, not {', '.join(operators) or 'nothing'}"
            )
        return operators

    @field_validator("kernels")
    @classmethod
    def _odd(cls, kernels: tuple[int, ...]) -> tuple[int, ...]:
        if not kernels or any(kernel not in (3, 5, 7) for kernel in kernels):
            raise ValueError(f"sites have a kernel of 3, 5 or 7, not {', '.join(map(str, kernels)) or 'none'}")
        return tuple(sorted(set(kernels)))

    def of_space(self) -> dict[str, Any]:
        """These fields alone, of whatever record holds them."""
        return {name: getattr(self, name) for name in SpaceOptions.model_fields}


class Architecture(SpaceOptions):
    """A base model and an operator vector; by hand it needs only ``model`` and ``vector``.

    An entry of the ``vector`` is the index of one of its slot's choices (at a convolution: of ``operators``), or its
    name, as a person writes it; ``check`` gives indices.
    ``skips`` are the skips [t, j] that are open; absent means the base's own, and where they are given the skip domain
    is open whether ``search_skips`` stands there or not.
    ``input`` is one sample's shape, channels first; absent means what the model states, or that of the images.
    ``sites`` are the lines that ``fingerprint`` was made of, kept so that a difference can be shown.
    ``init`` says what the search that found the vector started from: ``base`` is the base with ``base_weights``
    (without them, as the model is built), ``scratch`` random weights; absent means that no search is known.
    """

    version: Literal[1] = 1
    model: ModelReference
    vector: tuple[Entry, ...]
    skips: tuple[tuple[StrictInt, StrictInt], ...] | None = None
    input: tuple[StrictInt, StrictInt, StrictInt] | None = None
    weights: UserPath | None = None
    init: Literal["base", "scratch"] | None = None
    base_weights: UserPath | None = None
    fingerprint: str | None = None
    sites: tuple[str, ...] = ()
    metrics: dict[str, Any] = Field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    seed: StrictInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _opens_skips(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("skips") is not None:
            if values.get("search_skips") is False:
                raise ValueError("skips are given, but search_skips is false: leave one of the two out")
            return {**values, "search_skips": True}
        return values

    def as_base(self) -> Architecture:
        """The same model with the base's operators and skips, and without weights."""
        return self.model_copy(update={"vector": (0,) * len(self.vector), "skips": None, "weights": None})

    def describe(self) -> dict[str, Any]:
        """``vector``, and ``skips`` where there are any given, as results show them."""
        skips = {} if self.skips is None else {"skips": [list(pair) for pair in self.skips]}
        return {"vector": list(self.vector), **skips}

    @classmethod
    def load(cls, path: Path | str) -> Architecture:
        """Read and validate an ``arch.json``.

        Raises:
            UsageError: No such file, not JSON, a value that the schema refuses (the message names the key), or a mean
                of another number of channels than the input.
        """
        path = Path(path)
        value = unsealed(read_json(path), path)
        loaded = validated(cls, value, str(path), kind="malformed_architecture")
        if loaded.preprocessing is not None and loaded.input is not None:
            loaded.preprocessing.check_channels(loaded.input[0], str(path))
        return loaded

    def save(self, path: Path | str) -> None:
        """Write ``arch.json`` whole or not at all; it holds no time, host or absolute path of narfx's own making."""
        values = self.model_dump(
            mode="json", exclude_none=True, exclude=None if self.operator_files else {"operator_files"}
        )
        first = ("version", "model", "vector", "skips")  # what a person looks for stands on top
        write_sealed(Path(path), {key: values[key] for key in first if key in values} | values)

    def check(self, space: SearchSpace) -> Vector:
        """The vector of operators and skips, proven legal in ``space`` and meant for it.

        Raises:
            UsageError: An operator is not legal, a skip not possible, or the fingerprint is another model's; then the
                message shows the first differences between the site records.
        """
        if self.fingerprint is not None and self.fingerprint != space.fingerprint():
            changes = [
                line
                for line in difflib.unified_diff(self.sites, space.lines(), "arch.json", "model", lineterm="", n=0)
                if not line.startswith("@@")
            ]
            shown = "\n  ".join(changes[:12]) + (f"\n  ... {len(changes) - 12} more" if len(changes) > 12 else "")
            raise UsageError(
                f"this architecture was made for another model (fingerprint {self.fingerprint}, the model has "
                f"{space.fingerprint()})" + (f":\n  {shown}" if changes else ""),
                where="fingerprint",
                kind="fingerprint",
            )
        return space.validate(space.join(self._indices(space), self.skips))

    def _indices(self, space: SearchSpace) -> list[int]:
        """The vector's entries with names as indices; a wrong number of entries is left to ``join``."""
        slots = [index for index, slot in enumerate(space.slots) if slot.skip is None]
        if len(slots) != len(self.vector):
            return [0] * len(self.vector)
        return [
            space.index(slot, entry) if isinstance(entry, str) else entry
            for slot, entry in zip(slots, self.vector, strict=True)
        ]
