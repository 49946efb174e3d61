"""How fast networks converge that are trained alike: loss against steps (Shu, Wang and Cai, arXiv 1909.09569)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from narfx.analysis.drawing import Panel, draw_panels
from narfx.analysis.instrument import Instrument, Opened, open_alike
from narfx.analysis.spread import spread
from narfx.errors import RunError
from narfx.runs.events import Epoch
from narfx.runs.folder import RunFolder
from narfx.runs.progress import Reporter
from narfx.support.differences import over_seeds
from narfx.support.text import count
from narfx.tasks.task import Task
from narfx.training.fit import AfterEpoch
from narfx.training.method import method_facts
from narfx.verbs.alike import AlikeConfig, Trainee, Training, estimate_alike, train_alike

__all__ = ["converge", "estimate_convergence", "resume_convergence"]

_WINDOWS = 60
"""At most so many points has a curve of the training loss; each is the mean over equally many steps."""
Values = NDArray[np.float64]


def converge(
    config: AlikeConfig,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
    relative_to: Path | None = None,
) -> dict[str, Any]:
    """Train every network with every seed, and compare how fast the loss falls.

    Returns:
        ``{"data", "part", "seeds", "epochs", "steps", "window", "level", "networks", "verdict", "files"}``. Of each
        network: ``name``, ``target``, ``params``, ``macs``, ``train`` and the ``part``'s name with ``steps``, ``loss``
        (means over seeds) and ``standard_error``; and as ``{"mean", "standard_error", "by_seed"}``: ``mean_loss`` (of
        training, over all steps; it is the area under the curve), ``steps_to_level`` (the first step at which the mean
        training loss of a window is at most ``level``, the loss that the slowest network and seed reaches),
        ``mean_part_loss`` (on the part, over the ends of the epochs), ``final_loss`` and ``final_accuracy`` on the
        part; and ``against_first``: by how much the ``mean_loss`` (``train``) and the ``mean_part_loss`` (``part``) are
        below those of the first network, paired over seeds.

    Raises:
        UsageError: A network, the data or an option is wrong; ``out`` is not touched.
        RunError: The loss became NaN or the machine ran out of memory or disk; the last checkpoint is kept.
        InterruptedRunError: Ctrl-C.
    """
    return _INSTRUMENT.begin(
        config, Path(out), device=device, overwrite=overwrite, reporter=reporter, start=relative_to
    )


def resume_convergence(
    out: Path | str, *, device: str = "auto", previous: bool = False, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Go on with the run in ``out``; arguments and errors as for :func:`converge`."""
    return _INSTRUMENT.resume(Path(out), device=device, previous=previous, reporter=reporter)


def estimate_convergence(
    config: AlikeConfig, *, device: str = "auto", relative_to: Path | None = None
) -> dict[str, Any]:
    """Check a run and measure how long it takes; nothing is written.

    Returns:
        ``{"dry_run": True, "estimate": {"seconds", "trainings", "epochs"}, "message"}``; errors as for the run.
    """
    return estimate_alike("convergence", config, _open(config, device, relative_to).networks)


def _open(config: AlikeConfig, device: str, start: Path | None) -> Opened[Trainee]:
    wanted = [(name, target, False) for name, target in zip(config.names, config.targets, strict=True)]
    return open_alike(config, wanted, device, start)


def _part(task: Task) -> str:
    return "val" if task.data.test is None else "test"


def _look(task: Task, _: int) -> AfterEpoch:
    """The loss of each step, and the loss and the accuracy on images that were not trained on."""

    def look(network: nn.Module, epoch: int, losses: Sequence[float]) -> Mapping[str, Any]:
        network.eval()
        found = task.evaluate(network, _part(task))
        if not math.isfinite(found["loss"]):
            raise RunError(
                f"the loss on the {_part(task)} images became {found['loss']} after epoch {epoch}: lower the learning "
                "rate (--lr)",
                kind="nan_loss",
            )
        return {"losses": list(losses), "evaluated": found}

    return look


def _measure(
    config: AlikeConfig, trainees: Sequence[Trainee], folder: RunFolder, reporter: Reporter
) -> dict[str, Any]:  # fmt: skip
    trained = [train_alike(config, trainee, _look, folder, reporter) for trainee in trainees]
    return {**_summary(config, trainees, trained), **method_facts(config)}


