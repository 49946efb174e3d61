"""What a person reads of a search while it runs: one line an epoch, made from the events of the run."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from narfx.runs.events import Distilled, Event, Saved, Scored, StageBegan, Step, Weights
from narfx.runs.progress import Reporter
from narfx.search.stages import Stage

__all__ = ["EpochLines"]


class EpochLines:
    """A subscriber that says the loss of each epoch and the means of its steps, once its checkpoint is written."""

    def __init__(self, reporter: Reporter, stages: Sequence[Stage]) -> None:
        self._reporter, self._stages = reporter, len(stages)
        self._labels = [
            label
            for stage in stages
            for label in [f", {stage.preparation.label}"] * stage.preparation.epochs + [""] * stage.epochs
        ]
        self._weights: list[Weights | Distilled] = []
        self._steps: list[Step] = []
        self._started = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, (Weights, Distilled)):
            self._weights.append(event)
        elif isinstance(event, Step):
            self._steps.append(event)
        elif isinstance(event, Scored):
            self._reporter.say(
                f"epoch {event.epoch}/{len(self._labels)}: {event.vectors} architectures measured on {event.images} "
                "training images"
            )
        elif isinstance(event, StageBegan):
            size = math.prod(map(len, event.legal or ()))
            self._reporter.say(f"stage {event.stage}/{self._stages}: strategy {event.strategy}, {size:.3g} vectors")
        elif isinstance(event, Saved):
            self._say()
            self._weights, self._steps, self._started = [], [], time.monotonic()

    def _say(self) -> None:
        numbers = [event.epoch for event in self._weights] + [event.epoch for event in self._steps]
        epoch = next((number for number in numbers if number is not None), None)
        if epoch is None:
            return
        losses = [event.loss for event in self._weights if event.loss is not None]
        means = {"loss": losses, **{key: self._metric(key) for key in ("reward", "entropy")}}
        shown = ", ".join(f"{key} {sum(values) / len(values):.4f}" for key, values in means.items() if values)
        seconds = time.monotonic() - self._started
        self._reporter.say(f"epoch {epoch}/{len(self._labels)}: {shown}{self._labels[epoch - 1]} ({seconds:.0f} s)")

    def _metric(self, key: str) -> list[float]:
        return [value for step in self._steps if isinstance(value := step.more.get(key), float)]
