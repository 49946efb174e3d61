"""How alike operators are on a trained supernet, and the groups that follow (StacNAS, arXiv 1909.11926).

The likeness of two operators (:mod:`narfx.analysis.likeness`) is averaged over the sites that offer both. Operators are
then grouped by average linkage at distances 1 − likeness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from narfx.analysis.drawing import Drawing
from narfx.analysis.likeness import MEASURES, Likeness
from narfx.analysis.operator_plots import draw_operators
from narfx.compiler.features import Visit
from narfx.compiler.supernet import Supernet
from narfx.errors import UsageError
from narfx.graph.batchnorm import batch_statistics
from narfx.inputs.reference import is_file_name
from narfx.runs.checkpoints import read_checkpoint
from narfx.runs.events import StageBegan, iter_events
from narfx.runs.folder import RunFolder
from narfx.runs.origin import resumed_config
from narfx.search.config import SearchConfig
from narfx.search.mixture.weights import ArchitectureWeights
from narfx.search.prepared import Prepared, prepare
from narfx.search.stages import stages_of
from narfx.space.groups import Groups
from narfx.space.space import SearchSpace
from narfx.support.files import read_json
from narfx.support.schema import validated
from narfx.support.text import count
from narfx.tasks.task import Task
from narfx.training.fit import restore

__all__ = ["operators", "site_correlations"]

Floats = NDArray[np.float64]
_THRESHOLD = 0.5


def operators(
    target: str,
    out: Path | str | None = None,
    *,
    fields: Mapping[str, Any] | None = None,
    measure: str = "correlation",
    images: int = 2048,
    groups: int | None = None,
    threshold: float | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure how alike the operators of a supernet are, group them, and draw both.

    Args:
        target: The folder of a search, whose last checkpoint has the supernet; or a model, whose operators are as the
            search would start them.
        out: The folder of ``operators.png``, ``.svg`` and ``.json``; none is written without one.
        fields: Of :class:`~narfx.search.SearchConfig`, for a model: its data, operators and the like.
        measure: ``correlation`` (of the paper), or ``cka``, which does not depend on the order of channels.
        images: Training images, at most all there are.
        groups: How many groups to make.
        threshold: Otherwise groups end at this distance 1 − likeness; default 0.5.
        device: ``auto``, ``cpu`` or ``cuda``.
        overwrite: Whether files of these names may be replaced.

    Returns:
        ``operators`` (names), ``likeness`` (a row each, ``None`` where two never stand at one site), ``sites`` (how
        many), ``images``, ``tree`` (scipy's linkage), ``groups`` (lists of names), ``option`` (the groups as stacnas
        takes them) and the ``files``.

    Raises:
        UsageError: There is no such run or model, it has no checkpoint, fewer than two operators can be compared, an
            option is out of range, or a file exists.
    """
    _check(images, groups, threshold)
    if measure not in MEASURES:
        raise UsageError(f"--measure is {' or '.join(MEASURES)}, not {measure!r}", where="--measure", kind="bad_option")
    drawing = None if out is None else Drawing(Path(out), "operators", overwrite=overwrite)
    net, task, offered, mixture, said = _supernet(target, dict(fields or {}), device)
    net.set_mixture(mixture)
    found = site_correlations(net, task, offered, images, measure)
    names, matrix = _mean(found)
    if len(names) < 2:
        raise UsageError(
            f"{target} has no two operators that stand at one site and vary with the image: there is nothing to "
            "compare",
            where=target,
            kind="nothing_to_compare",
        )
    if groups is not None and groups > len(names):
        raise UsageError(
            f"--groups is {groups}, but only {len(names)} operators vary with the image", where="--groups",
            kind="bad_option",
        )  # fmt: skip
    tree = _linkage(matrix)
    cut = threshold if threshold is not None else _THRESHOLD if groups is None else None
    members = _groups(names, tree, groups, cut)
    result: dict[str, Any] = {
        "target": target,
        "supernet": said,
        "measure": measure,
        "images": min(images, len(task.data.train)),
        "sites": len(found),
        "operators": names,
        "likeness": [[None if np.isnan(v) else round(float(v), 6) for v in row] for row in matrix],
        "tree": [[round(float(v), 6) for v in row] for row in tree],
        "groups": members,
        "option": f"groups={Groups(tuple(map(tuple, members)))}",
    }
    if drawing is not None:
        by_site = {
            site: {"operators": own, "likeness": np.round(corr, 6).tolist()} for site, (own, corr) in found.items()
        }
        content = draw_operators(names, result["likeness"], result["tree"], cut, measure)
        result["files"] = drawing.save(content, {**result, "by_site": by_site})
    return result


def _check(images: int, groups: int | None, threshold: float | None) -> None:
    if images < 2:
        raise UsageError(f"--images is {images}: a correlation needs at least 2", where="--images", kind="bad_option")
    if groups is not None and (groups < 1 or threshold is not None):
        raise UsageError(
            "give --groups a number of at least 1, or --threshold, not both", where="--groups", kind="bad_option"
        )
    if threshold is not None and not 0 < threshold < 2:
        raise UsageError(
            f"--threshold is a distance 1 - correlation between 0 and 2, not {threshold}",
            where="--threshold",
            kind="bad_option",
        )


