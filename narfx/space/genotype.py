"""Genotypes: two cells in the usual form of DARTS (arXiv 1806.09055), read, checked and written.

A cell has the outputs of the two cells before it as nodes 0 and 1. Each further node is the sum of two edges, an
operator on an earlier node; the cell's output is the concatenation of some nodes. ``normal`` lists the edges, two a
node, as (operator, node).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, StrictInt, field_validator, model_validator

from narfx.errors import UsageError
from narfx.space.space import SearchSpace
from narfx.support.files import check_regular, write_text
from narfx.support.schema import validated
from narfx.support.text import count

__all__ = ["CELL_OPERATORS", "Edge", "Genotype", "derive_genotype", "parse_genotype", "read_genotype"]

CELL_OPERATORS = (
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
    "dil_conv_5x5", "sep_conv_7x7", "conv_7x1_1x7", "nor_conv_1x1", "nor_conv_3x3", "noise",
)  # fmt: skip
"""What may stand on an edge; the first eight are those of DARTS."""

Edge = tuple[str, StrictInt]


class Numbers(Protocol):
    """An array or a tensor."""

    def tolist(self) -> Any:
        """Its numbers as lists."""


_INPUTS = 2
_LONGEST = 100_000
_SLOT = re.compile(r"(normal|reduce) (\d+)->(\d+)( again)?")


class Genotype(BaseModel):
    """A normal and a reduction cell. Nodes 0 and 1 are the inputs; node 2 has the first two edges, and so on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    normal: tuple[Edge, ...]
    normal_concat: tuple[StrictInt, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[StrictInt, ...]

    @field_validator("normal", "reduce", mode="before")
    @classmethod
    def _flat(cls, edges: Any) -> Any:
        """Edges that are grouped by node, as some programs print them, in one list."""
        if isinstance(edges, (list, tuple)) and edges and all(_is_group(entry) for entry in edges):
            return [edge for group in edges for edge in group]
        return edges

    @model_validator(mode="after")
    def _sound(self) -> Genotype:
        for kind in ("normal", "reduce"):
            _check_cell(kind, self.edges(kind), self.concat(kind))
        return self

    def edges(self, kind: str) -> tuple[Edge, ...]:
        """The edges of the ``normal`` or the ``reduce`` cell."""
        return self.normal if kind == "normal" else self.reduce

    def concat(self, kind: str) -> tuple[int, ...]:
        """The nodes whose outputs make the cell's."""
        return self.normal_concat if kind == "normal" else self.reduce_concat

    def to_json(self) -> dict[str, Any]:
        """The four lists, as plain values."""
        return self.model_dump(mode="json")

    def text(self) -> str:
        """The genotype in one line of JSON."""
        return json.dumps(self.to_json(), separators=(",", ":"))

    def save(self, path: Path | str) -> None:
        """Write a JSON file with the four lists, whole or not at all."""
        lists = self.to_json()
        lines = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in lists.items())
        write_text(Path(path), f"{{\n{lines}\n}}\n")


def _is_group(entry: Any) -> bool:
    return isinstance(entry, (list, tuple)) and bool(entry) and all(isinstance(e, (list, tuple)) for e in entry)


def _check_cell(kind: str, edges: Sequence[Edge], concat: Sequence[int]) -> None:
    """``ValueError`` with a sentence for what is wrong in a cell."""
    if len(edges) < 2 or len(edges) % 2:
        raise ValueError(f"{kind} has {count(len(edges), 'edge')}: each node needs two, and a cell at least one node")
    nodes = len(edges) // 2
    for index, (operator, source) in enumerate(edges):
        node = _INPUTS + index // 2
        if operator not in CELL_OPERATORS:
            raise ValueError(
                f"{kind} has the unknown operator {operator!r} at node {node}: choose from {', '.join(CELL_OPERATORS)}"
            )
        if not 0 <= source < node:
            raise ValueError(f"{kind} has an edge from node {source} to node {node}: an edge starts at an earlier node")
    if not concat:
        raise ValueError(f"{kind}_concat names no node: the output of the cell would be nothing")
    if len(set(concat)) != len(concat) or not all(_INPUTS <= node < nodes + _INPUTS for node in concat):
        raise ValueError(
            f"{kind}_concat has {', '.join(map(str, concat))}: it names each node once, from {_INPUTS} to "
            f"{nodes + _INPUTS - 1}"
        )


def parse_genotype(text: str, where: str = "genotype") -> Genotype:
    """A genotype from JSON, or from Python's text ``Genotype(normal=[...], normal_concat=range(2, 6), ...)``.

    Nothing is run: only literals and ``range`` are read.

    Raises:
        UsageError: The text is neither, or the genotype is not sound.
    """
    fields = _from_json(text)
    if fields is None:
        fields = _from_python(text)
    if fields is None:
        raise UsageError(
            f"{where} is no genotype: write JSON with normal, normal_concat, reduce and reduce_concat, or Python's "
            "Genotype(normal=[...], ...)",
            where=where,
            kind="bad_genotype",
        )
    return validated(Genotype, fields, where, kind="bad_genotype")


