"""Gradient confusion of networks over a short training, and the search network that matches a target's.

The gradients of two minibatches conflict where their inner product is negative. Sankararaman et al. (arXiv 1904.06963)
bound it: eta >= 0 with <g_i, g_j> >= -eta for all pairs. StacNAS (arXiv 1909.11926) looks at the smallest cosine of 100
pairs of minibatches after each epoch. Here the *confusion* is minus that smallest cosine, so it is at most 1, and it
may be negative where no pair conflicts, so that such networks can be told apart too.

A search network matches the target best where the mean over epochs of the absolute difference of their confusions is
smallest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from narfx.analysis.confusion_plots import plot_confusion
from narfx.analysis.instrument import Instrument, Opened, open_alike
from narfx.analysis.spread import spread
from narfx.data.image_data import Batch
from narfx.errors import UsageError
from narfx.graph.batchnorm import batch_statistics
from narfx.inputs.reference import ModelRef, is_file_name
from narfx.runs.folder import RunFolder
from narfx.runs.progress import Reporter
from narfx.support.path_fields import ModelReference
from narfx.support.seeds import derive
from narfx.support.text import count
from narfx.tasks.task import Task
from narfx.training.fit import AfterEpoch
from narfx.training.gradients import agreement
from narfx.training.method import method_facts
from narfx.verbs.alike import AlikeConfig, Trainee, Training, estimate_alike, train_alike

__all__ = ["ConfusionConfig", "confuse", "estimate_confusion", "resume_confusion"]

_BINS = 40


class ConfusionConfig(AlikeConfig):
    """Networks whose confusion is measured, and the one that they shall match.

    With ``depths`` there is one target, which is taken at each depth: its argument ``depth_argument`` gets that value.
    ``mixture`` makes supernets of the targets: every site computes the mean of its legal operators. ``target`` is the
    final network; it is no mixture. ``pairs`` are pairs of minibatches after each epoch.
    """

    depths: tuple[int, ...] = ()
    depth_argument: str = "cells"
    mixture: bool = False
    target: ModelReference | None = None
    pairs: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _one_at_each_depth(self) -> ConfusionConfig:
        if self.depths and len(self.targets) != 1:
            raise ValueError(f"--depths takes one MODEL at each depth, and there are {len(self.targets)}: name one")
        if len(set(self.depths)) != len(self.depths) or any(depth < 1 for depth in self.depths):
            raise ValueError("--depths are different whole numbers from 1 on")
        return self

    def proxies(self) -> list[tuple[str, str, int | None]]:
        """The networks without the final one: name, reference, and depth where ``depths`` gives one."""
        if not self.depths:
            return [(name, target, None) for name, target in zip(self.names, self.targets, strict=True)]
        ref = ModelRef.parse(self.targets[0])
        return [
            (
                f"{self.names[0]}-{self.depth_argument}-{depth}",
                str(replace(ref, arguments={**ref.arguments, self.depth_argument: depth})),
                depth,
            )
            for depth in self.depths
        ]


def confuse(
    config: ConfusionConfig,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
    relative_to: Path | None = None,
) -> dict[str, Any]:
    """Train every network with every seed, and measure its confusion after each epoch.

    Minibatches are those of the training, augmented alike; a pair has no image in common. BatchNorm takes the
    statistics of the batch, as in training, and keeps nothing; dropout is off.

    Returns:
        ``{"data", "pairs", "batch_size", "seeds", "epochs", "networks", "target", "chosen", "verdict", "files"}``. Of
        each network: ``name``, ``target``, ``depth``, ``mixture``, ``params``, ``macs``, ``smallest_inner`` (the
        smallest inner product of a pair), ``density`` (``edges`` and ``share`` of the cosines after the last epoch),
        and ``{"mean", "standard_error", "by_seed"}`` of ``confusion`` and ``mean_cosine`` (means over epochs), and of
        the ``distance`` from the target where there is one; ``confusion_by_epoch`` (seeds, epochs). ``chosen`` is the
        name of the network with the smallest mean distance; of equal ones the first.

    Raises:
        UsageError: A network, the data or an option is wrong; ``out`` is not touched.
        NothingToRefineError: A network that shall be a mixture has no site with a choice.
        RunError: The loss became NaN or the machine ran out of memory or disk; the last checkpoint is kept.
        InterruptedRunError: Ctrl-C.
    """
    return _INSTRUMENT.begin(
        config, Path(out), device=device, overwrite=overwrite, reporter=reporter, start=relative_to
    )


def resume_confusion(
    out: Path | str, *, device: str = "auto", previous: bool = False, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Go on with the run in ``out``; arguments and errors as for :func:`confuse`."""
    return _INSTRUMENT.resume(Path(out), device=device, previous=previous, reporter=reporter)


def estimate_confusion(
    config: ConfusionConfig, *, device: str = "auto", relative_to: Path | None = None
) -> dict[str, Any]:
    """Check a run and measure how long it takes; nothing is written.

    Returns:
        ``{"dry_run": True, "estimate": {"seconds", "trainings", "epochs"}, "message"}``; errors as for the run.
    """
    trainees = _open(config, device, relative_to).networks
    # A pair is two gradients, each of which takes as long as a step.
    more = 2 * config.pairs / trainees[0].task.steps_per_epoch
    besides = f", and {count(config.pairs, 'pair')} of minibatches after each"
    return estimate_alike("confusion", config, trainees, more=more, besides=besides)


