"""The files of fronts, scores, genotypes and reports: runs that have them, and the verbs that read them."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from file_kinds import CONFIG, Kind

from narfx.report import report
from narfx.search import SearchConfig, run
from narfx.space.genotype import read_genotype
from narfx.space.published import PUBLISHED
from narfx.support.seals import EditedFileWarning
from narfx.verbs.compare import CompareConfig, compare
from narfx.verbs.front import describe_front
from narfx.verbs.front_points import open_front
from narfx.verbs.solve import solve
from narfx.verbs.train import TrainConfig, train

REPORTED = {
    "front": ("about.json", "config.json", "evaluations.json", "events.jsonl", "front.json", "result.json"),
    "solved": ("about.json", "front.json", "solve.json"),
    "trained": ("about.json", "config.json", "events.jsonl", "metrics.json"),
    "compared": ("about.json", "config.json", "comparison.json"),
}
FRONTS = ("front/front.json", "front/arch.json", "front/front.safetensors", "solved/front.json")
SOLVED = ("scores.json", "config.json", "supernet.safetensors")


def run_kinds() -> dict[str, Kind]:
    """What ``narfx report``, ``front`` and ``solve`` read in a run, and genotypes."""
    found = [
        *(
            Kind(f"report: {folder}/{name}", f"{folder}/{name}", _reported, weight=3, editable=name.endswith(".json"))
            for folder, names in REPORTED.items()
            for name in names
        ),
        *(Kind(f"front: {path}", path, _front, editable=path.endswith("arch.json")) for path in FRONTS),
        *(
            Kind(f"solve: {name}", f"front/{name}", _solved, weight=4, editable=name == "scores.json")
            for name in SOLVED
        ),
        Kind("genotype.json", "genotype.json", _genotype, guarded=False, weight=15),
        Kind("genotype.txt", "genotype.txt", _genotype, guarded=False, weight=15),
    ]
    return {kind.name: kind for kind in found}


def _genotype(path: Path) -> Any:
    return read_genotype(path).to_json()


def _reported(path: Path) -> Any:
    """The page; what it says about damage counts as said."""
    with tempfile.TemporaryDirectory() as folder:
        result = report(path.parent, Path(folder, "report.html"))
        page = Path(folder, "report.html").read_text()
    for text in result["warnings"]:
        warnings.warn(text, EditedFileWarning, stacklevel=2)
    return page, result["verdict"]


def _front(path: Path) -> Any:
    result = describe_front(path.parent)
    opened = open_front(path.parent)
    numbers = range(1, len(opened.front.points) + 1)
    return result, [(opened.architecture(number).model_dump(), opened.weights(number)) for number in numbers]


def _solved(path: Path) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        result = solve(path.parent, Path(folder, "out"), budget="macs<=0.7x")
    points = [{key: value for key, value in point.items() if key != "files"} for point in result["points"]]
    return {**result, "points": points, "files": None}


def make_runs(home: Path) -> None:
    """Write the runs, beside the files of :func:`file_kinds.make_home`."""
    makers: dict[str, Callable[[Path], Any]] = {
        "front": lambda out: run(
            SearchConfig.model_validate(
                CONFIG | {"strategy": "solve", "front": ["macs"], "init": "base", "weights": "weights.pt"}
            ),
            out,
            relative_to=home,
        ),
        "solved": lambda out: solve(home / "front", out, budget="macs<=0.4x..0.9x", points=3),
        "trained": lambda out: train(_short(TrainConfig, target="run/arch.json"), out, relative_to=home),
        "compared": lambda out: compare(
            _short(CompareConfig, target="run/arch.json", seeds=1, randoms=1), out, relative_to=home
        ),
    }
    for name, make in makers.items():
        shutil.rmtree(home / name, ignore_errors=True)
        make(home / name)
    genotype = PUBLISHED["darts_v2"]
    genotype.save(home / "genotype.json")
    (home / "genotype.txt").write_text(genotype.text())


def _short(schema: Any, **values: Any) -> Any:
    return schema.model_validate({"data": "images.npz", "batch_size": 16, "epochs": 1, "augment": "none", **values})