def _supernet(
    target: str, fields: dict[str, Any], device: str
) -> tuple[Supernet, Task, SearchSpace, list[torch.Tensor], str]:
    """The supernet on its device, its task, the choices that were trained, a mixture, and what it is in words."""
    path = Path(target)
    if is_file_name(target, ".json", ".onnx"):
        raise UsageError(
            f"{target} is one network, and operators are compared on a supernet: give the run directory of its search, "
            "or its MODEL with --data",
            where=target,
            kind="model_reference",
        )
    if not path.is_dir() or not (path / "config.json").is_file():
        values = {"budget": "none", "strategy": "darts", **fields, "model": target}
        config = validated(SearchConfig, values, "operators")
        prepared = prepare(config, stages_of(config), device, None)
        return (*_parts(prepared, prepared.traced.space, None), "as a search would start it")
    if "model" not in read_json(path / "config.json"):
        raise UsageError(
            f"{target} is no run of narfx search: operators are compared on the supernet of one", where=target,
            kind="model_reference",
        )  # fmt: skip
    if fields:
        raise UsageError(
            f"{target} is a run, which names its own model and data: leave out {', '.join(fields)}",
            where=target,
            kind="bad_option",
        )
    config = resumed_config(path, SearchConfig)
    folder = RunFolder.open(path)
    if not folder.has_checkpoint:
        raise UsageError(f"{path} has no checkpoint yet: let the search go on", where=target, kind="no_checkpoint")
    prepared = prepare(config, stages_of(config), device, path, resumed=True)
    state = read_checkpoint(path)[1]["state"]
    restore(folder, (prepared.net, state["net"]))
    began = list(iter_events(path, StageBegan)) if (path / "events.jsonl").is_file() else []
    space = prepared.traced.space
    if began and began[-1].legal:
        space = space.restrict(dict(enumerate(began[-1].legal)))
    alphas = state["strategy"].get("alphas") if isinstance(state["strategy"], dict) else None
    return (*_parts(prepared, space, alphas), f"after {count(state['epoch'], 'epoch')}")


def _parts(
    prepared: Prepared, space: SearchSpace, alphas: torch.Tensor | None
) -> tuple[Supernet, Task, SearchSpace, list[torch.Tensor]]:
    weights = ArchitectureWeights(space, torch.Generator().manual_seed(0))
    with torch.no_grad():
        weights.values.zero_() if alphas is None else weights.values.copy_(alphas)
        rows = [row.detach() for row in weights.softmax_rows()]
    return prepared.net, prepared.task, space, rows


def site_correlations(
    net: Supernet, task: Task, space: SearchSpace, images: int, measure: str = "correlation"
) -> dict[str, tuple[list[str], Floats]]:
    """By site the operators that vary there, and their correlations ``(operators, operators)``.

    What the supernet is set to decides what the sites see. BatchNorms use the statistics of their batch.

    Args:
        net: The supernet.
        task: Gives training images, spread over the classes and augmented as in training.
        space: Its legal choices are compared.
        images: How many images.
        measure: One of :data:`~narfx.analysis.likeness.MEASURES`.
    """
    sums: dict[str, Likeness] = {}
    slots = [index for index, slot in enumerate(space.slots) if slot.sites and len(slot.legal) > 1]

    def visit(seen: Visit) -> None:
        slot = space.slots[seen.node.slot]
        names = [slot.choices[k] for k in slot.legal]
        outputs = torch.stack([seen.node.again(name).flatten(1) for name in names]).double().cpu()
        key = f"{seen.node.site} {'x'.join(map(str, seen.input.shape[1:]))}"
        sums.setdefault(key, MEASURES[measure](names)).add(outputs.numpy())

    with batch_statistics(net), torch.no_grad(), net.visits(slots, visit):
        for batch, _ in task.spread_batches(images):
            task.precision.apply(net, batch)
    found = {key.partition(" ")[0] if _once(key, sums) else key: own.matrix() for key, own in sums.items()}
    return {key: pair for key, pair in found.items() if len(pair[0]) > 1}


def _once(key: str, sums: Mapping[str, Likeness]) -> bool:
    """Whether a site sees maps of one shape only."""
    return sum(other.partition(" ")[0] == key.partition(" ")[0] for other in sums) == 1


def _mean(found: Mapping[str, tuple[list[str], Floats]]) -> tuple[list[str], Floats]:
    """All operators, and the mean over the sites of each pair's correlation; NaN where no site has both."""
    names = list(dict.fromkeys(name for own, _ in found.values() for name in own))
    total, count = np.zeros((len(names), len(names))), np.zeros((len(names), len(names)))
    for own, matrix in found.values():
        places = np.ix_([names.index(name) for name in own], [names.index(name) for name in own])
        total[places] += matrix
        count[places] += 1
    return names, np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _linkage(matrix: Floats) -> Floats:
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    distances = np.where(np.isnan(matrix), 1.0, 1 - matrix)
    np.fill_diagonal(distances, 0)
    tree: Floats = linkage(squareform((distances + distances.T) / 2, checks=False), method="average")
    return tree


def _groups(names: Sequence[str], tree: Floats, number: int | None, cut: float | None) -> list[list[str]]:
    from scipy.cluster.hierarchy import fcluster

    marks = fcluster(tree, number, "maxclust") if cut is None else fcluster(tree, cut, "distance")
    return [[name for name, own in zip(names, marks, strict=True) if own == mark] for mark in dict.fromkeys(marks)]
