"""A front for people: its points beside the base, its hypervolume and its plot, and one point picked from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from narfx.errors import UsageError
from narfx.inputs.paths import named_paths, relocated
from narfx.inputs.weights import write_state
from narfx.space.front_file import Front, FrontPoint
from narfx.space.hypervolume import hypervolume
from narfx.space.metrics import metric
from narfx.space.picks import knee, pick, reference_point
from narfx.support.files import write_bytes, write_json
from narfx.support.folders import check_output, check_replaceable, output_folder
from narfx.support.text import count
from narfx.verbs.front_plot import plot_front
from narfx.verbs.front_points import OpenFront, open_front

__all__ = ["describe_front"]

_RESULT, _ARCH, _WEIGHTS = "points.json", "arch.json", "weights.safetensors"


def describe_front(
    source: Path | str,
    out: Path | str | None = None,
    *,
    picked: str | None = None,
    reference: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """The points of a front with their costs as shares of the base's, and its hypervolume.

    Nothing is written into the run. With ``out`` a folder gets the plot and ``points.json`` (what is returned), and
    with ``picked`` also that point's ``arch.json`` with its weights.

    Args:
        source: The run of a search, a folder of ``narfx solve``, or a ``front.json``.
        out: The folder to write.
        picked: The number of a point, ``knee``, or a bound such as ``macs<=0.5x``
            (:func:`~narfx.space.picks.pick`).
        reference: The reference point of the hypervolume (:func:`~narfx.space.picks.reference_point`).
        overwrite: Whether ``out`` may be replaced.

    Returns:
        ``{"run", "metric", "costs", "budget", "images", "archive", "evaluated", "base", "points", "hypervolume",
        "knee", "picked", "notes", "files"}``.

    Raises:
        UsageError: There is no front, a file is damaged, or an option is wrong.
        InfeasibleBudgetError: No point meets the bound of ``picked``; the message names the nearest.
    """
    opened = open_front(Path(source))
    front = opened.front
    records = [point.record() for point in front.points]
    point = reference_point(reference, front.base.costs, front.costs)
    index = None if picked is None else pick(picked, records, front.base.costs, front.costs)
    bend = _knee(records, front)
    points = [_described(front, each, number) for number, each in enumerate(front.points, 1)]
    result = {
        "run": str(source),
        **front.model_dump(include={"metric", "budget", "images", "archive", "evaluated"}),
        "costs": list(front.costs),
        "base": {**front.base.record(), "standard_error": front.base.standard_error, "weights": front.base_by},
        "points": points,
        "hypervolume": {"value": hypervolume(records, point), "reference": point},
        "knee": bend,
        "picked": None if index is None else points[index],
        "notes": [*_notes(front, bend, index), *_outside(front, records, point)],
    }
    return {**result, "files": {} if out is None else _write(opened, result, Path(out), overwrite=overwrite)}


def _described(front: Front, point: FrontPoint, number: int) -> dict[str, Any]:
    base = front.base.costs
    return {
        "point": number,
        **point.record(),
        "standard_error": point.standard_error,
        "shares": {name: value / base[name] if base.get(name) else None for name, value in point.costs.items()},
        "weights": point.weights is not None,
    }


def _knee(records: list[dict[str, Any]], front: Front) -> int | None:
    try:
        return knee(records, front.costs) + 1
    except UsageError:
        return None


def _notes(front: Front, bend: int | None, index: int | None) -> list[str]:
    notes = []
    points = front.points
    if len(points) == 1:
        notes.append("the front has one point: no other one that was evaluated costs less or is more accurate")
    else:
        equal = [name for name in front.costs if len({point.costs[name] for point in points}) == 1]
        notes += [f"all points have the same {metric(name).words}" for name in equal]
        if bend is None:
            notes.append("the front has no knee: no point lies above the line between its ends")
    bare = sum(point.weights is None for point in points)
    if index is not None and points[index].weights is None:
        notes.append(f"the weights of point {index + 1} were not kept: train it with narfx train")
    elif bare:
        notes.append(
            f"the weights of {count(bare, 'point')} were not kept: narfx search --front "
            f"{','.join(front.costs)} keeps those of every point"
        )
    return notes


def _outside(front: Front, records: list[dict[str, Any]], reference: dict[str, float]) -> list[str]:
    if hypervolume(records, reference):
        return []
    costs = [name for name in front.costs if all(record[name] >= reference[name] for record in records)]
    dear = f": all have at least the {metric(costs[0]).words} that it has" if costs else ""
    return [f"the hypervolume is 0 because no point is better than the reference point in everything{dear}"]


def _write(opened: OpenFront, result: dict[str, Any], out: Path, *, overwrite: bool) -> dict[str, str]:
    """Write the folder; the names of its files."""
    template, place = opened.template
    check_output(out, overwrite=overwrite)
    check_replaceable(out, [opened.folder, *named_paths(template, place)])
    number = None if result["picked"] is None else result["picked"]["point"]
    state = None if number is None else opened.weights(number)
    names = {"result": _RESULT}
    with output_folder(out, overwrite=overwrite) as work:
        if number is not None:
            names["arch"] = _ARCH
            chosen = relocated(opened.architecture(number), out, start=place)
            if state is not None:
                names["weights"] = _WEIGHTS
                write_state(state, work / _WEIGHTS)
                chosen = chosen.model_copy(update={"weights": _WEIGHTS})
            chosen.save(work / _ARCH)
        for kind, content in plot_front(result).items():
            names[kind] = f"front.{kind}"
            write_bytes(work / names[kind], content)
        files = {name: str(out / file) for name, file in names.items()}
        write_json(work / _RESULT, {**result, "files": names})
    return files
