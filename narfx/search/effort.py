"""How many images the evaluations at the end of a search take."""

from __future__ import annotations

from dataclasses import dataclass

from narfx.tasks.task import Task

__all__ = ["Effort"]


@dataclass(frozen=True)
class Effort:
    """Images of one evaluation: for BatchNorm's statistics, to choose by (``val``) and to judge by (``test``)."""

    calibration: int
    val: int
    test: int

    @classmethod
    def whole(cls, task: Task) -> Effort:
        """All validation and test images, and as many for statistics as the task takes."""
        test = 0 if task.data.test is None else len(task.data.test)
        return cls(task.calibration_images, len(task.data.val), test)

    def images(self, part: str) -> int:
        """The images of a part, ``val`` or ``test``."""
        return self.val if part == "val" else self.test

    def calibration_batches(self, size: int) -> int:
        """How many batches of this size the statistics are averaged over."""
        return max(self.calibration // size, 1)
