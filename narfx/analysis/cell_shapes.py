"""Width and depth of cells and of residual blocks (Shu, Wang and Cai, arXiv 1909.09569)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from torch.fx import GraphModule

from narfx.analysis.mixture_genotype import genotype_of_run
from narfx.compiler.lowering import lower
from narfx.compiler.open import NetworkOptions, open_base
from narfx.compiler.supernet import Supernet
from narfx.errors import UsageError
from narfx.graph.cost import shapes_and_cost
from narfx.graph.tracing import trace_graph
from narfx.inputs.image_size import choose_input
from narfx.inputs.model_ref import load_model
from narfx.inputs.reference import is_collection, is_file_name
from narfx.models.cells import find_genotype
from narfx.operators.declared import is_nothing
from narfx.passes.cells import CellEdges, block_edges, find_cells
from narfx.passes.declared import find_declared
from narfx.space.architecture import Architecture
from narfx.space.cells import genotype_shape, narrowest, random_genotype, shape_of, widest
from narfx.space.genotype import Genotype, derive_genotype, read_genotype
from narfx.space.published import PUBLISHED
from narfx.space.records import DeclaredSite
from narfx.support.files import check_regular, check_writable, read_json, write_json
from narfx.support.folders import check_output, check_replaceable, output_folder

__all__ = ["Variant", "cells"]

Variant = Literal["random-connections", "random-operators", "widest", "narrowest"]
_RANDOM = ("random-connections", "random-operators")


def cells(
    target: str,
    *,
    variant: str | None = None,
    seed: int = 0,
    count: int | None = None,
    input: tuple[int, int, int] | None = None,
    by: str = "vector",
    out: Path | str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Width (in units of c, the channels of a node) and depth of cells and of residual blocks.

    Args:
        target: The name of a published genotype, a file with a genotype, an ``arch.json`` (or the folder that holds
            it), or a model reference.
        variant: Another genotype made from this one: one of the two random generators, or the widest or narrowest.
        seed: Of a random variant, and of the weights of a model.
        count: So many random variants, with ``seed`` and those that follow it.
        input: (channels, height, width) of one sample, where the model does not state it.
        by: What makes the genotype of a search: its ``vector``, or the architecture ``weights`` of its last step
            (:func:`~narfx.analysis.mixture_genotype.genotype_of_run`).
        out: A file that gets the genotype, or its variant, as JSON; with ``count`` a folder that gets a file of each,
            ``VARIANT-SEED.json``, and ``cells.json`` with all that is returned.
        overwrite: Whether that file or folder may be replaced.

    Returns:
        ``target``; for a genotype ``normal`` and ``reduce``, each with ``width`` and ``depth``, and the ``genotype``;
        for a network its ``cells`` and ``blocks`` by name, and ``normal`` and ``reduce`` where its cells are of these
        kinds and alike. With ``count``, ``variant`` and ``genotypes``, one for each seed with the keys of a genotype.

    Raises:
        UsageError: There is no such thing, it has neither a cell nor a residual block, or a genotype is asked of what
            has none.
    """
    if count is not None:
        _check_count(count, variant)
    if out is not None:
        _check_out(Path(out), overwrite, folder=count is not None)
    if by not in ("vector", "weights"):
        raise UsageError(f"--by is vector or weights, not {by!r}", where="--by", kind="bad_option")
    genotype: Genotype | None
    result: dict[str, Any]
    if by == "weights":
        genotype = genotype_of_run(_run_folder(Path(target)))
    else:
        genotype = None if is_collection(target) else _named(target)
    if genotype is None:
        result, genotype = _of_network(target, input, seed, wanted=variant is not None or out is not None)
    else:
        result = {"target": target}
    if variant is not None and count is not None:
        assert genotype is not None
        return _many(target, genotype, variant, range(seed, seed + count), out, overwrite)
    if variant is not None:
        assert genotype is not None
        genotype, result = _variant(genotype, variant, seed), {"target": target, "variant": variant}
    if genotype is not None:
        result |= {**genotype_shape(genotype), "genotype": genotype.to_json()}
    if out is not None and genotype is not None:
        genotype.save(out)
        result["file"] = str(out)
    return result


def _run_folder(path: Path) -> Path:
    folder = path.parent if is_file_name(str(path), ".json") else path
    check_regular(folder / "arch.json", f"{path} is no finished search: --by weights needs the folder of one")
    return folder


def _check_count(count: int, variant: str | None) -> None:
    if count < 1:
        raise UsageError(f"--count is a whole number from 1, not {count}", where="--count", kind="bad_option")
    if variant not in _RANDOM:
        raise UsageError(
            f"--count makes several random variants: add --variant {' or '.join(_RANDOM)}",
            where="--count",
            kind="bad_option",
        )


def _many(
    target: str, genotype: Genotype, variant: str, seeds: range, out: Path | str | None, overwrite: bool
) -> dict[str, Any]:
    """A random variant for each seed, in the files of a folder where one is given."""
    made = {seed: _variant(genotype, variant, seed) for seed in seeds}
    rows = [{"seed": seed, **genotype_shape(each), "genotype": each.to_json()} for seed, each in made.items()]
    result: dict[str, Any] = {"target": target, "variant": variant, "genotypes": rows}
    if out is not None:
        with output_folder(Path(out), overwrite=overwrite) as work:
            for seed, each in made.items():
                each.save(work / f"{variant}-{seed}.json")
            write_json(work / "cells.json", result)
        rows = [{**row, "file": str(Path(out) / f"{variant}-{row['seed']}.json")} for row in rows]
    return {**result, "genotypes": rows}