def _open(config: ConfusionConfig, device: str, start: Path | None) -> Opened[Trainee]:
    """All networks, the final one last."""
    found = next((target for target in config.targets if is_file_name(target, ".json")), None)
    if found is not None and (config.depths or config.mixture):
        raise UsageError(
            f"--{'depths' if config.depths else 'mixture'} needs a MODEL, and {found} is the architecture of one: give "
            "its model, as in narfx:darts_search?channels=16",
            where=found,
            kind="model_reference",
        )
    wanted = [(name, target, config.mixture) for name, target, _ in config.proxies()]
    if config.target is not None:
        wanted.append(("target", config.target, False))
    if len({name for name, _, _ in wanted}) != len(wanted):
        raise UsageError("a network is called target, as the one to match: give it another name", kind="network_name")
    opened = open_alike(config, wanted, device, start)
    task = opened.networks[0].task
    if len(task.data.train) < 2 * task.batch_size:
        raise UsageError(
            f"a pair needs two minibatches, and there are {count(len(task.data.train), 'training image')} for batches "
            f"of {task.batch_size}: use a smaller --batch-size",
            where="--batch-size",
            kind="batch_size",
        )
    return opened


def _pairs(task: Task, seed: int, epoch: int) -> Iterator[tuple[Batch, Batch]]:
    """Pairs of minibatches without end; those of one pass have no image in common."""
    number = 0
    while True:
        batches = iter(task.train_batches(derive(seed, "pairs", epoch, number)))
        yield from zip(batches, batches, strict=False)
        number += 1


def _look(task: Task, seed: int, *, pairs: int) -> AfterEpoch:
    """The cosines and the smallest inner product of pairs of minibatches."""

    def look(network: nn.Module, epoch: int, _: Sequence[float]) -> Mapping[str, Any]:
        with batch_statistics(network), torch.random.fork_rng(devices=[]):
            drawn = zip(range(pairs), _pairs(task, seed, epoch), strict=False)
            found = [agreement(network, task.objective, *pair) for _, pair in drawn]
        return {"cosines": [each.cosine for each in found], "smallest_inner": min(each.inner for each in found)}

    return look


def _measure(
    config: ConfusionConfig, trainees: Sequence[Trainee], folder: RunFolder, reporter: Reporter
) -> dict[str, Any]:  # fmt: skip
    look = partial(_look, pairs=config.pairs)
    entries = [_entry(t, train_alike(config, t, look, folder, reporter)) for t in trainees]
    return {**_summary(config, trainees[0].task, entries), **method_facts(config)}


def _entry(trainee: Trainee, trained: Sequence[Training]) -> dict[str, Any]:
    # (seeds, epochs, pairs)
    cosines = np.array([[epoch.more["cosines"] for epoch in training.epochs] for training in trained])
    edges = np.linspace(-1, 1, _BINS + 1)
    shares = np.histogram(np.clip(cosines[:, -1], -1, 1), edges)[0] / cosines[:, -1].size
    confusions = -cosines.min(2)
    return {
        **trainee.describe(),
        "confusion": spread(confusions.mean(1)),
        "confusion_by_epoch": confusions.tolist(),
        "mean_cosine": spread(cosines.mean((1, 2))),
        "smallest_inner": min(epoch.more["smallest_inner"] for training in trained for epoch in training.epochs),
        "density": {"edges": edges.tolist(), "share": shares.tolist()},
    }


def _summary(config: ConfusionConfig, task: Task, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    proxies, final = (entries[:-1], entries[-1]) if config.target is not None else (entries, None)
    for (_, _, depth), entry in zip(config.proxies(), proxies, strict=True):
        entry |= {"depth": depth, "mixture": config.mixture}
    chosen, verdict = None, ""
    if final is not None:
        wanted = np.array(final["confusion_by_epoch"])
        for entry in proxies:
            entry["distance"] = spread(np.abs(np.array(entry["confusion_by_epoch"]) - wanted).mean(1))
        best = min(proxies, key=lambda entry: entry["distance"]["mean"])
        chosen = best["name"]
        what = f"{config.depth_argument}={best['depth']}" if best["depth"] is not None else chosen
        verdict = f"chosen: {what}, whose confusion differs least from the target's ({best['distance']['mean']:.4f})"
    return {
        "data": task.data.short_name,
        "pairs": config.pairs,
        "batch_size": config.batch_size,
        "seeds": config.seeds,
        "epochs": config.epochs,
        "networks": list(proxies),
        "target": final,
        "chosen": chosen,
        "verdict": verdict,
    }


_INSTRUMENT = Instrument(
    "confusion", ConfusionConfig, {kind: f"confusion.{kind}" for kind in ("png", "svg")}, _open, _measure,
    plot_confusion,
)  # fmt: skip
