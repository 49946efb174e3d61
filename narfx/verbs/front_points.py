"""The front of a run or a folder, and its points as architectures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from narfx.errors import UsageError
from narfx.inputs.paths import find
from narfx.inputs.weight_sets import read_weight_set
from narfx.inputs.weights import read_weights
from narfx.runs.origin import CONFIG
from narfx.space.architecture import Architecture
from narfx.space.budget import Budget
from narfx.space.front import spread
from narfx.space.front_file import FRONT, Front, FrontPoint, PointWeights, is_front
from narfx.support.seals import damaged, file_digest
from narfx.support.text import count
from narfx.verbs.start import Placed

__all__ = ["OpenFront", "chosen_points", "named_targets", "open_front"]

_RESULT = "result.json"
_KEPT = ("data", "metric", "strategy", "starting_weights", "quick")


class OpenFront(NamedTuple):
    """A front, the folder of its file, and an architecture of its model with the folder at which its paths start."""

    front: Front
    folder: Path
    template: Placed

    def architecture(self, number: int) -> Architecture:
        """The architecture of a point, counted from 1, without weights; its paths start at the template's place.

        Its budget is its own cost: of what is known it is the best within that, and what is compared with it costs as
        much in each of the front's costs.
        """
        front, point = self.front, self.front.points[number - 1]
        known = self.template.architecture
        own = Budget({name: point.costs[name] for name in front.costs})
        metrics = {
            **{key: known.metrics[key] for key in _KEPT if key in known.metrics},
            "accuracy": point.accuracy,
            "accuracy_of": f"shared weights, recalibrated BatchNorm, {count(front.images, 'validation image')}",
            **point.costs,
            "base": {"accuracy": front.base.accuracy, **front.base.costs},
            "budget": str(own),
            "front": {"point": number, "points": len(front.points), "costs": list(front.costs)},
        }
        return known.model_copy(
            update={"vector": point.vector, "skips": point.skips, "weights": None, "metrics": metrics}
        )

    def weights(self, number: int) -> dict[str, Tensor] | None:
        """The state dict of a point as it was evaluated; ``None`` where none was kept.

        Raises:
            UsageError: The file is missing or damaged.
        """
        kept = self.front.points[number - 1].weights
        return None if kept is None else _state(self.folder / kept.file, kept)


def _state(path: Path, kept: PointWeights) -> dict[str, Tensor]:
    if file_digest(path) != kept.digest:
        raise damaged(path, "restore it from a copy, or search again")
    return read_weights(path)[0] if kept.entry is None else read_weight_set(path, kept.entry)


def open_front(source: Path) -> OpenFront:
    """The front in a run, in a folder of ``narfx solve``, or in a ``front.json``.

    Raises:
        UsageError: There is none, the run is not finished, or a file is damaged or of an older version.
    """
    path = source / FRONT if source.is_dir() else source
    folder = path.parent
    if (folder / CONFIG).is_file() and path.name == FRONT and not (folder / _RESULT).is_file():
        raise UsageError(
            f"{folder} holds no finished search, so it has no front: narfx search --resume --out {folder} ends one "
            "that was interrupted; a run of train or compare has none",
            where=str(folder),
            kind="no_front",
        )
    if not path.is_file():
        missing = f"{source} has no {FRONT}" if source.is_dir() else f"there is no file or folder {source}"
        raise UsageError(
            f"{missing}: give the run of a finished search, or the folder of narfx solve with a range of budgets",
            where=str(path),
            kind="no_front",
        )
    front = Front.load(path)
    place = folder / front.architecture
    known = Architecture.load(place)
    if len(known.vector) != len(front.base.vector):
        raise damaged(path, f"its vectors do not fit those of {place}")
    return OpenFront(front, folder, Placed(known, place.parent))


def chosen_points(front: Front, n: int) -> list[int]:
    """The numbers of at most ``n`` points without the base, spread over the costs."""
    numbers = [number for number, point in enumerate(front.points, 1) if not _is_base(front, point)]
    records = [{**front.points[number - 1].record(), "number": number} for number in numbers]
    return [record["number"] for record in spread(records, n, front.costs)]


def _is_base(front: Front, point: FrontPoint) -> bool:
    return (point.vector, point.skips) == (front.base.vector, front.base.skips)


def named_targets(
    texts: list[tuple[str | None, str]], start: Path | None, n: int
) -> list[tuple[str | None, Path, Placed]]:
    """The architectures that names and paths stand for: each ``arch.json``, and ``n`` points of each front.

    A point is called ``point 3``, after the name that the front was given; where there are several fronts without one,
    after its folder.

    Raises:
        UsageError: A file is missing or malformed, holds neither, or a front has no point but the base.
    """
    places = [(name, text, find(text, start)) for name, text in texts]
    fronts = [path for name, _, path in places if name is None and is_front(path)]
    found: list[tuple[str | None, Path, Placed]] = []
    for name, text, path in places:
        if not is_front(path):
            found.append((name, path, _placed(text, path)))
            continue
        head = name or (path.resolve().parent.name if len(fronts) > 1 else "")
        opened = open_front(path)
        numbers = chosen_points(opened.front, n)
        if not numbers:
            raise UsageError(
                f"the front in {path} has no point but the base, which is trained anyway: search for more points "
                "(narfx search --front)",
                where=str(path),
                kind="no_points",
            )
        found += [
            (f"{head} point {number}".strip(), path, Placed(opened.architecture(number), opened.template.place))
            for number in numbers
        ]
    return found


def _placed(text: str, path: Path) -> Placed:
    if path.suffix != ".json":
        raise UsageError(
            f"compare takes an arch.json, as narfx search writes one, or a front.json, not {text!r}",
            where=text,
            kind="not_an_architecture",
        )
    return Placed(Architecture.load(path), path.parent)