def _check_out(out: Path, overwrite: bool, *, folder: bool) -> None:
    if folder:
        check_output(out, overwrite=overwrite)
        check_replaceable(out)
        return
    check_writable(out)
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists: add --overwrite to replace it", where=str(out), kind="output_exists")


def _named(target: str) -> Genotype | None:
    """The genotype that a name or a file gives; ``None`` for an ``arch.json`` or a model reference."""
    path = Path(target)
    if target.lower() in PUBLISHED:
        return PUBLISHED[target.lower()]
    if is_file_name(target, ".json"):
        check_regular(path, f"there is no file {path}: check the path")
        held = read_json(path)
        return None if isinstance(held, dict) and "model" in held else read_genotype(path)
    if is_file_name(target, ".txt", ".genotype"):
        return read_genotype(path)
    # Neither a reference nor a file: the message names the published ones.
    return None if ":" in target or ".py" in target or path.exists() else find_genotype(target)


def _variant(genotype: Genotype, variant: str, seed: int) -> Genotype:
    if variant not in get_args(Variant):
        raise UsageError(
            f"there is no variant {variant!r}: choose from {', '.join(get_args(Variant))}",
            where="--variant",
            kind="bad_option",
        )
    if variant == "random-connections":
        return random_genotype(genotype, "connections", seed)
    if variant == "random-operators":
        return random_genotype(genotype, "operators", seed)
    return widest(genotype) if variant == "widest" else narrowest(genotype)


def _of_network(
    target: str, input: tuple[int, int, int] | None, seed: int, *, wanted: bool
) -> tuple[dict[str, Any], Genotype | None]:
    if is_collection(target):
        found, blocks, genotype = _of_model(target, input, seed)
    elif Path(target).is_dir() or is_file_name(target, ".json"):
        path = Path(target)
        found, blocks, genotype = _of_architecture(path / "arch.json" if path.is_dir() else path, seed, wanted)
    else:
        found, blocks, genotype = _of_model(target, input, seed)
    if wanted and genotype is None:
        raise UsageError(
            f"{target} has no genotype: give a published name, a genotype file, narfx:darts, or an arch.json of "
            "narfx:darts_search",
            where=target,
            kind="no_cells",
        )
    result: dict[str, Any] = {"target": target, "cells": _rows(found), "blocks": _rows(blocks)}
    if not found and not blocks:
        raise UsageError(
            f"{target} has neither cells nor residual blocks: cells are found by the sites that declare candidates "
            "(docs/cells.md), blocks by their add",
            where=target,
            kind="no_cells",
        )
    for kind in ("normal", "reduce"):
        shapes = [{"width": row["width"], "depth": row["depth"]} for row in result["cells"] if row["kind"] == kind]
        if shapes and all(shape == shapes[0] for shape in shapes):
            result[kind] = shapes[0]
    return result, genotype if wanted else None


def _rows(found: Sequence[CellEdges]) -> list[dict[str, Any]]:
    return [{"name": cell.name, "kind": cell.kind or None, **shape_of(cell.sources, cell.channels)} for cell in found]


def _of_model(
    target: str, input: tuple[int, int, int] | None, seed: int
) -> tuple[list[CellEdges], list[CellEdges], Genotype | None]:
    model = load_model(target, seed=seed)
    shape = input or choose_input(target, model)[0]
    graph_module = trace_graph(model).graph_module
    shapes = shapes_and_cost(graph_module, shape).shapes
    sites, _ = find_declared(graph_module, shapes)
    genotype = getattr(model, "genotype", None)
    return (
        find_cells(graph_module, sites),
        [] if sites else block_edges(graph_module, shapes),
        genotype if isinstance(genotype, Genotype) else None,
    )


def _of_architecture(
    path: Path, seed: int, wanted: bool
) -> tuple[list[CellEdges], list[CellEdges], Genotype | None]:  # fmt: skip
    architecture = Architecture.load(path)
    options = NetworkOptions(model=architecture.model, input=architecture.input, **architecture.of_space())
    traced = open_base(options, relative_to=path.parent, seed=seed)
    vector = architecture.check(traced.space)
    slots = zip(traced.space.slots, vector, strict=True)
    chosen = {site.name: slot.choices[entry] for slot, entry in slots for site in slot.sites}
    sites = [site for site in traced.space.sites if isinstance(site, DeclaredSite)]
    if sites:
        graph_module: GraphModule = traced.graph_module

        def empty(site: DeclaredSite) -> bool:
            return is_nothing(graph_module.get_submodule(site.target), site.name, chosen[site.name])

        ordered = _in_graph_order(graph_module, sites)
        genotype = derive_genotype(traced.space, vector) if wanted else None
        return find_cells(graph_module, ordered, empty), [], genotype
    lowered = lower(Supernet(traced), vector)
    return [], block_edges(lowered, shapes_and_cost(lowered, traced.input).shapes), None


def _in_graph_order(graph_module: GraphModule, sites: Sequence[DeclaredSite]) -> list[DeclaredSite]:
    first: dict[str, int] = {}
    for index, node in enumerate(graph_module.graph.nodes):
        first.setdefault(str(node.target), index)
    return sorted(sites, key=lambda site: first[site.target])
