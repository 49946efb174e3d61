"""How good the kept vector of a search is, compared with random vectors and with MACs alone, on images not used before.

The images that chose a vector favour it, and so does being the best of several. So the verdict is made on the test
part (:meth:`~narfx.data.image_data.ImageData.with_test`), paired over its images, with a standard error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narfx.space.metrics import metric
from narfx.space.records import Vector
from narfx.space.sampling import EQUAL, WindowSampler
from narfx.space.solver import best_vectors
from narfx.space.space import SearchSpace
from narfx.support.differences import Difference, over_images
from narfx.support.text import count

__all__ = ["RIGHT", "Judgement", "most_macs", "packed"]

RIGHT = "right"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Judgement:
    """Accuracies on ``images`` that chose nothing, and differences of the kept vector from the others.

    ``part`` says which images these are, ``costs`` in which costs the random vectors are equal to the kept one. Without
    images there are no accuracies and no differences, without random vectors none from these.
    """

    part: str
    images: int
    costs: tuple[str, ...]
    randoms: int
    dearest: Record
    accuracy: float | None = None
    random_accuracies: tuple[float, ...] = ()
    dearest_accuracy: float | None = None
    from_random: Difference | None = None
    from_dearest: Difference | None = None

    @classmethod
    def of(
        cls,
        kept: Record,
        randoms: Sequence[Record],
        dearest: Record,
        *,
        costs: tuple[str, ...],
        images: int,
        part: str,
    ) -> Judgement:
        """From the records of evaluated vectors; where there are images, all hold what is ``RIGHT``."""
        described = {key: dearest[key] for key in ("vector", "skips", "macs") if key in dearest}
        if not images:
            return cls(part, images, costs, len(randoms), described)
        own, top = unpacked(kept[RIGHT], images), unpacked(dearest[RIGHT], images)
        others = [unpacked(record[RIGHT], images) for record in randoms]
        same = all(kept.get(key) == value for key, value in described.items())
        return cls(
            part,
            images,
            costs,
            len(randoms),
            described,
            float(own.mean()),
            tuple(float(right.mean()) for right in others),
            float(top.mean()),
            over_images(own, others) if others else None,
            None if same else over_images(own, [top]),
        )

    def to_json(self) -> dict[str, Any]:
        """``part``, ``images``, ``accuracy``; ``random`` and ``macs_alone`` are compared with the kept vector."""
        mean = float(np.mean(self.random_accuracies)) if self.random_accuracies else None
        return {
            "part": self.part if self.images else None,
            "images": self.images,
            "accuracy": self.accuracy,
            "random": {
                "vectors": self.randoms,
                "equal": list(self.costs),
                "accuracy": mean,
                **_numbers(self.from_random),
            },
            "macs_alone": {**self.dearest, "accuracy": self.dearest_accuracy, **_numbers(self.from_dearest)},
        }

    def __str__(self) -> str:
        equal = " and ".join(metric(name).words for name in self.costs)
        if not self.images:
            return (
                "no verdict: there is no image that did not choose the kept vector; give a test part, or at least two "
                "validation images of a class"
            )
        several = f"the mean of {count(self.randoms, 'random vector')} of equal {equal}"
        if self.from_random is None:
            first = f"no other vector has equal {equal} (at most {EQUAL:.0%} less), so none is compared with"
        else:
            first = self.from_random.than(several)
        if self.from_dearest is None:
            second = "MACs alone pick the same vector"
        else:
            second = self.from_dearest.than("the vector that MACs alone pick")
        return (
            f"kept vector: {first}; {second}; on {count(self.images, 'image')} that did not choose ({self.part}), by "
            "shared weights, which the search trained on its own vectors: narfx compare trains each network alone"
        )


def packed(right: NDArray[np.bool_]) -> str:
    """Which images are classified right, as hexadecimal digits."""
    return np.packbits(right).tobytes().hex()


def unpacked(text: str, images: int) -> NDArray[np.bool_]:
    """The inverse of :func:`packed`."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=images).astype(bool)


def most_macs(space: SearchSpace, rng: np.random.Generator) -> Vector:
    """The vector of most MACs within the budget, which is what MACs alone would pick; a tie is drawn at random."""
    costs = {(i, k): -float(slot.costs["macs"][k]) for i, slot in enumerate(space.slots) for k in slot.legal}
    top = best_vectors(space, costs)[0]
    macs = space.cost(top)["macs"]
    return WindowSampler(space, "macs", macs, macs).draw(rng, space.feasible) or top


def _numbers(difference: Difference | None) -> dict[str, Any]:
    return {"difference": None, "standard_error": None, "verdict": None} if difference is None else difference.to_json()