def _summary(
    config: AlikeConfig, trainees: Sequence[Trainee], trained: Sequence[Sequence[Training]]
) -> dict[str, Any]:  # fmt: skip
    task = trainees[0].task
    steps = config.epochs * task.steps_per_epoch
    window = -(-steps // _WINDOWS)
    # (networks, seeds, windows)
    curves = np.array([[_windows(training.epochs, window) for training in network] for network in trained])
    level = float(curves.min(2).max())
    judged = np.array([[_of_part(training) for training in network] for network in trained])
    networks = []
    for index, (trainee, network) in enumerate(zip(trainees, trained, strict=True)):
        ends, curve = [training.metrics[_part(task)] for training in network], curves[index]
        areas = {"train": curves.mean(2), "part": judged.mean(2)}
        entry = {
            **trainee.describe(),
            "train": {"steps": _ends(steps, window), **_curve(curve)},
            _part(task): {"steps": _ends(steps, task.steps_per_epoch), **_curve(judged[index])},
            "mean_loss": spread(areas["train"][index]),
            "mean_part_loss": spread(areas["part"][index]),
            "steps_to_level": spread([(int(np.argmax(row <= level)) + 1) * window for row in curve]),
            "final_loss": spread([end["loss"] for end in ends]),
            "final_accuracy": spread([end["accuracy"] for end in ends]),
            "against_first": {
                key: over_seeds(list(-area[index]), [list(-area[0])]).to_json() for key, area in areas.items()
            } if index else None,
        }  # fmt: skip
        networks.append(entry)
    return {
        "data": task.data.short_name,
        "part": _part(task),
        "metric": task.metric,
        "seeds": config.seeds,
        "epochs": config.epochs,
        "steps": steps,
        "window": window,
        "level": level,
        "networks": networks,
        "verdict": "\n".join(_verdicts(networks, _part(task), config.seeds)),
    }


def _verdicts(networks: Sequence[Mapping[str, Any]], part: str, seeds: int) -> Iterable[str]:
    first = networks[0]["name"]
    for entry in networks[1:]:
        found = entry["against_first"]
        words = {"better": "converges faster than", "worse": "converges more slowly than"}
        said = words.get(found["train"]["verdict"], "is not told apart from")
        yield (
            f"{entry['name']} {said} {first}: its training loss, the mean over all steps, is {_less(found['train'])}; "
            f"its {part} loss, the mean over epochs, is {_less(found['part'])}; paired over {count(seeds, 'seed')}"
        )


def _less(found: Mapping[str, Any]) -> str:
    error = "" if found["standard_error"] is None else f" ± {found['standard_error']:.4f}"
    return f"{abs(found['difference']):.4f}{error} {'lower' if found['difference'] >= 0 else 'higher'}"


def _of_part(training: Training) -> list[float]:
    """The loss on the part after each epoch."""
    return [epoch.more["evaluated"]["loss"] for epoch in training.epochs]


def _windows(epochs: Sequence[Epoch], window: int) -> Values:
    """The mean training loss of each window of steps; the last one may be shorter."""
    losses = np.array([loss for epoch in epochs for loss in epoch.more["losses"]], dtype=float)
    return np.array([losses[start : start + window].mean() for start in range(0, len(losses), window)])


def _ends(steps: int, window: int) -> list[int]:
    """The last step of each window."""
    return [min(start + window, steps) for start in range(0, steps, window)]


def _curve(values: Values) -> dict[str, Any]:
    """Mean over seeds, and its standard error, of values (seeds, points)."""
    seeds = len(values)
    error = values.std(0, ddof=1) / math.sqrt(seeds) if seeds > 1 else None
    return {"loss": values.mean(0).tolist(), "standard_error": None if error is None else error.tolist()}


def _panels(result: Mapping[str, Any]) -> list[Panel]:
    labels = {"train": "training loss", result["part"]: f"{result['part']} loss"}
    return [
        Panel(
            label,
            {entry["name"]: (entry[key]["steps"], entry[key]["loss"]) for entry in result["networks"]},
            errors={
                entry["name"]: entry[key]["standard_error"]
                for entry in result["networks"]
                if entry[key]["standard_error"] is not None
            },
        )
        for key, label in labels.items()
    ]


def _draw(result: Mapping[str, Any]) -> Mapping[str, bytes]:
    return draw_panels(_panels(result), "step")


_INSTRUMENT = Instrument(
    "convergence", AlikeConfig, {kind: f"convergence.{kind}" for kind in ("png", "svg")}, _open, _measure, _draw
)