def _from_json(text: str) -> Any:
    try:
        found = json.loads(text) if len(text) <= _LONGEST else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _from_python(text: str) -> dict[str, Any] | None:
    if len(text) > _LONGEST:
        return None
    try:
        body = ast.parse(text.strip()).body
        value = body[0].value if len(body) == 1 and isinstance(body[0], (ast.Expr, ast.Assign)) else None
        if not isinstance(value, ast.Call) or value.args:
            return ast.literal_eval(value) if isinstance(value, ast.Dict) else None
        return {str(word.arg): _literal(word.value) for word in value.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def _literal(value: ast.expr) -> Any:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "range":
        bounds = [ast.literal_eval(argument) for argument in value.args]
        made = range(*bounds)
        if len(made) > _LONGEST:
            raise ValueError("too long")
        return list(made)
    return ast.literal_eval(value)


def read_genotype(path: Path | str) -> Genotype:
    """Read a file in one of the forms of :func:`parse_genotype`.

    Raises:
        UsageError: There is no such file, it cannot be read, or its genotype is not sound.
    """
    path = Path(path)
    check_regular(path, f"there is no genotype file {path}: check the path")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}", where=str(path), kind="missing_file") from error
    return parse_genotype(text, str(path))


def derive_genotype(
    space: SearchSpace,
    weights: Sequence[int] | Sequence[Sequence[float]] | Numbers,
    *,
    concat: Sequence[int] | None = None,
) -> Genotype:
    """The genotype of a vector, or of architecture weights, by the rule of DARTS (section 2.4 of its paper).

    A node keeps its two strongest incoming edges, where the strength of an edge is the weight of its strongest operator
    other than ``none``; between equals the earlier edge is kept. A vector counts as weights that are 1 at its choices;
    an edge at which it has ``none`` is not kept.

    Args:
        space: A space whose slots are named ``normal I->J`` and ``reduce I->J``, as those of ``narfx:darts_search``
            (a second edge between the same nodes has `` again`` behind).
        weights: One legal entry a slot, or for each slot one finite weight a choice; lists, arrays or tensors.
        concat: The nodes that make the output of both cells; default: all.

    Raises:
        UsageError: The space has no such slots, a row of weights has another length or values that are not finite, or
            a node has fewer than two edges.
    """
    rows = _rows(space, weights)
    cells: dict[str, dict[int, dict[tuple[int, str], tuple[float, str]]]] = {"normal": {}, "reduce": {}}
    for slot, row in zip(space.slots, rows, strict=True):
        found = _SLOT.fullmatch(slot.name)
        if found is None:
            continue
        offered = [(row[k], -k) for k in slot.legal if slot.choices[k] != "none" and row[k] is not None]
        strength, k = max(offered, default=(None, 0))
        if strength is not None:
            edges = cells[found[1]].setdefault(int(found[3]), {})
            edges[int(found[2]), found[4] or ""] = strength, slot.choices[-k]
        else:
            cells[found[1]].setdefault(int(found[3]), {})
    if not all(cells.values()):
        raise UsageError(
            "the space has no cells: a genotype needs slots named normal I->J and reduce I->J, as those of "
            "narfx:darts_search",
            kind="no_cells",
        )
    fields: dict[str, Any] = {}
    for kind, nodes in cells.items():
        fields[kind] = [edge for node in sorted(nodes) for edge in _strongest(kind, node, nodes[node])]
        fields[f"{kind}_concat"] = sorted(nodes) if concat is None else list(concat)
    return validated(Genotype, fields, "the derived genotype", kind="bad_genotype")


def _strongest(kind: str, node: int, edges: Mapping[tuple[int, str], tuple[float, str]]) -> list[tuple[str, int]]:
    if len(edges) < 2:
        raise UsageError(
            f"node {node} of the {kind} cell has {len(edges)} edges that are not none: a genotype needs two a node",
            kind="bad_genotype",
        )
    kept = sorted(edges, key=lambda edge: (-edges[edge][0], edge))[:2]
    return [(edges[edge][1], edge[0]) for edge in kept]


def _plain(values: Any) -> Any:
    """Lists of numbers in place of arrays and tensors."""
    return values.tolist() if hasattr(values, "tolist") else values


def _rows(
    space: SearchSpace, weights: Sequence[int] | Sequence[Sequence[float]] | Numbers
) -> list[list[float | None]]:  # fmt: skip
    given: list[Any] = [_plain(row) for row in _plain(weights)]
    if not any(isinstance(row, Sequence) and not isinstance(row, str) for row in given):
        vector = space.validate(given)
        return [
            [1.0 if k == entry else None for k in range(len(slot.choices))]
            for slot, entry in zip(space.slots, vector, strict=True)
        ]
    if len(given) != len(space):
        raise UsageError(f"there are {len(given)} rows of weights for {len(space)} slots", kind="bad_weights")
    for slot, row in zip(space.slots, given, strict=True):
        if len(row) != len(slot.choices) or not all(abs(float(value)) < float("inf") for value in row):
            raise UsageError(
                f"the weights of slot {slot.name} must be {len(slot.choices)} finite numbers, not {list(row)!r:.80}",
                where=slot.name,
                kind="bad_weights",
            )
    return [[float(value) for value in row] for row in given]
